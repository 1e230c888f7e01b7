"""Updates that are not finite, injected into either network at one step, and collapsing runs."""

import json
from unittest import mock

import helpers
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from helpers import folder_fields, write_folders

from rtda_jax.adapt import terms
from rtda_jax.errors import ConfigError, NotFiniteError
from rtda_jax.run import health
from rtda_jax.run.health import PATIENCE, Alarm, symptoms
from rtda_jax.train import train

POISONED = 3  # counted from 1


def nan_loss(sums, poison):
    return sums[0] * jnp.where(poison, jnp.nan, 1.0), sums[1]


def nan_gradient(sums, poison):
    """The value as it was, but the derivative of a square root at 0 in its gradient."""
    nothing = jnp.sqrt(jnp.where(poison, 0.0, 1.0) * jnp.square(sums[0]))
    return sums[0] + nothing - nothing, sums[1]


def in_generator(poisoned):
    made = terms.generator_terms

    def generator_terms(**options):
        known = made(**options)
        seg = known["seg"]
        return {**known, "seg": seg._replace(evaluate=wrapped(seg.evaluate, poisoned))}

    return mock.patch.object(terms, "generator_terms", generator_terms)


def in_discriminator(poisoned):
    made = terms.discriminator_terms

    def discriminator_terms(level, **options):
        return {k: wrapped(v, poisoned) for k, v in made(level, **options).items()}

    return mock.patch.object(terms, "discriminator_terms", discriminator_terms)


def wrapped(evaluate, poisoned):
    return lambda outputs, batch: poisoned(evaluate(outputs, batch), batch["poison"].max() > 0)


def poisoned_batches(start):
    for n, batch in enumerate(helpers.batches(start), start=start + 1):
        index = np.arange(4, dtype=np.int32) + 10 * n
        poison = np.full(4, n == POISONED, np.int32)
        yield {**batch, "poison": poison, "source_index": index, "target_index": index + 5}


def clean_batches(start):
    for batch in poisoned_batches(start):
        yield {**batch, "poison": np.zeros(4, np.int32)}


WHERE = {
    "generator loss": (in_generator, nan_loss, "grad_norm, loss, .*seg"),
    "generator gradient": (in_generator, nan_gradient, "(pull_target, )?grad_norm, .*"),
    "discriminator loss": (in_discriminator, nan_loss, "d_grad_norm, d_loss, d_output_source, .*"),
    "discriminator gradient": (in_discriminator, nan_gradient, "d_grad_norm"),
}


def run(where, workdir, *, batches=poisoned_batches, **fields):
    place, poisoned, _ = WHERE[where]
    with place(poisoned):
        return tiny.run("adversarial", workdir, batches=batches, optim__schedule_steps=20, **fields)


@pytest.mark.parametrize("where", WHERE)
def test_stop_names_step_logs_and_examples_and_leaves_no_checkpoint_after_it(where, tmp_path):
    said = rf"step 3: {WHERE[where][2]} not finite \(its batch: source 30, .* target 35, "
    with pytest.raises(NotFiniteError, match=said):
        run(where, tmp_path, log_every_steps=5, steps=6)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["2"]


@pytest.mark.parametrize("where", WHERE)
def test_skip_leaves_every_bit_but_the_counter(where, tmp_path, capsys):
    before = tiny.leaves(run(where, tmp_path / "before", steps=2))
    skipped = tiny.leaves(run(where, tmp_path / "skipped", steps=3, on_not_finite="skip"))
    assert {name for name in before if before[name] != skipped[name]} == {".step"}
    assert "the update was skipped" in capsys.readouterr().err
    rows = [
        json.loads(x) for x in (tmp_path / "skipped" / "metrics.jsonl").read_text().split("\n") if x
    ]
    assert [row.get("skipped", 0) for row in rows] == [0, 0, 1]

    after = tiny.run("adversarial", tmp_path / "skipped", batches=clean_unpoisoned, steps=3)
    assert tiny.leaves(after) == skipped


def clean_unpoisoned(start):
    raise AssertionError("the stage is finished")


def test_without_the_guard_the_state_is_lost(tmp_path):
    """The variant the test above would fail on: the step as it is, its bad logs let through."""

    def unguarded(step):
        def applied(state, batch):
            new, logs = step(state, batch)
            return new, {**logs, health.SKIPPED: 1.0 - jnp.isfinite(logs["loss"])}

        return applied

    with mock.patch.dict(health.POLICIES, skip=unguarded):
        state = run("generator loss", tmp_path, steps=3, on_not_finite="skip")
    assert not np.isfinite(state.g_params["logits"]["kernel"]).all()


def test_a_guard_that_never_bites_changes_no_bit(tmp_path):
    stop, skip = (
        tiny.leaves(tiny.run("fda", tmp_path / policy, steps=4, on_not_finite=policy))
        for policy in ("stop", "skip")
    )
    assert stop == skip


