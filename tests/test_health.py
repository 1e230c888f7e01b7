"""Nonfinite updates, injected into either network at one step, and collapsing runs."""

import dataclasses
import json
from unittest import mock

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from helpers import folder_fields, write_folders

from rtda_jax.adapt import step as step_module
from rtda_jax.adapt import terms
from rtda_jax.errors import ConfigError, NotFiniteError
from rtda_jax.losses import Sum
from rtda_jax.run import health
from rtda_jax.run.health import PATIENCE, Alarm, symptoms
from rtda_jax.train import train

POISONED = 3  # counted from 1


def nan_loss(loss, poison):
    return loss * jnp.where(poison, jnp.nan, 1.0)


def nan_gradient(loss, poison):
    """Returns the loss unchanged, with the derivative of a square root at 0 in its gradient."""
    nothing = jnp.sqrt(jnp.where(poison, 0.0, 1.0) * jnp.square(loss))
    return loss + nothing - nothing


def in_generator(poisoned):
    make = terms.TERMS["seg"]

    def poisoned_term(options):
        term = make(options)

        def evaluate(outputs, batch):
            total, count = term.evaluate(outputs, batch)
            return Sum(poisoned(total, batch["poison"].max() > 0), count)

        return dataclasses.replace(term, evaluate=evaluate)

    return mock.patch.dict(terms.TERMS, seg=poisoned_term)


def in_discriminator(poisoned):
    loss = step_module.discriminator_loss

    def discriminator_loss(d_params, method, outputs, batch, counts):
        total, values = loss(d_params, method, outputs, batch, counts)
        poison = batch["poison"].max() > 0
        return poisoned(total, poison), {k: poisoned(v, poison) for k, v in values.items()}

    return mock.patch.object(step_module, "discriminator_loss", discriminator_loss)


def poisoned_batches(start):
    for n, batch in enumerate(helpers.batches(start), start=start + 1):
        index = np.arange(4, dtype=np.int32) + 10 * n
        poison = np.full(4, n == POISONED, np.int32)
        yield {**batch, "poison": poison, "source_index": index, "target_index": index + 5}


