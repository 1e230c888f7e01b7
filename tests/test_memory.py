"""What makes a training step fit into less memory: micro-batches, and computing again."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
from helpers import batch
from steps import BOTH, assert_states_agree, prepared_batch, run, small_method, small_step, uneven

from rtda_jax.adapt import build
from rtda_jax.adapt.method import forward
from rtda_jax.adapt.step import make_train_step
from rtda_jax.errors import ConfigError
from rtda_jax.run import parallel

pytestmark = pytest.mark.usefixtures("tiny_networks")


# Methods whose means are over numbers of pixels that only labels, or the network itself, decide.
ACCUMULATED = {
    "adversarial": {"fda_beta": 0.05},
    "dacs": {"teacher.share": "batch", "mix.among": "batch"},
    "tufl": {
        "consistency.threshold": "fixed",
        "consistency.initial": 0.06,
        "long_tail.probability": 0.0,
    },
}


@pytest.mark.parametrize(
    "family", ["adversarial", "dacs", pytest.param("tufl", marks=pytest.mark.slow)]
)
def test_micro_batches_learn_what_their_batch_does(family):
    def two_steps(accumulate, mesh=None):
        changes = {**ACCUMULATED[family], "optim.accumulate": accumulate}
        chosen = tiny.config(family, **{"model.batch_norm": "frozen", **changes})
        method = build.build(chosen, axis_name=mesh and parallel.AXIS)
        state, step = build.initial_state(method), make_train_step(method)
        if mesh:
            state = parallel.replicate(state, mesh)
        mapped = parallel.pmapped(step, mesh) if mesh else jax.jit(step)
        return run(mapped, state, count=2)

    expected, expected_logs = two_steps(1)
    for got, logs in (two_steps(2), two_steps(2, parallel.mesh())):
        assert_states_agree(got, expected)
        assert logs.keys() == expected_logs.keys()
        for name, value in expected_logs.items():
            np.testing.assert_allclose(logs[name], value, rtol=2e-4, atol=1e-4, err_msg=name)


def test_statistics_of_micro_batches_are_their_own_and_their_mean_goes_on():
    """As of devices that do not share statistics; the running ones move once a step."""
    accumulating, start = small_step(BOTH, optim__accumulate=2)
    got, logs = jax.jit(accumulating)(start, uneven())
    alone = dataclasses.replace(small_method(BOTH), axis_name=parallel.AXIS)
    mesh = parallel.mesh()
    apart = jax.pmap(
        make_train_step(alone), parallel.AXIS, in_axes=(None, 0), devices=list(mesh.devices.flat)
    )
    halves, half_logs = apart(
        start, jax.tree.map(lambda x: x.reshape(2, len(x) // 2, *x.shape[1:]), uneven())
    )
    first = jax.tree.map(lambda x: x[0], halves)
    mean = jax.tree.map(lambda x: x.mean(0), halves.g_stats)
    assert_states_agree(got, first.replace(g_stats=mean))
    for name, values in half_logs.items():
        np.testing.assert_allclose(logs[name], values[0], rtol=2e-4, atol=1e-4, err_msg=name)


def test_micro_batches_need_less_memory():
    def bytes_of(accumulate):
        step, start = small_step(BOTH, optim__accumulate=accumulate)
        made = jax.tree.map(lambda x: np.concatenate([x, x]), batch())
        return jax.jit(step).lower(start, made).compile().memory_analysis().temp_size_in_bytes

    assert bytes_of(8) < 0.5 * bytes_of(1)


def test_what_is_computed_again_is_the_same_and_need_not_be_kept():
    def learnt(remat):
        step, start = small_step(BOTH, model__remat=remat)
        return jax.jit(step)(start, uneven())

    def kept(remat):
        """The numbers that the backward pass of both views gets from their forward pass."""
        method = small_method(BOTH, model__remat=remat)
        start = build.initial_state(method)

        def pull(params):
            views = prepared_batch(batch())
            of_params = lambda p: forward(method, p, start.g_stats, views)  # noqa: E731
            return jax.vjp(of_params, params, has_aux=True)[1]

        return sum(x.size for x in jax.tree.leaves(jax.eval_shape(pull, start.g_params)))

    expected, expected_logs = learnt("none")
    for remat in ("norms", "views"):
        got, logs = learnt(remat)
        assert_states_agree(got, expected)
        for name, value in expected_logs.items():
            np.testing.assert_allclose(logs[name], value, rtol=2e-4, atol=1e-4, err_msg=name)
    assert kept("views") < 0.7 * kept("norms") < 0.7 * 0.8 * kept("none")


def test_what_sorts_a_whole_batch_is_not_accumulated():
    with pytest.raises(ConfigError, match=r"adaptive.* needs optim\.accumulate=1, got 2"):
        build.build(tiny.config("tufl", optim__accumulate=2))
    with pytest.raises(ConfigError, match=r"optim\.accumulate=3: use a multiple of 6"):
        parallel.check_batch(8, 2, accumulate=3)
