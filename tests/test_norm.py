"""BatchNorm against NumPy, PyTorch and itself over two devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import draw

from rtda_jax.ops.norm import BatchNorm

SHAPE = (4, 5, 6, 3)


def make_variables(channels: int = 3) -> dict:
    scale, bias, mean, var = draw(4, channels, seed=7)
    return {
        "params": {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)},
        "batch_stats": {"mean": jnp.asarray(mean), "var": jnp.asarray(np.abs(var) + 0.5)},
    }


def train(norm, variables, x):
    return norm.apply(variables, x, train=True, mutable=["batch_stats"])


def test_training_is_pytorchs():
    torch = pytest.importorskip("torch")
    variables, x, dy = make_variables(), draw(*SHAPE) * 2 + 3, draw(*SHAPE, seed=1)
    theirs = torch.nn.BatchNorm2d(3)
    tensors = {
        "weight": variables["params"]["scale"],
        "bias": variables["params"]["bias"],
        "running_mean": variables["batch_stats"]["mean"],
        "running_var": variables["batch_stats"]["var"],
    }
    theirs.load_state_dict(
        {k: torch.from_numpy(np.array(v)) for k, v in tensors.items()}, strict=False
    )
    t = torch.from_numpy(x).permute(0, 3, 1, 2).requires_grad_()
    expected = theirs(t)
    expected.backward(torch.from_numpy(dy).permute(0, 3, 1, 2))

    def forward(params, v):
        return train(BatchNorm(), {**variables, "params": params}, v)

    y, pull, stats = jax.vjp(forward, variables["params"], jnp.asarray(x), has_aux=True)
    params, dx = pull(jnp.asarray(dy))
    np.testing.assert_allclose(y, expected.detach().permute(0, 2, 3, 1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dx, t.grad.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(params["scale"], theirs.weight.grad, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(params["bias"], theirs.bias.grad, rtol=1e-5, atol=1e-5)
    stats = stats["batch_stats"]
    np.testing.assert_allclose(stats["mean"], theirs.running_mean, rtol=1e-5)
    np.testing.assert_allclose(stats["var"], theirs.running_var, rtol=1e-5)
    theirs.eval()
    got = BatchNorm().apply({**variables, "batch_stats": stats}, jnp.asarray(x), train=False)
    expected = theirs(t).detach().permute(0, 2, 3, 1)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_training_normalises_by_the_batch():
    variables, x = make_variables(), draw(*SHAPE)
    y, stats = train(BatchNorm(momentum=0.75), variables, jnp.asarray(x))
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    params, before = variables["params"], variables["batch_stats"]
    scale, bias = np.array(params["scale"]), np.array(params["bias"])
    expected = (x - mean) / np.sqrt(var + 1e-5) * scale + bias
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    count = x.size / 3
    after = stats["batch_stats"]
    np.testing.assert_allclose(after["mean"], 0.75 * before["mean"] + 0.25 * mean, rtol=1e-5)
    unbiased = var * count / (count - 1)
    np.testing.assert_allclose(after["var"], 0.75 * before["var"] + 0.25 * unbiased, rtol=1e-5)


def test_a_large_mean_does_not_swallow_the_variance():
    x = draw(*SHAPE) + 4096.0
    y, stats = train(BatchNorm(momentum=0.0), make_variables(), jnp.asarray(x))
    exact = x.astype(np.float64)
    unbiased = exact.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(stats["batch_stats"]["var"], unbiased, rtol=1e-3)
    assert np.isfinite(y).all()


def test_gradient_equals_plain_differentiation():
    variables, x, dy = (
        make_variables(),
        jnp.asarray(draw(*SHAPE)),
        jnp.asarray(draw(*SHAPE, seed=1)),
    )

    def plain(params, v):
        mean, var = v.mean((0, 1, 2)), v.var((0, 1, 2))
        return (v - mean) / jnp.sqrt(var + 1e-5) * params["scale"] + params["bias"]

    def ours(params, v):
        return train(BatchNorm(), {**variables, "params": params}, v)[0]

    with jax.numpy_rank_promotion("allow"):
        expected = jax.vjp(plain, variables["params"], x)[1](dy)
    got = jax.vjp(ours, variables["params"], x)[1](dy)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, expected)


def test_frozen_uses_and_keeps_the_running_averages():
    variables, x = make_variables(), jnp.asarray(draw(*SHAPE))
    frozen, stats = train(BatchNorm(frozen=True), variables, x)
    jax.tree.map(np.testing.assert_array_equal, stats["batch_stats"], variables["batch_stats"])
    np.testing.assert_array_equal(frozen, BatchNorm().apply(variables, x, train=False))
    single = BatchNorm(frozen=True).apply(variables, x[:1, :1, :1], train=True)
    assert np.isfinite(single).all()


def test_evaluation_changes_nothing():
    variables, x = make_variables(), jnp.asarray(draw(*SHAPE))
    _, stats = BatchNorm().apply(variables, x, train=False, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, stats["batch_stats"], variables["batch_stats"])


def test_initialisation_leaves_the_averages_at_their_defaults():
    variables = BatchNorm(axis_name="batch").init(
        jax.random.key(0), jnp.ones((1, 1, 1, 3)), train=True
    )
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.zeros(3))
    np.testing.assert_array_equal(variables["batch_stats"]["var"], np.ones(3))
    assert variables["params"]["scale"].dtype == jnp.float32


@pytest.mark.parametrize("per_device", [2, 1])
def test_two_devices_share_the_statistics_of_the_global_batch(per_device):
    shape = (2, per_device, 1, 1, 3) if per_device == 1 else (2, per_device, 5, 6, 3)
    variables, x, dy = make_variables(), draw(*shape), draw(*shape, seed=1)

    def step(norm):
        def run(params, v, cotangent):
            y, pull, stats = jax.vjp(
                lambda p, u: train(norm, {**variables, "params": p}, u), params, v, has_aux=True
            )
            return y, pull(cotangent), stats

        return run

    merge = (shape[0] * shape[1], *shape[2:])
    y, (params, dx), stats = step(BatchNorm())(
        variables["params"], jnp.asarray(x.reshape(merge)), jnp.asarray(dy.reshape(merge))
    )
    spread = jax.pmap(step(BatchNorm(axis_name="batch")), axis_name="batch", in_axes=(None, 0, 0))
    y2, (params2, dx2), stats2 = spread(variables["params"], x, dy)
    np.testing.assert_allclose(y2.reshape(merge), y, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dx2.reshape(merge), dx, rtol=1e-4, atol=1e-5)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # noqa: E731
    jax.tree.map(lambda a, b: close(a.sum(0), b), params2, params)
    jax.tree.map(lambda a, b: [close(a[d], b) for d in range(2)], stats2, stats)


def test_bfloat16_in_float32_statistics():
    x = draw(*SHAPE)
    y, stats = train(BatchNorm(dtype=jnp.bfloat16), make_variables(), jnp.asarray(x))
    assert y.dtype == jnp.bfloat16
    assert stats["batch_stats"]["var"].dtype == jnp.float32
    exact, _ = train(
        BatchNorm(), make_variables(), jnp.asarray(x, jnp.bfloat16).astype(jnp.float32)
    )
    np.testing.assert_allclose(y.astype(jnp.float32), exact, atol=0.05)


def test_one_value_per_channel_is_refused_by_name():
    with pytest.raises(ValueError, match=r"one value per channel.*larger batch"):
        train(BatchNorm(), make_variables(), jnp.ones((1, 1, 1, 3)))
    with pytest.raises(ValueError, match=r"\[B,H,W,C\]"):
        train(BatchNorm(), make_variables(), jnp.ones((4, 3)))
