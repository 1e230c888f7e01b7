import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SIZE, TinyDiscriminator, batch, config, in_training
from jax.sharding import NamedSharding, PartitionSpec
from steps import BOTH, prepared_batch, run, small_method, small_step, uneven

from rtda_jax.adapt import adversary, build, terms, views
from rtda_jax.adapt import step as adapt_step
from rtda_jax.adapt.method import forward
from rtda_jax.adapt.step import make_train_step
from rtda_jax.run import parallel

pytestmark = pytest.mark.usefixtures("tiny_networks")


def on_a_sharded_batch(step, mesh):
    split = NamedSharding(mesh, PartitionSpec(parallel.AXIS))
    return lambda state, batch: jax.jit(step)(state, jax.device_put(dict(batch), split))


def test_jit_pmap_and_sharded_jit_agree():
    mesh = parallel.mesh()
    assert mesh.size == 2
    plain, start = small_step(BOTH, fda_beta=0.05)
    expected, logs = run(jax.jit(plain), start)
    mapped, start = small_step(BOTH, axis_name=parallel.AXIS, fda_beta=0.05)
    for step in (parallel.pmapped(mapped, mesh), on_a_sharded_batch(plain, mesh)):
        _, start = small_step(BOTH, fda_beta=0.05)
        got, got_logs = run(step, parallel.replicate(start, mesh))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            (got.g_params, got.g_stats),
            (expected.g_params, expected.g_stats),
        )
        # Adam's first step moves every weight by the learning rate, however small its gradient:
        # where that is hardly more than rounding, so is its direction.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-4),
            (got.d_params, got_logs),
            (expected.d_params, logs),
        )


def test_loss_is_the_mean_over_all_valid_pixels_of_all_devices():
    mesh = parallel.mesh()
    mapped, start = small_step({"seg": 1.0}, axis_name=parallel.AXIS)
    _, logs = parallel.pmapped(mapped, mesh)(parallel.replicate(start, mesh), uneven())
    _, start = small_step({"seg": 1.0})
    prepared = prepared_batch(uneven())
    outputs, _ = in_training(start, prepared["source_image"])
    logits, labels = np.float64(outputs["logits"]), uneven()["source_label"]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    valid = labels != 255
    picked = np.take_along_axis(log_p, np.where(valid, labels, 0)[..., None].astype(int), -1)
    np.testing.assert_allclose(logs["seg"], -picked[..., 0][valid].mean(), rtol=1e-4)


@pytest.mark.parametrize("batch_norm", ["batch", "frozen"])
def test_source_and_target_may_have_sizes_of_their_own(batch_norm):
    method = small_method(BOTH)
    options = dataclasses.replace(method.model, batch_norm=batch_norm)
    method = dataclasses.replace(method, model=options)
    start = build.initial_state(method)
    made, wide = batch(), batch(1)
    made["source_image"] = np.concatenate([made["source_image"], wide["source_image"]], axis=2)
    made["source_label"] = np.concatenate([made["source_label"], wide["source_label"]], axis=2)
    views_of = views.prepare(method.preparation, made, jax.random.key(0), start)
    outputs, _ = jax.jit(lambda b: forward(method, start.g_params, start.g_stats, b))(views_of)
    stats = start.g_stats
    for view in ("source", "target"):
        alone, updated = method.generator.apply(
            {"params": start.g_params, "batch_stats": stats},
            views_of[f"{view}_image"],
            train=True,
            mutable=["batch_stats"],
        )
        stats = updated["batch_stats"]
        np.testing.assert_allclose(outputs[view]["logits"], alone["logits"], rtol=1e-4, atol=1e-5)
    _, logs = jax.jit(make_train_step(method))(start, made)
    assert all(np.isfinite(value) for value in logs.values())
    verdicts = method.adversary.judge(start.d_params, outputs["target"], size=SIZE)["output"]
    expected = np.log1p(np.exp(np.float64(verdicts))).mean()  # as if from the source
    np.testing.assert_allclose(logs["adv_output"], expected, rtol=1e-5)


