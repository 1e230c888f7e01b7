"""A workdir is bound to some fields of its configuration; the others may change."""

import json

import pytest
from bindings import begin, bound_fields, chain, check_bound, claim, config

from rtda_jax.data.labels import define
from rtda_jax.errors import ConfigError
from rtda_jax.run import binding, log
from rtda_jax.run.options import only
from rtda_jax.run.workdir import write_json
from rtda_jax.stages import KINDS


@pytest.fixture
def trained(tmp_path):
    claim(tmp_path, config())
    begin(tmp_path, "train")
    return tmp_path


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"optim__g_lr": 0.5}, "optim.g_lr: 0.025 there, 0.5 now (stage train)"),
        ({"objective__minent": 0.1}, "objective.minent: 0.0 there, 0.1 now"),
        ({"seed": 1}, "seed: 0 there, 1 now"),
        ({"batch_size": 8}, "batch_size: 4 there, 8 now"),
        ({"steps": 300}, "steps: 400 there, 300 now"),
        ({"benchmark__crop": [32, 64]}, "benchmark.crop: [64, 128] there, [32, 64] now"),
        ({"benchmark__target__split": "camera_val"}, "benchmark.target.split: 'camera_train' "),
        ({"benchmark__classes": "camvid11"}, "benchmark.classes: 'cityscapes19' there"),
        # Fields whose names begin like those of a free field or group are not free.
        ({"pseudo_labels": "x"}, "pseudo_labels: '' there, 'x' now"),
        ({"benchmark__evaluation": 1}, "benchmark.evaluation: 'absent' there, 1 now"),
        ({"threads_per_image": 1}, "threads_per_image: 'absent' there, 1 now"),
        ({"data_dirs": 1}, "data_dirs: 'absent' there, 1 now"),
        ({"evaluation": 1}, "evaluation: 'absent' there, 1 now"),
        ({"model__pretrained": "/a/other.pth"}, "model.pretrained: '' there, 'other.pth' now"),
        ({"model__options": {"width": 2}}, "model.options.width: 'absent' there, 2 now"),
    ],
)
def test_what_was_trained_is_bound(trained, fields, words):
    before = (trained / "config.json").read_bytes()
    with pytest.raises(ConfigError, match="holds a run of another configuration") as raised:
        claim(trained, config(**fields))
    assert words in str(raised.value)
    assert (trained / "config.json").read_bytes() == before
    assert (trained / "train" / "done.json").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"eval__mode": "slide"},
        {"eval__window": [32, 32], "eval__scales": [0.5, 1.0], "eval__pictures": 0},
        {"benchmark__eval__split": "camera_train", "benchmark__eval_size": [48, 96]},
        {"benchmark__eval_classes": "synthia13", "benchmark__source_eval": None},
        {"benchmark__target_labelled": None},
        {"pseudo__cut": 0.9, "statistics__batches": 3},
        {"log_every_steps": 1, "checkpoint_every_steps": 1, "checkpoint_keep": 9, "threads": 1},
        {"loggers": ["tensorboard"], "on_not_finite": "skip", "stall_seconds": 0.0},
        {"data_dir": "/elsewhere", "cache_gib": 1.0},
        {"benchmark__steps": 7, "benchmark__batch_size": 7, "benchmark__g_lr": 7.0},
        {"speed__rounds": 9},
    ],
)
def test_what_only_watches_or_evaluates_may_change(trained, fields):
    changed = config(**fields)
    assert claim(trained, changed) == []
    assert json.loads((trained / "config.json").read_text()) == changed
    assert (trained / "train" / "done.json").exists()


def test_more_evaluate_stages_may_come_and_stages_may_go(trained):
    more = config(stages=["train", "evaluate", "again"])
    more["stage"]["again"] = {"kind": "evaluate", "models": ["train"]}
    assert claim(trained, more) == []
    assert claim(trained, config(stages=["train"])) == []
    assert claim(trained, config(stages=["evaluate"])) == []
    with pytest.raises(ConfigError, match=r"optim\.g_lr"):  # the data are remembered without them
        claim(trained, config(optim__g_lr=0.5))


