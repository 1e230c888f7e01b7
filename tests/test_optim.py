import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rtda_jax.adapt import optim
from rtda_jax.adapt.optim import OptimOptions
from rtda_jax.errors import ConfigError
from rtda_jax.models import create_model, group_of
from rtda_jax.models.layers import Network

STEPS = 7


def test_poly_is_the_formula_and_stays_zero_after_its_end():
    schedule = jax.jit(optim.decay(0.025, OptimOptions(), steps=STEPS))
    ours = [float(schedule(jnp.int32(t))) for t in range(STEPS + 3)]
    expected = [0.025 * max(1 - t / STEPS, 0) ** 0.9 for t in range(STEPS + 3)]
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("steps", [3, 6, 7, 49, 300, 1000])
def test_poly_is_never_nan_where_it_ends(steps):
    schedule = jax.jit(optim.decay(1.0, OptimOptions(), steps=steps))
    assert float(schedule(jnp.int32(steps))) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("name", ["cosine", "constant", "poly"])
@pytest.mark.parametrize("warmup", ["linear", "linear_factor", None])
def test_both_learning_rates_follow_the_schedule_by_its_formula(name, every, warmup):
    rise, total = 4 if warmup else 0, 20
    fields = {"warmup": warmup, "warmup_steps": rise, "warmup_start": 0.02} if warmup else {}
    options = OptimOptions(
        g_lr=0.1, d_lr=0.3, power=0.7, schedule=name, schedule_every_steps=every, **fields
    )
    generator, discriminator = (jax.jit(s) for s in optim.schedules(options, steps=total))

    def factor(t, steps):
        progress = min(t // every * every / steps, 1.0)
        cosine = 0.5 * (1 + np.cos(np.pi * progress))
        return {"cosine": cosine, "constant": 1.0, "poly": (1 - progress) ** 0.7}[name]

    for t in range(total + 3):
        if warmup == "linear":
            rate = 0.02 + 0.08 * t / rise if t <= rise else 0.1 * factor(t - rise, total - rise)
        else:
            rate = 0.1 * factor(t, total)
            if warmup and t < rise:
                rate *= 0.02 + 0.98 * t / rise
        assert float(generator(jnp.int32(t))) == pytest.approx(rate, rel=1e-5, abs=1e-7), t
        expected = 0.3 * factor(t, total)
        assert float(discriminator(jnp.int32(t))) == pytest.approx(expected, rel=1e-5, abs=1e-7), t


def test_poly_keeps_every_bit():
    """States its earlier code, whose runs continue."""

    def poly(step):
        return 0.025 * jnp.maximum(1.0 - step // 3 * 3 / 40, 0.0) ** 0.9

    options = OptimOptions(g_lr=0.025, schedule_every_steps=3)
    schedule, _ = optim.schedules(options, steps=40)
    steps = jnp.arange(50)
    np.testing.assert_array_equal(jax.jit(schedule)(steps), jax.jit(poly)(steps))


def test_a_schedule_of_ones_own_is_an_entry_of_the_table(monkeypatch):
    halved = lambda progress, options: jnp.where(progress < 0.5, 1.0, 0.1)  # noqa: E731
    monkeypatch.setitem(optim.SCHEDULES, "step", halved)
    schedule, _ = optim.schedules(OptimOptions(g_lr=0.2, schedule="step"), steps=10)
    rates = [float(schedule(t)) for t in range(10)]
    np.testing.assert_allclose(rates, [0.2] * 5 + [0.02] * 5, rtol=1e-6)


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
    schedule = optim.decay(0.1, OptimOptions(), steps=STEPS)
    cases = [
        (
            optim.sgd(schedule, OptimOptions(g_decay=1e-2)),
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-2),
        ),
        (
            optim.sgd(schedule, OptimOptions(g_decay=1e-2, g_momentum=0.5)),
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5, weight_decay=1e-2),
        ),
        (
            optim.discriminator_optimizer(OptimOptions(), schedule),
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
    transform = optim.restricted_to(
        optim.sgd(optim.decay(0.1, OptimOptions(), steps=5), OptimOptions(g_decay=0.1)),
        trained=lambda tree: {"a": True, "b": False},
    )
    after = follow(transform, [params, params], params)
    assert (after["a"] < 1).all()
    assert (after["b"] == 1).all()


def test_warm_up_is_exponential_and_hands_over_to_poly():
    lr, start, warm, total = 0.01, 1e-5, 5, 20
    options = OptimOptions(g_lr=lr, warmup_start=start, warmup_steps=warm)
    schedule = jax.jit(optim.schedules(options, steps=total)[0])
    factor = (lr / start) ** (1 / warm)
    for t in range(total + 2):
        expected = start * factor**t if t <= warm else lr * max(1 - (t - warm) / 15, 0) ** 0.9
        assert float(schedule(jnp.int32(t))) == pytest.approx(expected, rel=1e-5, abs=1e-9)
    with pytest.raises(ConfigError, match=r"exponential warm-up must be above 0, got 0"):
        OptimOptions(warmup_steps=3, warmup_start=0.0)


def test_a_linear_warm_up_rises_by_equal_steps():
    options = OptimOptions(g_lr=0.01, power=1.0, warmup="linear", warmup_start=1e-3, warmup_steps=3)
    schedule, _ = optim.schedules(options, steps=18)
    rates = [float(schedule(jnp.int32(t))) for t in range(5)]
    np.testing.assert_allclose(rates, [0.001, 0.004, 0.007, 0.01, 0.01 * 14 / 15], rtol=1e-5)


@pytest.mark.parametrize("power", [1.0, 0.9])
def test_a_linear_factor_is_the_warm_up_of_mmcv(power):
    """States LrUpdaterHook of mmcv 1.3 with the policy poly, by iterations."""
    base, ratio, rise, total = 6e-5, 1e-6, 1500, 40_000
    options = OptimOptions(
        g_lr=base, power=power, warmup="linear_factor", warmup_start=ratio, warmup_steps=rise
    )
    schedule, _ = optim.schedules(options, steps=total)
    for t in (0, 750, 1500, 30_000, total):
        rate = base * (1 - t / total) ** power
        if t < rise:
            rate *= 1 - (1 - t / rise) * (1 - ratio)
        np.testing.assert_allclose(schedule(jnp.int32(t)), rate, rtol=1e-5, atol=1e-14)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.7)])
