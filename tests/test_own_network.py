"""The example of a network of one's own trains, and exports to ONNX."""

import importlib.util
import pathlib

import pytest
from helpers import SIZE

from rtda_jax import experiment
from rtda_jax.deploy import export, networks
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