def test_an_experiment_of_other_stages_does_not_take_the_place_of_a_trained_one(trained):
    other = config(stages=["beta_001"])
    other["stage"]["beta_001"] = {"kind": "train"}
    with pytest.raises(ConfigError, match="of other stages: train there, beta_001 now"):
        claim(trained, other)
    assert json.loads((trained / "config.json").read_text()) == config()


def test_a_train_stage_may_be_given_more_steps(trained):
    (note,) = claim(trained, config(steps=800))
    assert note == (
        "[train] is given 800 steps instead of 400; from here on its learning rate follows the "
        "schedule of 800 steps"
    )
    assert not (trained / "train" / "done.json").exists()
    assert claim(trained, config(steps=800)) == []
    # No step was saved since, so that the finished network is still there.
    for step in (400, 450):
        log.append(trained / "train" / log.METRICS_FILE, {"step": step})
    assert claim(trained, config()) == ["[train] goes back to its 400 finished steps"]
    assert json.loads((trained / "train" / "done.json").read_text()) == {"step": 400}
    assert log.read(trained / "train" / log.METRICS_FILE) == [{"step": 400}]
    claim(trained, config(steps=800))
    (trained / "train" / "checkpoints" / "500").mkdir()
    with pytest.raises(ConfigError, match="steps: 800 there, 400 now"):
        claim(trained, config())
    with pytest.raises(ConfigError, match="steps: 800 there, 500 now"):
        claim(trained, config(steps=500))


def test_steps_are_bound_where_a_later_stage_began_with_the_result(tmp_path):
    claim(tmp_path, chain())
    begin(tmp_path, "train", "labels")
    with pytest.raises(ConfigError, match=r"steps: 400 .*, 800 now; labels began with its result"):
        claim(tmp_path, chain(steps=800))
    assert (tmp_path / "train" / "done.json").exists()


def test_a_pseudo_label_stage_is_bound_to_what_it_reads_alone(tmp_path):
    claim(tmp_path, chain())
    begin(tmp_path, "labels")
    assert check_bound(tmp_path, chain(optim__g_lr=0.5, objective__pseudo=1.0)) == []
    with pytest.raises(ConfigError, match=r"pseudo\.cut: 0\.5 there, 0\.9 now \(stage labels\)"):
        check_bound(tmp_path, chain(pseudo__cut=0.9))
    with pytest.raises(ConfigError, match=r"benchmark\.target\.split"):
        check_bound(tmp_path, chain(benchmark__target__split="camera_val"))
    assert check_bound(tmp_path, chain(benchmark__eval__split="camera_train")) == []


def test_what_binds_a_stage_that_trains_nothing_is_what_it_reads():
    made = chain()
    made["stages"] = [*made["stages"], "measure", "evaluate"]
    made["stage"]["measure"] = {"kind": "statistics", "models": ["train"]}

    def groups(name):
        names = bound_fields(made, name)
        return {".".join(k.split(".")[: 2 if k.startswith("benchmark") else 1]) for k in names}

    images = {"benchmark.classes", "benchmark.size", "benchmark.resize", "benchmark.target"}
    assert groups("labels") == {"kind", "models", "pseudo", *images}
    assert groups("measure") == {
        *("kind", "models", "statistics", "seed", "batch_size"),
        *images,
    }
    assert groups("evaluate") == set()
    made["stage"]["labels"]["pseudo"] = {"split": "eval"}
    assert groups("labels") - {"kind", "models", "pseudo"} == images - {"benchmark.target"} | {
        "benchmark.eval"
    }


