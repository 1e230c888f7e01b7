"""A stage is bound to its data, wherever they lie."""

import pathlib
import shutil

import pytest
from bindings import begin
from helpers import folder_config, write_folders

from rtda_jax import experiment
from rtda_jax.data.dataset import fingerprint
from rtda_jax.errors import ConfigError
from rtda_jax.run import binding
from rtda_jax.run.workdir import write_json
from rtda_jax.stages import pseudo_label


class Images:
    def __init__(self, folder, keys):
        self.folder, self.keys = folder, keys

    def where(self, i):
        return str(self.folder / self.keys[i])


def images(folder, sizes):
    folder.mkdir(parents=True)
    for name, size in sizes.items():
        (folder / name).write_bytes(b"x" * size)
    return Images(folder, list(sizes))


def bind(stage, sets):
    binding.bind_data(stage, {role: fingerprint(each) for role, each in sets.items()})


def test_data_are_known_by_their_names_and_sizes_wherever_they_lie(tmp_path):
    sizes = {f"{n}.png": 10 + n for n in range(250)}
    here = images(tmp_path / "here", sizes)
    moved = images(tmp_path / "moved", sizes)
    renamed = images(tmp_path / "renamed", {f"x{name}": size for name, size in sizes.items()})
    other = images(tmp_path / "other", {name: size + 1 for name, size in sizes.items()})
    stage = tmp_path / "run" / "train"
    bind(stage, {"source": here})
    bind(stage, {"source": other})  # the stage has not begun
    bind(stage, {"source": here})
    begin(stage.parent, "train")
    bind(stage, {"source": moved, "target": other})
    bind(stage, {"source": here})  # the other role is remembered
    for changed in (renamed, other):
        with pytest.raises(ConfigError, match="began with another source set: 250 examples, "):
            bind(stage, {"source": changed, "target": other})
    with pytest.raises(ConfigError, match="another target set"):
        bind(stage, {"source": here, "target": here})


def test_an_empty_set_and_one_without_files_have_fingerprints(tmp_path):
    assert fingerprint(Images(tmp_path, [])).startswith("0 examples")
    assert fingerprint(Images(tmp_path, ["a\0", "b"])).startswith("2 examples")


@pytest.mark.usefixtures("tiny_networks")
def test_labels_are_not_continued_on_other_images(root, tmp_path, monkeypatch):
    """Their thresholds hold over the whole set, so that the files would have two kinds of them."""
    plan = experiment.checked_plan(folder_config(root, "ssl", pseudo__split="eval").lock())
    for function in ("load_network", "predictor"):
        monkeypatch.setattr(pseudo_label, function, lambda *_, **__: None)
    stage = tmp_path / "label"
    (stage / "labels").mkdir(parents=True)
    (stage / "labels" / "0.png").touch()
    write_json(stage / "data.json", {"eval": "9 examples, of which some were quarantined since"})
    with pytest.raises(ConfigError, match="label began with another eval set: 9 examples"):
        pseudo_label.run(plan, "label", tmp_path)


@pytest.mark.usefixtures("tiny_networks")
@pytest.mark.parametrize("store", ["files", "shards"])
def test_a_finished_run_is_not_told_that_it_had_other_data(tmp_path, store):
    write_folders(tmp_path / "data")
    config = folder_config(tmp_path / "data", "adabn", steps=1, benchmark__source__store=store)
    config.benchmark.source.store_dir, workdir = str(tmp_path / "shards"), tmp_path / "run"
    experiment.run(config, workdir)
    before = (workdir / "config.json").read_bytes()
    data = tmp_path / "data"
    write_folders(data / "more", count=5)
    for job in (experiment.run, experiment.reevaluate):
        for role, stage in (("source", "source_only"), ("target", "adabn")):
            other = config.copy_and_resolve_references()
            for field in ("images", "labels"):
                other.benchmark[role][field] = f"more/{role}/{field}"
            with pytest.raises(ConfigError, match=f"{stage} began with another {role} set"):
                job(other.lock(), workdir)
    assert (workdir / "config.json").read_bytes() == before
    shutil.move(data / "source", tmp_path / "elsewhere")
    experiment.run(config, workdir)  # finished stages need no files


@pytest.mark.usefixtures("tiny_networks")
def test_a_shorter_list_of_images_is_evaluated_again(tmp_path):
    write_folders(tmp_path / "data")
    config = folder_config(tmp_path / "data", "source_only", steps=1)
    listed = config.benchmark.eval.list = str(tmp_path / "val.txt")
    for count in (3, 2):
        pathlib.Path(listed).write_text("".join(f"{i:03d}.png\n" for i in range(count)))
        result = experiment.run(config, tmp_path / "run")
        assert result["stages"]["evaluate"]["images"] == count
