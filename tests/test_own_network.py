"""The example of a network of one's own trains, and exports to ONNX."""

import functools
import importlib.util
import pathlib

import flax.linen as nn
import jax
import pytest
from helpers import SIZE, config

from rtda_jax import experiment
from rtda_jax.adapt import build
from rtda_jax.deploy import Networks, export, networks, publish
from rtda_jax.errors import ConfigError
from rtda_jax.models import MODELS
from rtda_jax.models.layers import Network
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


class Odd(Network):
    """A network whose outputs are those that `distort` makes of its scores."""

    distort: object = None

    @nn.compact
    def __call__(self, images, *, train=False):
        x = nn.Conv(self.num_classes, (1, 1))(images)
        return self.distort(x, train)


def dropped(x, train):
    return {"logits": nn.Dropout(0.5, deterministic=not train)(x)}


@pytest.mark.parametrize(
    ("distort", "message"),
    [
        (
            lambda x, train: x,
            r"model\.name: Odd returns .*; expected a mapping from names to arrays",
        ),
        (lambda x, train: {"scores": x}, r"term seg needs the output 'logits'; odd has: scores"),
        (
            lambda x, train: {"logits": x[..., :-3]},
            r"model\.name='odd': the output 'logits' is float32 \(2, 32, 64, 16\); expected floats "
            r"\(2, 32, 64, 19\), of the crop's size and the benchmark's 19 classes",
        ),
        (
            lambda x, train: {"logits": x.repeat(2, -1)},
            r"float32 \(2, 32, 64, 38\); expected floats",
        ),
        (lambda x, train: {"logits": x[:, ::4, ::4]}, r"float32 \(2, 8, 16, 19\); expected floats"),
        (lambda x, train: {"logits": x.argmax(-1)}, r"is int32 \(2, 32, 64\); expected floats"),
        (
            lambda x, train: {"logits": x.astype("int8")},
            r"is int8 \(2, 32, 64, 19\); expected floats",
        ),
        (
            lambda x, train: {"logits": x, "aux16": x[:, ::2]},
            r"'aux16' is float32 \(2, 16, 64, 19\)",
        ),
        (dropped, r"model\.name: Odd has a Dropout, which needs random keys"),
    ],
)
def test_outputs_that_do_not_fit_are_refused_before_anything_is_read(monkeypatch, distort, message):
    monkeypatch.setitem(MODELS, "odd", functools.partial(Odd, distort=distort))
    chosen = config(model__name="odd", objective__seg_aux32=0.0)
    if "aux16" not in message:
        chosen.objective.seg_aux16 = 0.0
    with pytest.raises(ConfigError, match=message):
        build.build(chosen)


def test_logits_that_only_an_evaluation_reads_have_to_fit_too(monkeypatch):
    def distort(x, train):
        return {"logits": x[..., 1:], "aux16": x}

    monkeypatch.setitem(MODELS, "odd", functools.partial(Odd, distort=distort))
    auxiliary = {"objective__seg": 0.0, "objective__seg_aux32": 0.0}
    with pytest.raises(ConfigError, match=r"the output 'logits' is float32 \(2, 32, 64, 18\)"):
        build.build(config(model__name="odd", **auxiliary))


def test_heads_that_no_term_reads_may_have_any_shape_and_scores_any_precision(monkeypatch):
    def distort(x, train):
        return {"logits": x.astype("bfloat16"), "aux16": x[:, ::4], "aux32": jax.numpy.int32(0)}

    monkeypatch.setitem(MODELS, "odd", functools.partial(Odd, distort=distort))
    silent = {"objective__seg_aux16": 0.0, "objective__seg_aux32": 0.0}
    build.build(config(model__name="odd", **silent))