def test_a_stopped_run_goes_on_with_the_other_policy(tmp_path):
    with pytest.raises(NotFiniteError):
        run("generator loss", tmp_path, steps=6)
    state = run("generator loss", tmp_path, steps=6, on_not_finite="skip")
    assert int(state.step) == 6
    assert np.isfinite(state.g_params["logits"]["kernel"]).all()


def test_skipping_for_ever_is_no_training():
    pending = health.PendingSteps(health.example_numbers)
    for step in range(1, 200):
        pending.add(step, {"loss": np.nan, health.SKIPPED: 1.0}, {}, ahead=1000)
    with pytest.raises(NotFiniteError, match=r"step 100: .* skipped step number 100 in a row"):
        pending.means()


def test_the_mean_is_over_the_applied_steps():
    pending = health.PendingSteps(health.example_numbers)
    for step, loss in enumerate((1.0, np.inf, 4.0), start=1):
        bad = float(not np.isfinite(loss))
        pending.add(step, {"loss": loss, health.SKIPPED: bad}, {}, ahead=1000)
    assert pending.means() == {"loss": 2.5, health.SKIPPED: 1}
    pending.add(4, {"loss": np.nan, health.SKIPPED: 1.0}, {}, ahead=1000)
    means = pending.means()
    assert np.isnan(means["loss"])
    assert means[health.SKIPPED] == 1


def test_what_is_left_over_continues_the_count():
    whole, rows = health.PendingSteps(health.example_numbers), (1.0, np.inf, np.inf, 0.1)
    torn = health.PendingSteps(health.example_numbers)
    for step, loss in enumerate(rows, start=1):
        logs = {"loss": np.float32(loss), health.SKIPPED: float(not np.isfinite(loss))}
        for pending in (whole, torn):
            pending.add(step, dict(logs), {}, ahead=1000)
        torn = health.PendingSteps(health.example_numbers, json.loads(json.dumps(torn.leftovers())))
    torn.add(5, {"loss": np.float32(3), health.SKIPPED: 0.0}, {}, ahead=1000)
    whole.add(5, {"loss": np.float32(3), health.SKIPPED: 0.0}, {}, ahead=1000)
    assert torn.means() == whole.means()
    assert not any(torn.leftovers().values())


def test_the_examples_of_a_set_are_named_as_files(tmp_path):
    write_folders(tmp_path)
    made = tiny.config("adversarial", optim__g_lr=1e38, log_every_steps=20)
    fresh = helpers.config("adversarial", "folders")
    made.benchmark = fresh.benchmark
    made.benchmark.size = made.benchmark.crop = helpers.SIZE
    made.update_from_flattened_dict(folder_fields(tmp_path))
    named = r"source 00\d, 00\d, 00\d, 00\d; target 00\d, 00\d, 00\d, 00\d"
    with tiny.stubs(), pytest.raises(NotFiniteError, match=named):
        train(made, tmp_path / "run")


def test_an_unknown_policy_lists_the_known(tmp_path):
    with pytest.raises(ConfigError, match="unknown on_not_finite 'pray'; known: skip, stop"):
        tiny.run("fda", tmp_path, on_not_finite="pray")


HEALTHY = {
    "d_output_accuracy_source": 0.8,
    "d_output_accuracy_target": 0.7,
    "target_entropy": 0.4,
    "target_classes": 9.0,
    "pull_source": 1.0,
    "pull_target": 0.2,
}


def test_a_healthy_log_and_one_without_these_values_are_silent():
    assert symptoms(HEALTHY) == symptoms({"loss": 1.0}) == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"d_output_accuracy_source": 1.0, "d_output_accuracy_target": 0.995}, "discriminator out"),
        ({"target_entropy": 0.001}, "sure of everything"),
        ({"target_classes": 1.1}, "one class is taking all"),
        ({"pull_target": 50.0}, "50 times the source's"),
    ],
)
def test_each_injected_collapse_is_named_once_after_some_patience(change, words):
    alarm, said = Alarm(), []
    for _ in range(2 * PATIENCE):
        said.append(alarm({**HEALTHY, **change}))
    assert [len(warnings) for warnings in said] == [0] * (PATIENCE - 1) + [1] + [0] * PATIENCE
    assert words in said[PATIENCE - 1][0]


def test_one_sided_accuracy_is_healthy_and_a_recovery_starts_the_count_again():
    assert symptoms({**HEALTHY, "d_output_accuracy_source": 1.0}) == {}
    alarm = Alarm()
    sick = {**HEALTHY, "target_entropy": 0.0}
    assert not any(alarm(r) for r in [sick, sick, HEALTHY, sick, sick])
    assert alarm(sick)