@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_generator_and_discriminator_move_by_their_own_losses_only(factor):
    step, start = small_step(
        {"seg": 0.0, "adv_output": 1.0}, fda_beta=0.05, adversary__d_factor=factor
    )
    after, logs = jax.jit(step)(start, batch())
    d_loss = logs["d_loss"]
    np.testing.assert_allclose(
        d_loss, factor * (logs["d_output_source"] + logs["d_output_target"]), rtol=1e-6
    )
    # The discriminator's gradient, written down again; the generator is constant in it.
    prepared = prepared_batch(batch(), fda_beta=0.05)

    def judge(d_params, domain):
        out, _ = in_training(start, prepared[f"{domain}_image"])
        return TinyDiscriminator().apply(
            {"params": d_params["output"]}, jax.nn.softmax(out["logits"])
        )

    def loss(d_params):
        source, target = judge(d_params, "source"), judge(d_params, "target")
        losses = jnp.log1p(jnp.exp(source)).mean() + jnp.log1p(jnp.exp(-target)).mean()
        return factor * losses

    grads = jax.grad(loss)(start.d_params)
    np.testing.assert_allclose(
        logs["d_grad_norm"], np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads))), rtol=1e-3
    )
    # The generator is rewarded where the target is judged as source, label 0.
    np.testing.assert_allclose(
        logs["adv_output"], jnp.log1p(jnp.exp(judge(start.d_params, "target"))).mean(), rtol=1e-4
    )
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), after.g_params, start.g_params)
    assert all(jax.tree.leaves(moved))


def test_the_robust_entropy_is_the_targets():
    step, start = small_step({"robust_entropy": 1.0})
    _, logs = jax.jit(step)(start, batch())
    outputs, _ = in_training(start, prepared_batch(batch())["target_image"])
    p = np.float64(jax.nn.softmax(outputs["logits"]))
    entropy = -(p * np.log(p)).sum(-1) / np.log(19)
    np.testing.assert_allclose(logs["robust_entropy"], ((entropy**2 + 1e-8) ** 2).mean(), rtol=1e-4)


@pytest.mark.parametrize("name", ["dacs", "adversarial"])
def test_every_method_with_a_target_is_watched(name):
    chosen = config(name, "level=feature" if name == "adversarial" else "")
    stage = build.build(chosen)
    step = jax.jit(make_train_step(stage))
    _, logs = step(build.initial_state(stage), batch(target=True))
    assert 0 < float(logs["target_entropy"]) <= 1 < float(logs["target_classes"]) < 19


@pytest.mark.parametrize(
    ("statistics", "domains"), [("both", "st"), ("source", "s"), ("target", "t")]
)
def test_running_statistics_follow_the_policy(statistics, domains):
    step, start = small_step(BOTH, model__statistics=statistics)
    after, _ = jax.jit(step)(start, batch())
    prepared = prepared_batch(batch())
    stats = start.g_stats
    for domain in domains:
        image = prepared["source_image" if domain == "s" else "target_image"]
        _, stats = in_training(start.replace(g_stats=stats), image)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), after.g_stats, stats
    )


@pytest.mark.parametrize("name", ["adv_output", "pseudo", "minent"])
def test_a_term_of_weight_zero_is_not_traced(name):
    def flops(objective):
        step, start = small_step(objective)
        return jax.jit(step).lower(start, batch()).compile().cost_analysis()["flops"]

    assert flops({"seg": 1.0, name: 0.0}) < 0.7 * flops({"seg": 1.0, name: 0.1})


def test_pulls_are_the_gradients_at_the_outputs_of_each_view():
    weights = {"seg": 2.0, "pseudo": 0.5, "minent": 0.3}
    step, start = small_step(weights)
    _, logs = jax.jit(step)(start, batch())
    prepared = prepared_batch(batch())

    def logits(image):
        return in_training(start, image)[0]["logits"]

    def cross_entropy(z, labels):
        counts = labels != 255
        picked = jnp.take_along_axis(
            jax.nn.log_softmax(z), jnp.where(counts, labels, 0)[..., None].astype(int), -1
        )[..., 0]
        return -(picked * counts).sum() / counts.sum()

    def source(z):
        return 2.0 * cross_entropy(z, prepared["source_label"])

    def target(z):
        p = jax.nn.softmax(z)
        entropy = -(p * jnp.log(p)).sum(-1).mean() / np.log(19)
        return 0.5 * cross_entropy(z, prepared["target_label"]) + 0.3 * entropy

    for view, loss in (("source", source), ("target", target)):
        slope = jax.grad(loss)(logits(prepared[f"{view}_image"]))
        np.testing.assert_allclose(logs[f"pull_{view}"], jnp.linalg.norm(slope), rtol=1e-3)
    p = np.float64(jax.nn.softmax(logits(prepared["target_image"])))
    np.testing.assert_allclose(
        logs["target_entropy"], -(p * np.log(p)).sum(-1).mean() / np.log(19), rtol=1e-3
    )
    average = p.mean((0, 1, 2))
    np.testing.assert_allclose(
        logs["target_classes"], np.exp(-(average * np.log(average)).sum()), rtol=1e-3
    )


