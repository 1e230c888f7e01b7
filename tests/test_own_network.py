"""The example of a network of one's own trains, and exports to ONNX."""

import importlib.util
import pathlib

import pytest
from helpers import SIZE

from rtda_jax import experiment
from rtda_jax.deploy import Networks, export, networks, publish
from rtda_jax.models import MODELS
from rtda_jax.run.command import load_config

EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "own_network.py"


@pytest.fixture
def trained(tmp_path):
    """The configuration of the example and a workdir with a run of two steps."""
    config = load_config(f"{EXAMPLE}:streets")
    config.benchmark.size = config.benchmark.crop = config.benchmark.eval_size = SIZE
    config.batch_size, config.steps, config.eval.validators = 2, 2, ()
    yield config, tmp_path / "run"
    MODELS.pop("own")


def test_it_trains_and_becomes_onnx(trained):
    config, workdir = trained
    assert experiment.run(config, workdir)["stages"]["evaluate"]["miou"] is not None
    chosen = networks.choose(config, workdir)
    assert chosen.networks == ("own",)
    also = ("onnx",) if importlib.util.find_spec("onnx") else ()
    about = export.run(chosen, out=workdir / "export", also=also)
    assert about["also"] == list(also)
    assert (workdir / "export" / "model.stablehlo").exists()


def test_its_published_folder_asks_for_the_file(trained, capsys):
    config, workdir = trained
    experiment.run(config, workdir)
    capsys.readouterr()
    publish.run(networks.choose(config, workdir), out=workdir / "published")
    assert "warning: own is no network of rtda_jax" in capsys.readouterr().out
    card = (workdir / "published" / "README.md").read_text()
    assert (
        "`own` is no network of rtda_jax. This command also needs `--config own_network.py:" in card
    )
    networks.check(config, workdir / "published")
    assert networks.choose(config, workdir / "published").networks == ("own",)


def test_only_networks_of_a_users_own_need_a_file(trained):
    chosen = Networks((), (), "evaluate", trained[1], trained[0], tuple(MODELS))
    assert publish.own_networks(chosen) == ["own"]
