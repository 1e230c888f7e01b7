"""The size of `folders` follows one's own images."""

import jax
import pytest
from absl import logging
from helpers import folder_fields, write_folders

from rtda_jax import experiment
from rtda_jax.cli import main
from rtda_jax.run.workdir import write_json
from rtda_jax.tools import environment


@pytest.fixture
def own_images(tmp_path, monkeypatch):
    """Returns a function from flags to the configuration that a run on one's own images has."""
    write_folders(tmp_path, size=(72, 128))
    configurations = []
    monkeypatch.setattr(experiment, "run", lambda config, _: configurations.append(config))
    for name in ("keep_freed_memory", "retire_holes_after_compilations"):
        monkeypatch.setattr(environment, name, lambda: None)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    monkeypatch.setattr(logging, "use_absl_handler", lambda: None)
    places = [f"--config.{field}={value}" for field, value in folder_fields(tmp_path).items()]

    def run(*words, config="fda:folders", places=places):
        assert main([f"--config={config}", f"--workdir={tmp_path / 'run'}", *places, *words]) == 0
        return configurations[-1]

    return run


def test_the_size_follows_ones_own_images(own_images, tmp_path, capfd):
    config = own_images()
    assert "images of 128x72 are read as 128x64; another size is set by" in capfd.readouterr().out
    benchmark = config.benchmark
    for name in ("size", "crop", "eval_size", "source_size", "source_crop"):
        assert benchmark[name] == (64, 128)
    assert (config.eval.window, config.eval.stride) == ((64, 128), (54, 107))
    assert own_images("--config.eval.window=32,32").eval.window == (32, 32)
    evaluated = own_images("--config.benchmark.eval_size=32,64").benchmark
    assert (evaluated.size, evaluated.eval_size) == ((64, 128), (32, 64))


def test_a_damaged_image_does_not_decide_the_size(own_images, tmp_path, capfd):
    """Leaves it to the jobs that read every image, such as check_data, to name all damaged ones."""
    images = sorted((tmp_path / "target" / "images").iterdir())
    images[0].write_bytes(b"")
    assert own_images().benchmark.size == (64, 128)
    places = [f"--config.{field}={value}" for field, value in folder_fields(tmp_path).items()]
    words = ["check_data", "--config=fda:folders", f"--workdir={tmp_path / 'checked'}", *places]
    assert main(words) == 0
    assert "target/images: 3 of 4 examples are usable" in capfd.readouterr().out
    for image in images:
        image.write_bytes(b"")
    assert own_images().benchmark.size == (256, 512)


def test_a_size_of_the_user_is_not_changed(own_images, tmp_path, capfd):
    assert own_images("--config.benchmark.size=32,64").benchmark.size == (32, 64)
    assert own_images("--config.benchmark.crop=32,64").benchmark.size == (256, 512)
    file = tmp_path / "mine.py"
    file.write_text(
        "from configs import fda\ndef get_config():\n    config = fda.get_config('folders')\n"
        "    config.benchmark.size = (96, 96)\n    return config\n"
    )
    assert own_images(config=str(file)).benchmark.size == (96, 96)
    assert "are read as" not in capfd.readouterr().out


def test_own_images_may_be_the_source_of_a_target_that_is_known(own_images, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from configs import base\n"
        "def get_config():\n    config = base.get_config('folders')\n"
        "    streets = {'name': 'streets', 'split': 'camera_train', 'use': 'unlabelled'}\n"
        "    config.benchmark.target = streets\n    return config\n"
    )
    source = f"--config.benchmark.source.images={tmp_path / 'source' / 'images'}"
    assert own_images(source, config=str(file), places=()).benchmark.size == (64, 128)


def test_a_run_that_has_begun_keeps_its_size(own_images, tmp_path, capfd):
    record = {"benchmark": {"name": "folders", "size": [256, 512]}}
    write_json(tmp_path / "run" / "config.json", record)
    assert own_images().benchmark.size == (64, 128)
    write_json(tmp_path / "run" / "train" / "done.json", {"step": 3})
    capfd.readouterr()
    assert own_images().benchmark.crop == (256, 512)
    assert "are read as" not in capfd.readouterr().out
