import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rtda_jax import optim

STEPS = 7


def test_poly_is_the_formula_and_stays_zero_after_its_end():
    schedule = jax.jit(optim.poly(0.025, steps=STEPS, power=0.9))
    ours = [float(schedule(jnp.int32(t))) for t in range(STEPS + 3)]
    expected = [0.025 * max(1 - t / STEPS, 0) ** 0.9 for t in range(STEPS + 3)]
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("steps", [3, 6, 7, 49, 300, 1000])
def test_poly_is_never_nan_where_it_ends(steps):
    schedule = jax.jit(optim.poly(1.0, steps=steps, power=0.9))
    assert float(schedule(jnp.int32(steps))) == pytest.approx(0.0, abs=1e-5)


def follow(transform, gradients, start):
    params, state = start, transform.init(start)
    for gradient in gradients:
        updates, state = transform.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_sgd_and_adam_follow_pytorch_under_poly():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    start = rng.normal(size=(4, 3)).astype(np.float32)
    gradients = rng.normal(size=(STEPS, 4, 3)).astype(np.float32)
    schedule = optim.poly(0.1, steps=STEPS, power=0.9)
    cases = [
        (
            optim.sgd(schedule, momentum=0.9, weight_decay=1e-2),
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-2),
        ),
        (
            optim.adam(schedule, betas=(0.9, 0.99)),
            lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.9, 0.99)),
        ),
    ]
    for ours, make in cases:
        weight = torch.nn.Parameter(torch.tensor(start))
        theirs = make([weight])
        for t, gradient in enumerate(gradients):
            theirs.param_groups[0]["lr"] = 0.1 * (1 - t / STEPS) ** 0.9
            weight.grad = torch.tensor(gradient)
            theirs.step()
        np.testing.assert_allclose(
            follow(ours, jnp.asarray(gradients), jnp.asarray(start)),
            weight.detach().numpy(),
            rtol=2e-5,
            atol=2e-6,
        )


def test_only_the_trained_parameters_move_or_decay():
    params = {"a": jnp.ones(3), "b": jnp.ones(3)}
    transform = optim.only(
        optim.sgd(optim.poly(0.1, steps=5, power=0.9), momentum=0.9, weight_decay=0.1),
        trained=lambda tree: {"a": True, "b": False},
    )
    after = follow(transform, [params, params], params)
    assert (after["a"] < 1).all()
    assert (after["b"] == 1).all()