@pytest.mark.parametrize("field", ["init", "taught_by", "models"])
def test_whatever_reads_a_network_binds_the_steps_of_its_stage(field, tmp_path):
    def made(**fields):
        chosen = config(stages=["train", "next"], **fields)
        reads = {"kind": "pseudo_label"} if field == "models" else {"kind": "train"}
        network = "train:teacher"
        chosen["stage"]["next"] = {**reads, field: [network] if field == "models" else network}
        return chosen

    claim(tmp_path, made())
    begin(tmp_path, "train", "next")
    with pytest.raises(ConfigError, match=r"steps: 400 .*, 800 now; next began with its result"):
        claim(tmp_path, made(steps=800))


def test_a_statistics_stage_has_the_fields_of_the_stage_it_changes(tmp_path):
    made = config(stages=["train", "measure"])
    made["stage"]["train"] = {"kind": "train", "batch_size": 7}
    made["stage"]["measure"] = {"kind": "statistics", "models": ["train"]}
    assert bound_fields(made, "measure")["batch_size"] == 7
    assert bound_fields(made, "measure")["kind"] == "statistics"


def test_a_new_kind_of_stage_says_itself_what_binds_it():
    """A new kind of stage needs only its line in the table of kinds."""
    made = config(stages=["train", "prune"])
    made["stage"]["prune"] = {"kind": "prune", "models": ["train"]}
    with pytest.raises(ConfigError, match=r"unknown kind 'prune'; known: evaluate, "):
        bound_fields(made, "prune")
    prune = binding.Traits(bound=lambda fields: only(fields, ("kind", "optim.g_lr")))
    fields = binding.bound_fields(made, "prune", {**KINDS, "prune": prune})
    assert fields == {"kind": "prune", "optim.g_lr": 0.025}


def test_the_fields_of_a_stage_are_those_it_overrides(tmp_path):
    made = config(stages=["train"])
    made["stage"]["train"] = {"kind": "train", "optim": {"g_lr": 0.3}}
    fields = bound_fields(made, "train")
    assert fields["optim.g_lr"] == 0.3
    assert fields["optim.d_lr"] == 1e-4


def test_the_labelled_target_is_bound_where_it_supervises(tmp_path):
    claim(tmp_path, config(labelled="target"))
    begin(tmp_path, "train")
    with pytest.raises(ConfigError, match=r"benchmark\.target_labelled"):
        claim(tmp_path, config(labelled="target", benchmark__target_labelled=None))


def test_a_run_that_has_not_begun_may_be_corrected(tmp_path):
    claim(tmp_path, config(benchmark__crop=[1, 1]))
    derived = [tmp_path / "train" / name for name in ("class_counts.npz", "class_weights.json")]
    for path in derived:
        path.touch()
    claim(tmp_path, config(benchmark__crop=[1, 1]))
    assert all(path.exists() for path in derived)
    assert claim(tmp_path, config(optim__g_lr=0.5)) == []
    assert not any(path.exists() for path in derived)
    begin(tmp_path, "train")
    with pytest.raises(ConfigError, match=r"optim\.g_lr: 0\.5 there, 0\.025 now"):
        claim(tmp_path, config())


def folders(place):
    places = ("images", "labels", "list", "quarantine", "store_dir")
    spec = {"name": "folders", **{field: f"{place}/{field}" for field in places}}
    spec["labelling"] = f"{place}/labels.json"
    return config(benchmark__source=dict(spec), model__pretrained=f"{place}/resnet18.pth")


def test_moved_files_are_no_other_configuration(tmp_path):
    claim(tmp_path, folders("/data"))
    begin(tmp_path, "train")
    assert claim(tmp_path, folders("/mnt/data")) == []


def own(*names, **definition):
    return config(benchmark__classes=define(names, **definition))


def test_of_own_classes_the_names_in_their_order_are_bound(tmp_path):
    claim(tmp_path, own("road", "sky", "car"))
    begin(tmp_path, "train")
    assert claim(tmp_path, own("road", "sky", "car", ignore=[9])) == []
    for other in (own("car", "road", "sky"), own("road", "sky", "bus"), config()):
        with pytest.raises(ConfigError, match=r"classes: \['road', 'sky', 'car'\] there, "):
            claim(tmp_path, other)


