"""The example of a method of one's own: its change of colours, its view and its term are used."""

import functools
import json
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SIZE, batch, config, in_training, shrink, softmax

from rtda_jax import experiment
from rtda_jax.adapt import build, terms, views
from rtda_jax.adapt.step import make_train_step
from rtda_jax.augment import colour
from rtda_jax.errors import ConfigError
from rtda_jax.models import DISCRIMINATORS, create_discriminator
from rtda_jax.run.command import load_config

EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "own_method.py"


@pytest.fixture(autouse=True)
def tiny_networks(monkeypatch):
    shrink(monkeypatch)


@pytest.fixture
def chosen(monkeypatch):
    """The example's configuration at a tiny size; its entries of the tables go with the test."""
    for table, name in (
        (terms.TERMS, "agree"),
        (views.VIEWS, "dusk"),
        (views.PARTS, "dusk"),
        (colour.RECOLOURS, "darken"),
    ):
        monkeypatch.setitem(table, name, None)
    made = load_config(f"{EXAMPLE}:streets,weight=0.5")
    made.benchmark.size = made.benchmark.crop = made.benchmark.eval_size = SIZE
    made.batch_size, made.steps, made.log_every_steps, made.eval.validators = 4, 2, 1, ()
    return made


def numbered():
    made = batch()
    return {**made, "target_index": made["source_index"]}


def test_it_trains_and_says_so(chosen, tmp_path, capsys):
    assert experiment.run(chosen, tmp_path)["stages"]["evaluate"]["miou"] is not None
    rows = (tmp_path / "train" / "metrics.jsonl").read_text().splitlines()
    for row in map(json.loads, rows):
        assert row["agree"] > 0 < row["pull_dusk"]
        expected = row["seg"] + row["seg_aux16"] + row["seg_aux32"] + 0.5 * row["agree"]
        assert row["loss"] == pytest.approx(expected, rel=1e-5)
    said = capsys.readouterr().out.splitlines()[0]
    assert "0.5·agree" in said and said.endswith("inputs dusk")


def test_loading_it_twice_changes_nothing(chosen):
    assert list(views.PARTS)[-1] == list(views.VIEWS)[-1] == "dusk"
    again = load_config(f"{EXAMPLE}:streets,weight=0.5")
    assert again.objective == chosen.objective
    assert list(views.PARTS).count("dusk") == 1


def test_the_view_is_dark_and_normalised_and_the_term_is_its_formula(chosen):
    method = build.build(chosen)
    assert method.needs_target
    state, made = build.initial_state(method), numbered()
    seen = views.prepare(method.preparation, made, jax.random.key(3), state)
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    dusk = np.float64(seen["dusk_image"]) * std + mean
    bright = np.float64(made["target_image"])
    for dark, image in zip(dusk, bright, strict=True):
        inside = (image > 9) & (image < 230)
        gammas = np.log(dark[inside] / 255) / np.log(image[inside] / 255)
        np.testing.assert_allclose(gammas, np.median(gammas), rtol=1e-3)
        assert 1 < np.median(gammas) < 3
    (term, _) = method.objective["agree"]
    rng = np.random.default_rng(0)
    target, other = rng.normal(size=(2, 1, 3, 4, 19))
    outputs = {"target": {"logits": jnp.float32(target)}, "dusk": {"logits": jnp.float32(other)}}
    total, count = term.evaluate(outputs, {})
    expected = -(softmax(target) * np.log(softmax(other))).sum(-1)
    np.testing.assert_allclose(total, expected.sum(), rtol=1e-5)
    assert count == expected.size


