import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtda_jax.adapt.state import TeacherOptions, follow
from rtda_jax.errors import ConfigError


def test_average_against_numpy():
    options = TeacherOptions(kind="ema", decay=0.7)
    move = jax.jit(functools.partial(follow, options=options))
    rng = np.random.default_rng(0)
    kept, expected = {"w": jnp.zeros(3)}, np.zeros(3)
    for step in range(6):
        student = rng.normal(size=3)
        kept = move(kept, {"w": jnp.float32(student)}, jnp.int32(step))
        decay = min(1 - 1 / (step + 1), 0.7)
        expected = decay * expected + (1 - decay) * student
        if step == 0:
            np.testing.assert_allclose(kept["w"], student, rtol=1e-6)  # the first copies
    np.testing.assert_allclose(kept["w"], expected, rtol=1e-5)


def test_a_frozen_teacher_stays_and_a_wrong_decay_is_refused():
    first = {"w": jnp.ones(2)}
    frozen = TeacherOptions(kind="frozen")
    assert follow(first, {"w": jnp.zeros(2)}, jnp.int32(3), options=frozen) is first
    with pytest.raises(ConfigError, match=r"teacher\.decay must lie in \[0, 1\), got 1"):
        TeacherOptions(kind="ema", decay=1.0)
    with pytest.raises(ConfigError, match=r"known: ema, frozen, none"):
        TeacherOptions(kind="mean")
