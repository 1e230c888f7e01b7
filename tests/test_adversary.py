"""Discriminators: what each of them reads, loses and gets right, against NumPy."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import softmax

from rtda_jax.adapt import adversary
from rtda_jax.adapt.adversary import Adversary, AdversaryOptions
from rtda_jax.errors import ConfigError

HEADS = {
    "aux16": "aux16",
    "aux32": "aux32",
    "output": "logits",
    "feature": "feature",
    "aux8": "aux8",
    "aux4": "aux4",
}


class First(nn.Module):
    """The first channel of what a discriminator reads, times a parameter."""

    @nn.compact
    def __call__(self, x):
        return self.param("factor", lambda _: jnp.float32(1)) * x[..., :1]


def judges(names, **options):
    return Adversary({name: First() for name in names}, AdversaryOptions(**options))


def verdicts(seed=0):
    """Logits of two discriminators for both domains; none of the four is right as often."""
    rng = np.random.default_rng(seed)
    means = {"source": {"output": -2, "aux16": 0.5}, "target": {"output": 1, "aux16": -1}}
    return {
        domain: {
            level: rng.normal(mean, 1.5, (2, 4, 5, 1)).astype(np.float32)
            for level, mean in levels.items()
        }
        for domain, levels in means.items()
    }


BOUNDARIES = {"bce": 0.0, "least_squares": 0.5}


@pytest.mark.parametrize("gan_loss", sorted(BOUNDARIES))
def test_accuracies_are_the_shares_of_sources_below_and_targets_above_the_boundary(gan_loss):
    given, boundary = verdicts(), BOUNDARIES[gan_loss]
    got = judges(("output", "aux16"), gan_loss=gan_loss).accuracies(given)
    expected = {}
    for level in ("output", "aux16"):
        expected[f"d_{level}_accuracy_source"] = (given["source"][level] < boundary).mean()
        expected[f"d_{level}_accuracy_target"] = (given["target"][level] > boundary).mean()
    assert len({round(float(share), 3) for share in expected.values()}) == 4
    assert got.keys() == expected.keys()
    for name, (total, count) in got.items():
        np.testing.assert_allclose(total / count, expected[name], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(("gan_loss", "ideal"), [("bce", (-9, 9)), ("least_squares", (0, 1))])
def test_a_discriminator_whose_loss_is_least_is_always_right(gan_loss, ideal):
    rng = np.random.default_rng(3)
    given = {
        domain: {"output": rng.normal(mean, 0.1, (2, 8, 8, 1)).astype(np.float32)}
        for domain, mean in zip(("source", "target"), ideal, strict=True)
    }
    for total, count in judges(("output",), gan_loss=gan_loss).accuracies(given).values():
        assert total == count == 128


@pytest.mark.parametrize("gan_loss", ["bce", "least_squares"])
def test_losses_label_the_source_zero_and_the_target_one(gan_loss):
    given = verdicts(1)
    got = judges(("output", "aux16"), gan_loss=gan_loss).losses(given)
    for level in ("output", "aux16"):
        source, target = (np.float64(given[d][level]) for d in ("source", "target"))
        if gan_loss == "bce":
            source, target = np.log1p(np.exp(source)), np.log1p(np.exp(-target))
        else:
            source, target = source**2, (target - 1) ** 2
        for domain, loss in (("source", source), ("target", target)):
            total, count = got.pop(f"d_{level}_{domain}")
            np.testing.assert_allclose(total / count, loss.mean(), rtol=1e-5)
    assert not got


@pytest.mark.parametrize("view", ["softmax", "self_information"])
@pytest.mark.parametrize("level", sorted(HEADS))
def test_each_level_judges_its_own_output(level, view):
    rng = np.random.default_rng(2)
    outputs = {head: np.float32(rng.normal(size=(1, 8, 6, 5))) for head in HEADS.values()}
    assert adversary.LEVELS[level].head == HEADS[level]
    got = judges((level,), view=view).judge(
        {level: {"factor": jnp.float32(2)}}, outputs, size=(8, 6)
    )
    z = np.float64(outputs[HEADS[level]])
    p = softmax(z)
    expected = {"softmax": p, "self_information": -p * np.log(p) / np.log(5)}[view]
    if level == "feature":
        expected = z
    assert list(got) == [level]
    np.testing.assert_allclose(got[level], 2 * expected[..., :1], rtol=1e-4, atol=1e-6)


def test_the_numbers_of_levels_stay_what_they_were():
    """A level's first weights depend on its number."""
    numbers = {name: level.number for name, level in adversary.LEVELS.items()}
    expected = {"aux16": 0, "aux32": 1, "output": 2, "feature": 3, "aux8": 4, "aux4": 5}
    assert numbers == expected


def test_the_defaults_are_those_of_tsai():
    assert AdversaryOptions() == AdversaryOptions("fcd", {}, "softmax", "bce", 0.5)


def test_the_factor_of_a_discriminator_is_from_zero():
    AdversaryOptions(d_factor=0.0)
    with pytest.raises(ConfigError, match=r"adversary\.d_factor must be at least 0, got -0\.5"):
        AdversaryOptions(d_factor=-0.5)


def test_self_information_and_features_reach_the_discriminator():
    outputs = {"logits": jnp.ones((1, 4, 4, 3)), "feature": jnp.ones((1, 2, 2, 7))}
    judge = Adversary({}, AdversaryOptions(view="self_information"))
    np.testing.assert_allclose(
        judge.read("output", outputs, size=(4, 4)).sum(-1), np.ones((1, 4, 4)), rtol=1e-6
    )
    assert judge.read("feature", outputs, size=(16, 32)).shape == (1, 16, 32, 7)
    with pytest.raises(ValueError, match=r"adversary\.view 'x'; known: self_information, softmax"):
        AdversaryOptions(view="x")