def test_ignored_pixels_only_gives_zero_loss_and_moves_nothing_but_decay():
    step, start = small_step({"seg": 1.0})
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


def test_steps_draw_differently_and_each_as_its_number_and_the_seed_say():
    method = build.build(config("source_only", "colour=0.5"))
    step, start = jax.jit(make_train_step(method)), build.initial_state(method)
    made = batch(target=False)

    def loss(number, key=start.key):
        state = start.replace(step=jnp.int32(number), key=key)
        return float(step(state, made)[1]["seg"])

    values = [loss(number) for number in range(4)]
    assert len(set(values)) == 4
    assert [loss(number) for number in range(4)] == values
    assert loss(0, jax.random.key(1)) != values[0]


def test_statistics_of_the_target_are_those_of_its_other_views_where_it_is_not_read_itself():
    method = build.build(config("dacs", model__statistics="target", mix__colour="none"))
    start, made = build.initial_state(method), batch()
    after, _ = jax.jit(make_train_step(method))(start, made)
    key = jax.random.fold_in(start.key, start.step)
    labelled, _, _ = adapt_step.label_target(method, start.teacher, made)
    images = views.prepare(method.preparation, labelled, key, start)
    assert "target" not in terms.views(method.objective)
    _, expected = in_training(start, images["mixed_image"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        after.g_stats,
        expected,
    )


def test_statistics_of_a_source_without_a_target_are_the_sources():
    step, start = small_step({"seg": 1.0}, model__statistics="target")
    after, _ = jax.jit(step)(start, batch(target=False))
    _, expected = in_training(start, prepared_batch(batch(target=False))["source_image"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        after.g_stats,
        expected,
    )


def test_the_entropy_of_the_target_is_that_of_the_first_view_that_shows_it():
    rng = np.random.default_rng(6)
    maps = {
        view: {"logits": jnp.float32(rng.normal(0, scale, (2, 4, 6, 5)))}
        for view, scale in (("source", 9), ("masked", 0.5), ("mixed", 1), ("target", 2))
    }

    def expected(view):
        z = np.float64(maps[view]["logits"])
        p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
        average = p.mean((0, 1, 2))
        return {
            "target_entropy": -(p * np.log(p)).sum(-1).mean() / np.log(5),
            "target_classes": np.exp(-(average * np.log(average)).sum()),
        }

    def of_predictions(outputs):
        sums = adapt_step.target_statistics(outputs)
        return adapt_step.described({name: s.total / s.count for name, s in sums.items()})

    for view in ("target", "mixed", "masked"):
        logs = of_predictions(maps)
        assert logs.keys() == expected(view).keys()
        for name, value in expected(view).items():
            np.testing.assert_allclose(logs[name], value, rtol=1e-4, err_msg=view)
        del maps[view]
    assert of_predictions(maps) == {}


def test_the_logged_accuracies_are_those_of_the_discriminator_before_the_step():
    step, start = small_step(BOTH)
    _, logs = jax.jit(step)(start, batch())
    prepared = prepared_batch(batch())
    for domain, sign in (("source", -1), ("target", 1)):
        outputs, _ = in_training(start, prepared[f"{domain}_image"])
        verdict = TinyDiscriminator().apply(
            {"params": start.d_params["output"]}, jax.nn.softmax(outputs["logits"])
        )
        share = (sign * np.asarray(verdict) > 0).mean()
        np.testing.assert_allclose(logs[f"d_output_accuracy_{domain}"], share, atol=1e-6)


def test_a_fresh_state_is_a_function_of_the_seed():
    """Other keys would give every seed other weights than those that were reported for it."""
    method = small_method(BOTH, seed=7)
    state = build.initial_state(method)
    g_key, d_key, step_key = jax.random.split(jax.random.key(7), 3)
    images = jnp.zeros((2, *SIZE, 3))
    variables = method.generator.init(g_key, images, train=True)
    level = adversary.LEVELS["output"].number
    judged = jnp.zeros((2, *SIZE, 19))
    judge = TinyDiscriminator().init(jax.random.fold_in(d_key, level), judged)
    for ours, expected in (
        (state.g_params, variables["params"]),
        (state.g_stats, variables["batch_stats"]),
        (state.d_params["output"], judge["params"]),
    ):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), ours, expected
        )
    np.testing.assert_array_equal(jax.random.key_data(state.key), jax.random.key_data(step_key))
    assert state.step == 0 and state.teacher == {} and state.memory == {}