@pytest.mark.parametrize("decayed", ["all", "kernels"])
def test_adamw_follows_pytorch(betas, decayed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    start, *gradients = (
        {name: rng.normal(size=(4, 3)).astype(np.float32) for name in ("kernel", "bias")}
        for _ in range(STEPS + 1)
    )
    options = OptimOptions(g_optimizer="adamw", g_decay=0.1, g_decayed=decayed, g_betas=betas)
    weights = {name: torch.nn.Parameter(torch.tensor(leaf)) for name, leaf in start.items()}
    rows = [
        {
            "params": [weight],
            "weight_decay": 0.1 if decayed == "all" or name == "kernel" else 0.0,
        }
        for name, weight in weights.items()
    ]
    theirs = torch.optim.AdamW(rows, lr=0.05, betas=betas)
    for gradient in gradients:
        for name, weight in weights.items():
            weight.grad = torch.tensor(gradient[name])
        theirs.step()
    ours = follow(optim.adamw(lambda _: 0.05, options), gradients, jax.tree.map(jnp.asarray, start))
    for name, weight in weights.items():
        np.testing.assert_allclose(ours[name], weight.detach().numpy(), rtol=2e-5, atol=2e-6)


def test_schedules_of_both_networks_by_the_formula():
    options = OptimOptions(
        g_lr=0.1,
        d_lr=0.02,
        power=2.0,
        warmup="linear",
        warmup_steps=4,
        warmup_start=0.02,
        schedule_steps=20,
        schedule_every_steps=3,
    )
    generator, discriminator = optim.schedules(options, steps=50)
    for t in range(25):
        after = (t - 4) // 3 * 3  # poly begins where the warm-up ends
        rising = 0.02 + (0.1 - 0.02) * t / 4
        expected = rising if t <= 4 else 0.1 * max(1 - after / 16, 0) ** 2
        np.testing.assert_allclose(generator(jnp.int32(t)), expected, rtol=1e-5, atol=1e-9)
        expected = 0.02 * max(1 - t // 3 * 3 / 20, 0) ** 2
        np.testing.assert_allclose(discriminator(jnp.int32(t)), expected, rtol=1e-5, atol=1e-9)
    plain, _ = optim.schedules(OptimOptions(g_lr=1.0, power=1.0), steps=50)
    np.testing.assert_allclose([plain(t) for t in (0, 1, 49)], [1, 0.98, 0.02], rtol=1e-5)


class Partly(Network):
    """A network that trains all but the scales of its trunk."""

    def trains(self, path):
        return path[-1] != "scale"


def test_the_generators_optimizer_knows_groups_factor_and_what_is_trained():
    params = {
        "backbone": {"kernel": jnp.ones(2), "scale": jnp.ones(2)},
        "head": {"kernel": jnp.ones(2)},
    }
    options = OptimOptions(g_groups="heads", g_factor=3.0, g_decay=0.0)
    transform = optim.generator_optimizer(options, Partly(), lambda _: 0.1)
    after = follow(transform, [params], params)
    np.testing.assert_allclose(after["backbone"]["kernel"], 0.9, rtol=1e-6)
    np.testing.assert_array_equal(after["backbone"]["scale"], 1.0)
    np.testing.assert_allclose(after["head"]["kernel"], 0.7, rtol=1e-6)


def network(seed):
    rng = np.random.default_rng(seed)
    layer = lambda *names: {n: rng.normal(size=3).astype(np.float32) for n in names}  # noqa: E731
    return {
        "backbone": {"conv": layer("kernel"), "bn": layer("scale", "bias")},
        "classifier": {"conv": layer("kernel", "bias")},
        "aux16": layer("kernel"),
    }


@pytest.mark.parametrize("groups", ["one", "heads", "all"])
@pytest.mark.parametrize("decayed", ["all", "kernels"])
def test_groups_follow_pytorchs_parameter_groups(groups, decayed):
    torch = pytest.importorskip("torch")
    start, gradients = network(0), [network(seed) for seed in range(1, STEPS)]
    schedule = optim.decay(0.01, OptimOptions(), steps=STEPS)
    ours = optim.with_factors(
        optim.sgd(schedule, OptimOptions(g_decay=0.1, g_decayed=decayed)),
        group_of=functools.partial(group_of, create_model("bisenet_resnet18")),
        factors=dict.fromkeys(optim.GROUPS[groups], 10.0),
    )
    got = jax.tree.leaves_with_path(follow(ours, gradients, start))
    flat = jax.tree.leaves_with_path(start)
    weights = [torch.nn.Parameter(torch.tensor(leaf)) for _, leaf in flat]
    rows = []
    for (path, _), weight in zip(flat, weights, strict=True):
        fast = groups == "all" or (groups == "heads" and path[0].key != "backbone")
        decay = 0.1 if decayed == "all" or path[-1].key == "kernel" else 0.0
        rows.append({"params": [weight], "weight_decay": decay, "times": 10 if fast else 1})
    theirs = torch.optim.SGD(rows, lr=0.01, momentum=0.9)
    for t, gradient in enumerate(gradients):
        for row, leaf in zip(theirs.param_groups, jax.tree.leaves(gradient), strict=True):
            row["lr"] = row["times"] * 0.01 * (1 - t / STEPS) ** 0.9
            row["params"][0].grad = torch.tensor(leaf)
        theirs.step()
    for (path, mine), weight in zip(got, weights, strict=True):
        np.testing.assert_allclose(
            mine, weight.detach(), rtol=3e-5, atol=3e-6, err_msg=jax.tree_util.keystr(path)
        )


def test_heads_of_real_networks_are_their_classifiers_and_the_fusion():
    expected = {
        "bisenet_tufl": {"ffm", "head", "aux16", "aux32"},
        "bisenet_resnet18": {"ffm", "classifier", "aux16", "aux32"},
        "deeplab_resnet101": {"classifier"},
    }
    for name, heads in expected.items():
        images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
        model = create_model(name, num_classes=5)
        params = jax.eval_shape(lambda x, m=model: m.init(jax.random.key(0), x, train=True), images)
        assert {n for n in params["params"] if group_of(model, (n,)) == "heads"} == heads, name


def test_decay_and_groups_pass_over_parameters_that_are_not_trained():
    params = network(0)
    transform = optim.restricted_to(
        optim.with_factors(
            optim.sgd(lambda _: 0.1, OptimOptions(g_decay=0.1, g_decayed="kernels")),
            group_of=functools.partial(group_of, create_model("bisenet_resnet18")),
            factors={"heads": 10.0},
        ),
        trained=lambda tree: jax.tree_util.tree_map_with_path(
            lambda path, _: path[0].key != "aux16", tree
        ),
    )
    after = follow(transform, [params], params)
    np.testing.assert_array_equal(after["aux16"]["kernel"], params["aux16"]["kernel"])
    np.testing.assert_allclose(
        after["classifier"]["conv"]["bias"], 0.0, atol=1e-6
    )  # one step of 10 x 0.1 against itself, without decay


def test_the_defaults_are_those_of_the_papers_sgd_and_adam():
    assert dataclasses.asdict(OptimOptions()) == {
        "accumulate": 1,
        "g_optimizer": "sgd",
        "g_lr": 0.01,
        "g_momentum": 0.9,
        "g_betas": (0.9, 0.999),
        "g_decay": 1e-4,
        "g_decayed": "all",
        "g_groups": "one",
        "g_factor": 10.0,
        "g_repeats": "none",
        "warmup": "exponential",
        "warmup_steps": 0,
        "warmup_start": 1e-5,
        "d_lr": 1e-4,
        "d_betas": (0.9, 0.99),
        "schedule": "poly",
        "power": 0.9,
        "schedule_steps": 0,
        "schedule_every_steps": 1,
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"accumulate": 0}, r"optim\.accumulate must be at least 1, got 0"),
        ({"g_lr": -0.1}, r"optim\.g_lr must be at least 0, got -0\.1"),
        ({"g_decay": -1e-4}, r"optim\.g_decay must be at least 0, got -0\.0001"),
        ({"g_factor": -1.0}, r"optim\.g_factor must be at least 0, got -1"),
        ({"d_lr": -0.1}, r"optim\.d_lr must be at least 0, got -0\.1"),
        ({"power": -0.5}, r"optim\.power must be at least 0, got -0\.5"),
        ({"warmup_steps": -1}, r"optim\.warmup_steps must be at least 0, got -1"),
        ({"schedule_steps": -1}, r"optim\.schedule_steps must be at least 0, got -1"),
        ({"schedule_every_steps": 0}, r"optim\.schedule_every_steps must be at least 1, got 0"),
        ({"g_momentum": 1.0}, r"optim\.g_momentum must lie in \[0, 1\), got 1"),
        ({"g_momentum": -0.1}, r"optim\.g_momentum must lie in \[0, 1\), got -0\.1"),
        ({"g_betas": (0.9,)}, r"optim\.g_betas must be two numbers in \[0, 1\), got \(0\.9,\)"),
        ({"g_betas": (0.9, 1.0)}, r"optim\.g_betas must be two numbers in \[0, 1\)"),
        ({"d_betas": (-0.1, 0.9)}, r"optim\.d_betas must be two numbers in \[0, 1\)"),
        ({"g_optimizer": "lion"}, r"optim\.g_optimizer 'lion'; known: adamw, sgd"),
        ({"g_decayed": "none"}, r"optim\.g_decayed 'none'; known: all, kernels"),
        ({"g_groups": "two"}, r"optim\.g_groups 'two'; known: all, heads, one"),
        ({"g_repeats": "twice"}, r"optim\.g_repeats 'twice'; known: none, released, released_04"),
        (
            {"warmup": "cosine"},
            r"optim\.warmup 'cosine'; known: exponential, linear, linear_factor",
        ),
        ({"schedule": "step"}, r"optim\.schedule 'step'; known: constant, cosine, poly"),
        ({"warmup": "linear_factor", "warmup_start": 2.0}, r"is a factor in \[0, 1\].*, got 2"),
        ({"g_repeats": "released", "g_optimizer": "adamw"}, "is the released SGD of DeepLab"),
        ({"g_repeats": "released", "g_decayed": "kernels"}, "is the released SGD of DeepLab"),
        ({"g_repeats": "released_04", "g_groups": "all"}, "is the released SGD of DeepLab"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        OptimOptions(**fields)


def test_limits_are_allowed():
    zeros = dict.fromkeys(("g_lr", "g_decay", "g_factor", "d_lr", "power", "g_momentum"), 0.0)
    OptimOptions(**zeros, g_betas=(0.0, 0.0), d_betas=(0.0, 0.0))
    OptimOptions(warmup="linear", warmup_steps=0, warmup_start=0.0)
    OptimOptions(warmup="exponential", warmup_steps=0, warmup_start=0.0)
    OptimOptions(g_repeats="released", g_groups="heads")