WHERE = {
    "generator loss": (in_generator, nan_loss, "grad_norm, loss, .*seg"),
    "generator gradient": (in_generator, nan_gradient, "(pull_target, )?grad_norm, .*"),
    "discriminator loss": (
        in_discriminator,
        nan_loss,
        "d_grad_norm, d_loss, .*d_output_source, .*",
    ),
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
    before = tiny.leaves(run(where, tmp_path / "before", steps=2, on_not_finite="skip"))
    skipped = tiny.leaves(run(where, tmp_path / "skipped", steps=3, on_not_finite="skip"))
    assert {name for name in before if before[name] != skipped[name]} == {".step"}
    assert "the update was skipped" in capsys.readouterr().err
    rows = [
        json.loads(x) for x in (tmp_path / "skipped" / "metrics.jsonl").read_text().split("\n") if x
    ]
    assert [row.get("skipped", 0) for row in rows] == [0, 0, 1]

    fields = {"steps": 3, "optim__schedule_steps": 20}
    after = tiny.run("adversarial", tmp_path / "skipped", batches=clean_unpoisoned, **fields)
    assert tiny.leaves(after) == skipped


def clean_unpoisoned(start):
    raise AssertionError("the stage is finished")


def test_without_the_guard_the_state_is_lost(tmp_path):
    """The test above would catch a step without the guard."""

    def unguarded(step):
        def applied(state, batch):
            new, logs = step(state, batch)
            return new, {**logs, health.SKIPPED: 1.0 - jnp.isfinite(logs["loss"])}

        return applied

    with mock.patch.dict(health.POLICIES, skip=unguarded):
        state = run("generator loss", tmp_path, steps=3, on_not_finite="skip")
    assert not np.isfinite(state.g_params["logits"]["kernel"]).all()


def test_a_guard_that_never_bites_changes_nothing(tmp_path):
    stop, skip = (
        tiny.run("fda", tmp_path / policy, steps=4, on_not_finite=policy)
        for policy in ("stop", "skip")
    )
    # The guard may move roundings, because it is compiled together with the step.
    for one, other in zip(
        jax.tree.leaves(stop.network), jax.tree.leaves(skip.network), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


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
        ({"teacher_classes": 1.1}, "spread over 1.1 classes: it collapses"),
        ({"pull_target": 50.0}, "50 times the source's"),
        ({"data_wait": 0.94}, "94% of the time is spent waiting for images: set store"),
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


def skipped_steps(*losses, leftovers=None):
    pending = health.PendingSteps(health.example_numbers, leftovers)
    for step, loss in enumerate(losses, start=1):
        bad = float(not np.isfinite(loss))
        pending.add(step, {"loss": loss, health.SKIPPED: bad}, {}, ahead=1000)
    return pending


def test_one_good_step_starts_the_count_of_skipped_ones_again():
    bad = [np.nan] * 99
    means = skipped_steps(*bad, 1.0, *bad).means()
    assert means == {"loss": 1.0, health.SKIPPED: 198}
    with pytest.raises(NotFiniteError, match=r"step 200: .* number 100 in a row"):
        skipped_steps(*bad, 1.0, *bad, np.nan).means()
    with pytest.raises(NotFiniteError, match="step 100: "):
        skipped_steps(*bad, np.nan, 1.0).means()


def test_the_count_of_skipped_steps_goes_on_after_a_row_and_after_a_stop():
    pending = skipped_steps(*[np.nan] * 99)
    pending.means()
    left = json.loads(json.dumps(pending.leftovers()))
    assert left == {"rows": [], "skipped": 0, "in_a_row": 99}
    with pytest.raises(NotFiniteError, match="number 100 in a row"):
        skipped_steps(np.nan, leftovers=left).means()
    assert skipped_steps(2.0, *[np.nan] * 99, leftovers=left).means()["loss"] == 2.0


def test_every_infinity_is_not_finite_and_stops_without_a_policy():
    for value in (np.nan, np.inf, -np.inf):
        pending = health.PendingSteps(health.example_numbers)
        pending.add(7, {"loss": 1.0, "grad_norm": value}, {}, ahead=1)
        with pytest.raises(NotFiniteError, match="step 7: grad_norm not finite; no checkpoint"):
            pending.means()


def test_a_row_of_another_release_may_lack_a_log():
    pending = skipped_steps(3.0, leftovers={"rows": [{"other": 9.0}, {"loss": 1.0}]})
    assert pending.means() == {"loss": 2.0}


def test_the_host_waits_for_the_step_that_is_too_far_behind():
    waited = []

    class Logs(dict):
        pass

    with mock.patch.object(jax, "block_until_ready", waited.append):
        pending = health.PendingSteps(health.example_numbers)
        logs = [Logs(loss=float(step)) for step in range(6)]
        for step, row in enumerate(logs):
            pending.add(step, row, {}, ahead=2)
    assert [row["loss"] for row in waited] == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("name", "healthy", "sick"),
    [
        ("target_entropy", 0.01, 0.0099),
        ("target_classes", 1.5, 1.49),
        ("teacher_classes", 1.5, 1.49),
        ("data_wait", 0.5, 0.51),
        ("pull_target", 10.0, 10.1),
        ("pull_weak", 10.0, 10.1),
        ("pull_strong", 10.0, 10.1),
        ("pull_mixed", 10.0, 10.1),
    ],
)
def test_the_limits_of_health(name, healthy, sick):
    assert symptoms({**HEALTHY, name: healthy}) == {}
    assert set(symptoms({**HEALTHY, name: sick})) == {name}


def test_a_discriminator_is_certain_only_if_it_is_on_both_domains():
    def of(source, target):
        return symptoms({"d_x_accuracy_source": source, "d_x_accuracy_target": target})

    assert of(0.99, 1.0) == of(1.0, 0.99) == {}
    assert set(of(0.991, 1.0)) == {"d_x_accuracy"}


def test_without_a_gradient_of_the_source_no_view_overpowers_it():
    assert symptoms({"pull_source": 0.0, "pull_target": 99.0}) == {}


def test_leftovers_are_those_of_one_step(tmp_path):
    path, left = tmp_path / "leftovers.json", {"rows": [{"loss": 1.0}], "skipped": 0}
    nothing = {"rows": [], "skipped": 0}
    assert health.read_leftovers(path, step=3) == {}
    health.save_leftovers(path, nothing, step=3, steps=[])
    assert not path.exists()
    health.save_leftovers(path, left, step=4, steps=[])
    health.save_leftovers(path, left, step=6, steps=[4])
    assert health.read_leftovers(path, step=4) == health.read_leftovers(path, step=6) == left
    health.save_leftovers(path, nothing, step=6, steps=[4, 6])  # removes the entry of before
    assert health.read_leftovers(path, step=6) == {}
    assert health.read_leftovers(path, step=4) == left
    health.save_leftovers(path, left, step=8, steps=[6])  # 4 has no checkpoint any longer
    assert json.loads(path.read_text()) == {"8": left}


@pytest.mark.parametrize("data", ["", "[]", '{"x": {}}', '{"4": [1]}', '{"-4": {}}'])
def test_damaged_leftovers_are_said_and_cost_one_row(tmp_path, data, capsys):
    path = tmp_path / "leftovers.json"
    path.write_text(data)
    assert health.read_leftovers(path, step=4) == {}
    assert "leftovers.json is damaged" in capsys.readouterr().out
    health.save_leftovers(path, {"rows": [1]}, step=4, steps=[])
    assert health.read_leftovers(path, step=4) == {"rows": [1]}