def test_the_path_of_own_classes_in_an_earlier_record_binds_nothing(tmp_path):
    write_json(tmp_path / "config.json", config(benchmark__classes="/data/labels.json"))
    begin(tmp_path, "train")
    assert claim(tmp_path, own("road", "sky")) == []
    with pytest.raises(
        ConfigError, match=r"classes: \['road', 'sky'\] there, \['sky', 'road'\] now"
    ):
        claim(tmp_path, own("sky", "road"))


def test_processes_need_not_agree_on_what_is_their_own():
    own = {"data_dir": "/here", "threads": 9, "cache_gib": 9.0, "stall_seconds": 9.0}
    assert binding.shared_fields(config(**own)) == binding.shared_fields(config())
    shared = binding.shared_fields(config())
    assert not own.keys() & shared.keys()
    assert binding.shared_fields(folders("/a")) == binding.shared_fields(
        {**folders("/b"), "model": folders("/a")["model"]}
    )
    for field in ("log_every_steps", "checkpoint_keep", "on_not_finite", "seed", "eval.mode"):
        assert field in shared


def test_a_workdir_of_an_earlier_release_is_bound_by_its_configuration(tmp_path):
    old = config()
    del old["objective"]["minent"]
    write_json(tmp_path / "config.json", old)
    begin(tmp_path, "train")
    with pytest.raises(ConfigError, match=r"optim\.g_lr: 0\.025 there, 0\.5 now"):
        claim(tmp_path, config(optim__g_lr=0.5))
    (note,) = claim(tmp_path, config(objective__minent=0.1))
    assert note == (
        "[train] began with an earlier release: objective.minent: 'absent' there, 0.1 now"
    )


NEW = {  # a field of every owner, with another value than its default
    "objective.minent": 0.1,
    "optim.accumulate": 2,
    "model.large": "bisenet_resnet101",
    "teacher.inconsistency": 0.5,
    "augment.draw": "run",
    "benchmark.source_resize": "bicubic",
    "rare_crops": 2,
}


@pytest.mark.parametrize("field", NEW)
def test_a_field_that_came_later_binds_nothing_until_it_is_changed(trained, field):
    path = trained / "train" / "bound.json"
    record = json.loads(path.read_text())
    record["fields"].pop(field, None)
    write_json(path, record)
    assert claim(trained, config()) == []
    write_json(path, record)
    changed = config(**{field.replace(".", "__"): NEW[field]})
    with pytest.raises(ConfigError, match=f"{field}: 'absent' there, {NEW[field]!r} now"):
        claim(trained, changed)
    assert claim(trained, config()) == []


def test_a_field_that_is_gone_is_refused(trained):
    path = trained / "train" / "bound.json"
    record = json.loads(path.read_text())
    record["fields"]["optim.momentum_of_old"] = 0.9
    write_json(path, record)
    with pytest.raises(ConfigError, match=r"optim\.momentum_of_old: 0\.9 there, 'absent' now"):
        claim(trained, config())


DAMAGED = [b"", b"[]", b"{", b'{"stages": 3}', b'{"stages": ["train"], "stage": {"train": 1}}']


@pytest.mark.parametrize("data", DAMAGED)
@pytest.mark.parametrize("name", ["config.json", "train/bound.json"])
def test_a_damaged_record_is_a_sentence(trained, name, data):
    (trained / "train" / "bound.json").unlink()
    (trained / name).write_bytes(data)
    with pytest.raises(ConfigError, match=name):
        claim(trained, config())


@pytest.mark.parametrize(
    "broken",
    [
        {"stages": 3},
        {"stage": []},
        {"stages": ["x"]},
        {"stages": [["x"]]},
        {"stages": ["a"], "stage": {"a": {}}},
    ],
)
def test_a_configuration_without_stages_is_refused(tmp_path, broken):
    with pytest.raises(ConfigError, match="stage"):
        claim(tmp_path, {**config(), **broken})
