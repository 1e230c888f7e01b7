import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SIZE, batch, config, streets_batch

from rtda_jax import (
    build,
    experiment,
    levels,
    optim,
    parallel,
    pixel_losses,
    prepare,
    state,
    teacher,
    terms,
)
from rtda_jax.models.norm import BatchNorm
from rtda_jax.step import make_train_step

CONFIGS = ["source_only", "target_only", "adversarial", "fda", "fda_mbt"]


class Small(nn.Module):
    """A segmentation network of two convolutions, with everything the step relies on."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, images, *, train=False):
        x = nn.Conv(8, (3, 3), strides=2, padding=1)(images)
        x = nn.relu(BatchNorm(axis_name=self.axis_name)(x, train=train))
        x = nn.Conv(19, (1, 1))(x)
        return {"logits": jax.image.resize(x, (*images.shape[:3], 19), "bilinear")}


class SmallDiscriminator(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Conv(1, (4, 4), strides=4)(nn.leaky_relu(nn.Conv(8, (4, 4), strides=4)(x), 0.2))


PLACES = levels.levels("softmax")


def known_terms(gan_loss="bce"):
    return terms.generator_terms(
        pixel_loss=pixel_losses.pixel_loss("cross_entropy", pixel_losses.Options()),
        levels={name: level.head for name, level in PLACES.items()},
        gan_loss=gan_loss,
    )


def parts(beta):
    stylised = [] if beta is None else [prepare.stylise(beta=beta)]
    return prepare.in_order(
        [prepare.as_floats, *stylised, prepare.normalised(normalisation="imagenet")]
    )


def prepared_batch(made, beta):
    return parts(beta)(made, jax.random.key(0), {})


def small_step(objective, *, axis_name=None, statistics="both", beta=0.05, d_factor=0.5):
    generator, discriminators = Small(axis_name), {"output": SmallDiscriminator()}
    g_tx = optim.sgd(optim.poly(0.05, steps=50, power=0.9), momentum=0.9, weight_decay=1e-4)
    d_tx = optim.adam(optim.poly(1e-2, steps=50, power=0.9), betas=(0.9, 0.99))
    active = terms.select(known_terms(), objective)
    if not any(term.level for term, _ in active.values()):
        discriminators = {}
    step = make_train_step(
        generator,
        discriminators,
        g_tx,
        d_tx,
        objective=active,
        levels=PLACES,
        d_objective={
            level: terms.discriminator_terms(level, gan_loss="bce") for level in discriminators
        },
        d_factor=d_factor,
        prepare=parts(beta),
        follow=teacher.stay,
        statistics=statistics,
        axis_name=axis_name,
    )
    start = state.create_state(
        generator,
        discriminators,
        g_tx,
        d_tx,
        levels=PLACES,
        seed=0,
        image_shape=(2, *SIZE, 3),
    )
    return step, start


def uneven(step=0):
    """A batch whose ignored pixels lie almost all on one device's half."""
    made = batch(step)
    made["source_label"][:2, 2:] = 255
    return made


def run(step, start, count=3):
    for n in range(count):
        start, logs = step(start, uneven(n))
        jax.block_until_ready(logs)
    return start, logs


BOTH = {"seg": 1.0, "adv_output": 0.1}


def test_jit_pmap_and_sharded_jit_agree():
    mesh = parallel.mesh()
    assert mesh.size == 2
    plain, start = small_step(BOTH)
    expected, logs = run(jax.jit(plain), start)
    mapped, start = small_step(BOTH, axis_name=parallel.AXIS)
    for step in (parallel.pmapped(mapped, mesh), parallel.sharded(plain, mesh)):
        _, start = small_step(BOTH)
        got, got_logs = run(step, parallel.replicate(start, mesh))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5),
            (got.g_params, got.g_stats, got.d_params, got_logs),
            (expected.g_params, expected.g_stats, expected.d_params, logs),
        )


def test_loss_is_the_mean_over_all_valid_pixels_of_all_devices():
    mesh = parallel.mesh()
    mapped, start = small_step({"seg": 1.0}, axis_name=parallel.AXIS, beta=None)
    _, logs = parallel.pmapped(mapped, mesh)(parallel.replicate(start, mesh), uneven())
    _, start = small_step({"seg": 1.0}, beta=None)
    prepared = prepared_batch(uneven(), None)
    outputs, _ = Small().apply(
        {"params": start.g_params, "batch_stats": start.g_stats},
        prepared["source_image"],
        train=True,
        mutable=["batch_stats"],
    )
    logits, labels = np.float64(outputs["logits"]), uneven()["source_label"]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    valid = labels != 255
    picked = np.take_along_axis(log_p, np.where(valid, labels, 0)[..., None].astype(int), -1)
    np.testing.assert_allclose(logs["seg"], -picked[..., 0][valid].mean(), rtol=1e-4)


