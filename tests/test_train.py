import functools
import itertools
import json
import os
import signal
import threading
import time
import types

import jax
import numpy as np
import pytest
from helpers import batch, batches, config, shrink

from rtda_jax import train as train_loop
from rtda_jax.adapt import build, terms
from rtda_jax.data.batches import check_batch
from rtda_jax.errors import ConfigError, DataError, Interrupted, NotFiniteError
from rtda_jax.run import parallel, signals
from rtda_jax.train import Journal, LoopOptions, train
from rtda_jax.weights import export_pretrained


class Killed(Exception):
    pass


def killed_at(step):
    """A stream that dies while step `step` (counted from 1) asks for its batch."""

    def stream(start):
        for n, made in enumerate(batches(start), start=start + 1):
            if n == step:
                raise Killed
            yield made

    return stream


@functools.cache
def chosen():
    return config("adversarial", fda_beta=0.05)


@pytest.fixture
def tiny(monkeypatch):
    """Networks of a few convolutions, but for the test that reads weights of a real one."""
    shrink(monkeypatch)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        return jax.device_get(train(chosen(), folder, batches=batches)), folder


def assert_bitwise(one, other):
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True
    ):
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), jax.tree_util.keystr(path)


# Checkpoints lie after steps 2 and 4, the stage ends after step 6.
@pytest.mark.parametrize("kills", [(1,), (4,), (5,), (6,), (3, 4, 6)])
def test_killed_and_continued_is_bitwise_the_undisturbed_run(kills, undisturbed, tiny, tmp_path):
    for step in kills:
        with pytest.raises(Killed):
            train(chosen(), tmp_path, batches=killed_at(step))
    final = jax.device_get(train(chosen(), tmp_path, batches=batches))
    assert_bitwise(final, undisturbed[0])
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    expected = [json.loads(x) for x in (undisturbed[1] / "metrics.jsonl").read_text().splitlines()]
    assert [r["loss"] for r in rows] == [r["loss"] for r in expected]


def test_a_finished_stage_trains_no_further(undisturbed, tiny):
    def never(start):
        raise AssertionError("no batch is needed")

    assert_bitwise(jax.device_get(train(chosen(), undisturbed[1], batches=never)), undisturbed[0])


def test_another_seed_is_another_run(undisturbed, tiny, tmp_path):
    other = config("adversarial", fda_beta=0.05, seed=1, steps=1)
    final = jax.device_get(train(other, tmp_path, batches=batches))
    assert not np.array_equal(
        final.g_params["logits"]["kernel"], undisturbed[0].g_params["logits"]["kernel"]
    )


def test_log_lines_hold_what_people_watch(undisturbed):
    last = (undisturbed[1] / "metrics.jsonl").read_text().splitlines()[-1]
    row = json.loads(last)
    assert {
        "step", "loss", "seg", "seg_aux16", "seg_aux32", "adv_output", "d_loss", "g_lr", "d_lr",
        "d_output_accuracy_source", "d_output_accuracy_target", "images_per_second", "data_wait",
        "seconds_left", "grad_norm", "d_grad_norm",
    } <= set(row)  # fmt: skip
    terms_of_the_run = {"seg", "seg_aux16", "seg_aux32", "adv_output"}
    assert {name for name in row if not terms.is_logged(name)} == terms_of_the_run
    assert row["g_lr"] == pytest.approx(0.01 * (1 - 5 / 6) ** 0.9)
    assert row["d_lr"] == pytest.approx(1e-4 * (1 - 5 / 6) ** 0.9)


@pytest.mark.parametrize("target", [True, False])
def test_a_row_has_the_rates_of_its_last_step_and_the_speed_since_the_row_before(
    target, tmp_path, monkeypatch, capsys
):
    """Steps take two seconds, and half a second of each is waiting; rows come after 3 and 5."""
    seconds = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: seconds[0])
    method = types.SimpleNamespace(
        needs_target=target,
        objective={"seg": None},
        adversary=types.SimpleNamespace(networks={"output": None} if target else {}),
        g_schedule=lambda step: 0.5 - step / 100,
        d_schedule=lambda step: 0.25 - step / 100,
    )
    made = config("source_only", batch_size=6, steps=9)
    journal = Journal(
        tmp_path, made, LoopOptions(), method, names=lambda domain, numbers: [], start_step=0
    )

    def stream():
        while True:
            seconds[0] += 0.5
            yield {}

    batches = stream()
    with journal:
        for step in range(1, 6):
            batch = journal.wait_for(batches)
            seconds[0] += 1.5 if step > 1 else 29.5
            journal.add(step, {"loss": 1.0 * step, "seg": 2.0 * step}, batch)
            if step in (3, 5):
                journal.write_row(step)
    rows = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 5]
    assert [(row["loss"], row["seg"]) for row in rows] == [(2.0, 4.0), (4.5, 9.0)]
    assert [row["g_lr"] for row in rows] == pytest.approx([0.48, 0.46])
    if target:
        assert [row["d_lr"] for row in rows] == pytest.approx([0.23, 0.21])
    assert target == ("d_lr" in rows[0])
    for row in rows:  # the first step, with the compilation, does not count
        assert row["images_per_second"] == pytest.approx(6 if target else 3)
        assert row["data_wait"] == pytest.approx(0.25)
    assert [row["seconds_left"] for row in rows] == pytest.approx([12, 8])
    assert "first step after 30s (compilation, or its cache)" in capsys.readouterr().out