@pytest.mark.parametrize("statistics", ["both", "target"])
def test_the_view_updates_the_running_statistics_as_the_views_of_its_domain_do(statistics, chosen):
    chosen.model.statistics = statistics
    method = build.build(chosen)
    state, made = build.initial_state(method), numbered()
    after, logs = jax.jit(make_train_step(method))(state, made)
    key = jax.random.fold_in(state.key, state.step)
    seen = views.prepare(method.preparation, made, key, state)
    order = ("source", "target", "dusk") if statistics == "both" else ("target", "dusk")
    follower = state
    for view in order:
        _, stats = in_training(follower, seen[f"{view}_image"], method.generator)
        follower = follower.replace(g_stats=stats)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        after.g_stats,
        follower.g_stats,
    )
    assert 0 < float(logs["target_entropy"]) <= 1


def test_a_view_of_the_source_reads_no_target(monkeypatch):
    def night(context):
        image = lambda batch, key, state: {"night_image": batch["source_image"] / 2}  # noqa: E731
        return views.Part("night", image) if "night" in context.views else None

    def seg_at_night(context):
        def evaluate(outputs, batch):
            return context.pixel_loss(outputs["night"]["logits"], batch["source_label"])

        return terms.Term(evaluate, frozenset({"night"}), "logits")

    monkeypatch.setitem(views.VIEWS, "night", "source")
    monkeypatch.setitem(views.PARTS, "night", night)
    monkeypatch.setitem(terms.TERMS, "seg_at_night", seg_at_night)
    method = build.build(config(objective__seg_at_night=1.0))
    assert not method.needs_target
    state = build.initial_state(method)
    _, logs = jax.jit(make_train_step(method))(state, batch(target=False))
    assert logs["seg_at_night"] > 0 and "target_entropy" not in logs


def test_a_misspelt_view_of_a_term_is_named(monkeypatch):
    term = terms.Term(lambda outputs, batch: None, frozenset({"traget"}), "logits")
    monkeypatch.setitem(terms.TERMS, "mine", lambda context: term)
    message = "unknown view of term mine 'traget'; known: masked, mixed, source, strong, target"
    with pytest.raises(ConfigError, match=message):
        build.build(config(objective__mine=1.0))


class Judge(nn.Module):
    """A discriminator of one's own, with one layer between its convolution and its verdict."""

    layer: object = None
    in_channels: int = 19
    dtype: object = jnp.float32

    @nn.compact
    def __call__(self, maps):
        return self.layer(nn.Conv(1, (4, 4), strides=4)(maps))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            lambda x: nn.BatchNorm(use_running_average=False)(x),
            r"network='mine' has the variables batch_stats, params; expected params alone",
        ),
        (
            lambda x: nn.Dropout(0.5, deterministic=False)(x),
            r"adversary\.network='mine': .* needs PRNG",
        ),
        (lambda x: x.mean((1, 2, 3)), r"returns .*\(2,\).* for \(2, 32, 64, 19\); expected logits"),
        (lambda x: x.repeat(2, -1), r"returns .*\(2, 8, 16, 2\).*; expected logits \[B,h,w,1\]"),
        (lambda x: {"logits": x}, "returns {'logits': .*; expected logits"),
    ],
)
def test_a_discriminator_that_cannot_be_trained_is_refused(layer, message, monkeypatch):
    monkeypatch.setattr(build, "create_discriminator", create_discriminator)
    monkeypatch.setitem(DISCRIMINATORS, "mine", functools.partial(Judge, layer))
    with pytest.raises(ConfigError, match=message):
        build.build(config("adversarial", adversary__network="mine"))


def test_a_discriminator_of_ones_own_is_built(monkeypatch):
    monkeypatch.setattr(build, "create_discriminator", create_discriminator)
    monkeypatch.setitem(DISCRIMINATORS, "mine", functools.partial(Judge, nn.leaky_relu))
    method = build.build(config("adversarial", adversary__network="mine"))
    assert isinstance(method.adversary.networks["output"], Judge)


def test_colours_that_are_not_drawn_once_for_a_batch_are_refused(chosen):
    chosen.augment.draw = "batch"
    with pytest.raises(ConfigError, match="the change of colours 'darken' has no keyword `once`"):
        build.build(chosen)
    for name in colour.RECOLOURS.keys() - {"darken"}:
        colour.recolour(name, draw="batch", seed=0)