def test_generator_and_discriminator_move_by_their_own_losses_only():
    step, start = small_step({"seg": 0.0, "adv_output": 1.0})
    after, logs = jax.jit(step)(start, batch())
    d_loss = logs["d_loss"]
    np.testing.assert_allclose(
        d_loss, 0.5 * (logs["d_output_source"] + logs["d_output_target"]), rtol=1e-6
    )
    # The discriminator's gradient, stated again: the generator is a constant to it.
    prepared = prepared_batch(batch(), 0.05)
    variables = {"params": start.g_params, "batch_stats": start.g_stats}

    def judge(d_params, domain):
        out, _ = Small().apply(
            variables, prepared[f"{domain}_image"], train=True, mutable=["batch_stats"]
        )
        return SmallDiscriminator().apply(
            {"params": d_params["output"]}, jax.nn.softmax(out["logits"])
        )

    def loss(d_params):
        source, target = judge(d_params, "source"), judge(d_params, "target")
        return 0.5 * (jnp.log1p(jnp.exp(source)).mean() + jnp.log1p(jnp.exp(-target)).mean())

    grads = jax.grad(loss)(start.d_params)
    np.testing.assert_allclose(
        logs["d_grad_norm"], np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads))), rtol=1e-3
    )
    # Deceiving means: the target judged as source, label 0.
    np.testing.assert_allclose(
        logs["adv_output"], jnp.log1p(jnp.exp(judge(start.d_params, "target"))).mean(), rtol=1e-4
    )
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), after.g_params, start.g_params)
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize(
    ("statistics", "domains"), [("both", "st"), ("source", "s"), ("target", "t")]
)
def test_running_statistics_follow_the_policy(statistics, domains):
    step, start = small_step(BOTH, statistics=statistics, beta=None)
    after, _ = jax.jit(step)(start, batch())
    prepared = prepared_batch(batch(), None)
    stats = start.g_stats
    for domain in domains:
        image = prepared["source_image" if domain == "s" else "target_image"]
        _, new = Small().apply(
            {"params": start.g_params, "batch_stats": stats},
            image,
            train=True,
            mutable=["batch_stats"],
        )
        stats = new["batch_stats"]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), after.g_stats, stats
    )


def test_a_term_of_weight_zero_is_not_traced():
    def flops(objective):
        step, start = small_step(objective, beta=None)
        return jax.jit(step).lower(start, batch()).compile().cost_analysis()["flops"]

    assert flops({"seg": 1.0, "adv_output": 0.0}) < 0.7 * flops(BOTH)


def test_ignored_pixels_only_gives_zero_loss_and_moves_nothing_but_decay():
    step, start = small_step({"seg": 1.0}, beta=None)
    nothing = batch(target=False)
    nothing["source_label"][:] = 255
    after, logs = jax.jit(step)(start, nothing)
    assert logs["seg"] == 0
    assert logs["grad_norm"] == 0
    # poly lr .05 and decay 1e-4 shrink every weight by 5e-6 of itself, no more
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b * (1 - 5e-6), rtol=1e-6, atol=1e-9),
        after.g_params,
        start.g_params,
    )


def test_unknown_terms_and_losses_are_named():
    known = known_terms()
    with pytest.raises(ValueError, match=r"term of the objective 'sge'; known: adv_"):
        terms.select(known, {"sge": 1.0})
    with pytest.raises(ValueError, match="no term"):
        terms.select(known, {"seg": 0.0})
    with pytest.raises(ValueError, match="pixel loss 'ce'; known: cross_entropy, focal, ohem"):
        pixel_losses.pixel_loss("ce", pixel_losses.Options())
    with pytest.raises(ValueError, match="GAN loss 'wgan'; known: bce, least_squares"):
        known_terms("wgan")


@pytest.mark.parametrize("name", CONFIGS)
def test_one_step_of_every_config(name):
    """Real networks, two devices: finite, both networks move, no second compilation."""
    whole = config(name)
    trains = [s for s in experiment.stages(whole).values() if s.kind == "train"]
    for chosen in trains[:1]:
        stage = build.build(chosen, axis_name=parallel.AXIS)
        mesh = parallel.mesh()
        begin = parallel.replicate(build.initial_state(stage, chosen), mesh)
        before = jax.tree.map(np.asarray, (begin.g_params, begin.d_params))
        traces = []
        inner = build.train_step(stage, chosen, axis_name=parallel.AXIS)

        def counted(current, data, inner=inner, traces=traces):
            traces.append(None)
            return inner(current, data)

        step = parallel.pmapped(counted, mesh)
        current = begin
        for n in range(2):
            current, logs = step(current, batch(n, target=stage.needs_target))
            assert all(np.isfinite(v) for v in jax.device_get(logs).values()), logs
        assert len(traces) == 1
        assert int(current.step) == 2
        after = jax.tree.map(np.asarray, (current.g_params, current.d_params))
        still = [
            jax.tree_util.keystr(path)
            for (path, a), b in zip(
                jax.tree_util.tree_leaves_with_path(after), jax.tree.leaves(before), strict=True
            )
            if np.array_equal(a, b)
        ]
        assert not still
        assert bool(stage.discriminators) == (name not in ("source_only", "target_only"))


def test_loss_falls_on_the_built_in_scenes():
    chosen = config("adversarial", fda_beta=0.05, steps=20)
    stage = build.build(chosen)
    step = jax.jit(build.train_step(stage, chosen), donate_argnums=0)
    current, seen = build.initial_state(stage, chosen), []
    for n in range(12):
        current, logs = step(current, streets_batch(n % 3))
        seen.append(float(logs["seg"]))
    assert np.mean(seen[-3:]) < 0.7 * np.mean(seen[:3])


def test_bfloat16_computes_with_float32_parameters():
    chosen = config("adversarial", dtype="bfloat16")
    stage = build.build(chosen)
    current = build.initial_state(stage, chosen)
    assert {leaf.dtype for leaf in jax.tree.leaves(current.g_params)} == {jnp.dtype("float32")}
    after, logs = jax.jit(build.train_step(stage, chosen))(current, batch())
    assert {leaf.dtype for leaf in jax.tree.leaves(after.g_stats)} == {jnp.dtype("float32")}
    assert np.isfinite(float(logs["loss"]))