def test_a_teacher_begins_as_its_student_does_after_all_initialisers(tiny):
    method = build.build(config("dacs"), axis_name=parallel.AXIS)
    nothing = types.SimpleNamespace(latest_step=lambda: None)
    begin = functools.partial(
        train_loop._begin, method, parallel.mesh(), nothing, stop=threading.Event()
    )

    def change(function):
        def initialise(state):
            return state.replace(g_params=jax.tree.map(function, state.g_params)), "changed"

        return initialise

    fresh = build.initial_state(method).g_params
    step, state = begin([change(lambda x: 2 * x), change(lambda x: x + 1)], None)
    assert step == 0
    for params in (state.g_params, state.teacher["params"]):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, 2 * b + 1, rtol=1e-6), params, fresh
        )

    def taught(state):
        return state.replace(teacher=jax.tree.map(lambda x: x - 9, state.teacher)), "taught"

    _, state = begin([change(lambda x: 3 * x)], taught)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, 3 * b - 9, rtol=1e-6),
        state.teacher["params"],
        fresh,
    )


def test_not_finite_stops_before_a_checkpoint_and_names_step_and_term(tiny, tmp_path):
    made = config("source_only", checkpoint_every_steps=3, log_every_steps=5, steps=6)
    made.optim.g_lr = 1e30

    with pytest.raises(NotFiniteError, match=r"step [23]: .*(loss|seg|grad_norm).* not finite"):
        train(made, tmp_path, batches=functools.partial(batches, target=False))
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert kept == []


def test_a_signal_ends_the_making_of_the_first_state(tiny, tmp_path, monkeypatch):
    running = threading.Event()

    def slow(method):
        os.kill(os.getpid(), signal.SIGTERM)
        running.wait(20)
        raise RuntimeError("nobody waits for this")

    monkeypatch.setattr(build, "initial_state", slow)
    monkeypatch.setattr(signals, "_compiling", [])
    begin = time.monotonic()
    with pytest.raises(Interrupted, match="stopped before the first step; the same command"):
        train(chosen(), tmp_path, batches=batches)
    assert time.monotonic() - begin < 15
    running.set()


def test_batch_must_divide_by_the_devices(tmp_path):
    with pytest.raises(ConfigError, match="batch_size 3 is not divisible by the 2 devices"):
        train(config("source_only", batch_size=3), tmp_path, batches=batches)


@pytest.mark.parametrize("field", ["init", "taught_by", "pseudo_labels"])
def test_an_earlier_stage_is_only_known_to_an_experiment(field, tmp_path):
    made = config("source_only", **{field: "before"})
    with pytest.raises(ConfigError, match=f"{field}='before' names a stage, which only an exper"):
        train(made, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_newest_checkpoints_are_kept(undisturbed):
    kept = sorted(int(p.name) for p in (undisturbed[1] / "checkpoints").iterdir())
    assert kept == [4, 6]


def test_batches_are_a_function_of_the_step():
    a, b = batch(3), batch(3)
    assert all(np.array_equal(a[k], b[k]) for k in a)


def test_training_starts_from_a_file_of_weights(tmp_path):
    made = config("source_only", steps=1, optim__g_lr=0.0)
    other = build.initial_state(build.build(config("source_only", seed=5)))
    variables = other.network
    path = tmp_path / "weights.safetensors"
    export_pretrained(variables, "bisenet_resnet18", str(path), normalisation="imagenet")
    made.model.pretrained, made.model.pretrained_part = str(path), "all"
    source = functools.partial(batches, target=False)
    final = train(made, tmp_path / "run", batches=source)
    np.testing.assert_array_equal(
        final.g_params["backbone"]["conv1"]["kernel"], other.g_params["backbone"]["conv1"]["kernel"]
    )
    made.normalisation = "caffe_bgr"
    with pytest.raises(ConfigError, match="trained with normalisation 'imagenet'"):
        train(made, tmp_path / "other", batches=source)
    made.model.pretrained = str(tmp_path / "absent.pth")
    with pytest.raises(ConfigError, match=r"absent\.pth"):
        train(made, tmp_path / "third", batches=source)


@pytest.mark.usefixtures("tiny")
def test_a_folder_of_another_configuration_and_batches_that_end_are_refused(tmp_path):
    def some(start):
        return itertools.islice(batches(start), 1)

    with pytest.raises(DataError, match="the batches end before the last of 6 steps"):
        train(chosen(), tmp_path / "short", batches=some)
    train(chosen(), tmp_path, batches=batches)
    other = chosen().copy_and_resolve_references()
    other.data_dir, other.eval.pictures = "elsewhere", 1  # these decide nothing that is trained
    train(other, tmp_path, batches=batches)
    other.optim.g_lr = 0.5
    with pytest.raises(ConfigError, match=r"began with optim\.g_lr=0\.01, and now it is 0\.5"):
        train(other, tmp_path, batches=batches)


def changed(**arrays):
    """The first batch of the helpers with other arrays; None leaves a key out."""
    made = {**batch(), "target_index": np.arange(4), **arrays}
    return {key: array for key, array in made.items() if array is not None}


IMAGES = np.zeros((4, 32, 64, 3), np.uint8)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"source_image": IMAGES / np.float32(255)},
            r"source_image of .* float32 \(4, 32, 64, 3\)",
        ),
        (
            {"source_image": IMAGES[:2]},
            r"is uint8 \(2, 32, 64, 3\); expected uint8 \(4, 32, 64, 3\)",
        ),
        (
            {"target_image": IMAGES[:, :16]},
            r"target_image .* \(4, 16, 64, 3\); .* crops of \(32, 64\)",
        ),
        (
            {"target_image": IMAGES.transpose(0, 3, 1, 2)},
            r"target_image .* is uint8 \(4, 3, 32, 64\)",
        ),
        ({"target_image": None}, "target_image of the first batch is absent"),
        ({"source_label": None}, "source_label of the first batch is absent"),
        ({"source_label": IMAGES}, r"source_label .* \(4, 32, 64, 3\); expected integer"),
        ({"source_label": np.zeros((4, 32, 64))}, r"source_label .* is float64 \(4, 32, 64\)"),
        ({"target_label": IMAGES[:, :, ::2, 0]}, r"target_label .* is uint8 \(4, 32, 32\)"),
        (
            {"source_index": np.arange(5)},
            r"source_index .* is int64 \(5,\); expected integer \(4,\)",
        ),
    ],
)
def test_a_first_batch_that_contradicts_the_configuration_is_refused(arrays, message, tmp_path):
    with pytest.raises(DataError, match=message):
        train(chosen(), tmp_path, batches=lambda start: iter([changed(**arrays)] * 9))
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.usefixtures("tiny")
def test_labels_of_any_integer_type_and_keys_of_ones_own_are_taken(tmp_path):
    made = config("source_only", steps=1)
    labels = batch()["source_label"].astype(np.int64)
    several = changed(source_label=labels, target_image=None, target_label=None, mine=np.zeros(4))
    train(made, tmp_path, batches=lambda start: iter([several]))


def test_pseudo_labels_are_asked_for_where_terms_read_them():
    made = config(objective__pseudo=1.0, pseudo_labels="label")
    check_batch(changed(), made, needs_target=True)
    with pytest.raises(DataError, match="target_label of the first batch is absent"):
        check_batch(changed(target_label=None), made, needs_target=True)


def test_a_process_brings_its_share_of_a_batch(monkeypatch):
    monkeypatch.setattr(parallel, "process", lambda: (1, 2))
    made = config("adversarial")
    check_batch(batch(size=2), made, needs_target=True)
    with pytest.raises(DataError, match="batch_size=4, of which this process has 2"):
        check_batch(batch(size=4), made, needs_target=True)


def test_crops_of_the_source_have_a_size_of_their_own():
    made = config("adversarial")
    made.benchmark.source_crop = (16, 64)
    half = {key: batch()[key][:, :16] for key in ("source_image", "source_label")}
    check_batch({**batch(), **half}, made, needs_target=True)
    with pytest.raises(DataError, match=r"expected uint8 \(4, 16, 64, 3\)"):
        check_batch(batch(), made, needs_target=True)
