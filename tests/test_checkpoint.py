"""Damage to any file of a checkpoint is noticed, and the checkpoint before it is used."""

import json
import os
import pathlib
import shutil
from unittest import mock

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny

from rtda_jax.adapt import build
from rtda_jax.errors import CheckpointError, ConfigError, DeviceMemoryError
from rtda_jax.run import checkpoint, parallel
from rtda_jax.run.workdir import write_json
from rtda_jax.stages.plan import load_network

FIXTURE = pathlib.Path(__file__).parent / "checkpoint_0.1"


def state(step):
    rng = np.random.default_rng(step)
    return {"weights": rng.normal(size=(40, 50)).astype(np.float32), "step": np.int32(step)}


def abstract():
    return checkpoint.abstract(state(0), jax.sharding.SingleDeviceSharding(jax.devices()[0]))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    with checkpoint.manager(root / "checkpoints", keep=3) as held:
        for step in (2, 4, 6):
            checkpoint.save(held, state(step), step=step)
    return root


@pytest.fixture
def run(whole, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return tmp_path


def newest(root):
    """Returns the step and the state from which a run would continue."""
    with checkpoint.manager(root / "checkpoints", keep=3) as held:
        step = held.latest_step()
        return step, step and checkpoint.restore(held, abstract(), step=step)


def files(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def flip_last(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 128
    path.write_bytes(data)


def test_what_was_written_is_healthy(run):
    step, restored = newest(run)
    assert step == 6
    np.testing.assert_array_equal(restored["weights"], state(6)["weights"])
    assert not (run / "damaged").exists()


@pytest.mark.parametrize("damage", [cut, halve, flip, flip_last, pathlib.Path.unlink])
def test_damage_to_any_file_is_found_before_anything_is_read(run, damage, capsys):
    seen = []
    for path in files(run / "checkpoints" / "6"):
        name = path.relative_to(run / "checkpoints" / "6")
        if str(name) in ("commit_success.txt", "_CHECKPOINT_METADATA"):
            continue  # a state is restored without them, see the next test
        if path.name == checkpoint.MANIFEST and damage is pathlib.Path.unlink:
            continue  # as an earlier release left it
        before = path.read_bytes()
        damage(path)
        seen.append(str(name))
        torn = {p: p.read_bytes() for p in files(run / "checkpoints" / "6")}
        with mock.patch.object(checkpoint.ocp, "CheckpointManager", side_effect=AssertionError):
            checkpoint.recover(run / "checkpoints")
        said = capsys.readouterr().out
        assert "WARNING: the checkpoint of step 6 is damaged" in said, name
        assert "the checkpoint of step 4 is used instead" in said
        aside = sorted((run / "damaged").iterdir())
        assert len(aside) == 1
        assert sorted(p.read_bytes() for p in files(aside[0])) == sorted(torn.values())
        aside[0].rename(run / "checkpoints" / "6")
        path.write_bytes(before)
    assert len(seen) >= 6  # orbax writes a few more or less


@pytest.mark.parametrize("name", ["commit_success.txt", "_CHECKPOINT_METADATA"])
@pytest.mark.parametrize("damage", [cut, halve, flip, flip_last, pathlib.Path.unlink])
def test_what_is_not_sealed_is_not_needed(run, name, damage):
    damage(run / "checkpoints" / "6" / name)
    step, restored = newest(run)
    assert step == 6
    np.testing.assert_array_equal(restored["weights"], state(6)["weights"])


def test_without_the_verification_a_flipped_bit_is_not_found_in_time(run):
    """The tests above would catch checkpoints without checksums."""
    arrays = max(files(run / "checkpoints" / "6" / "default"), key=lambda p: p.stat().st_size)
    flip(arrays)
    with mock.patch.object(checkpoint, "why_damaged", return_value=""):
        try:
            _, restored = newest(run)
        except ConfigError:
            raise
        except Exception as error:  # orbax may fail on the damage in any way
            assert not isinstance(error, CheckpointError)
        else:
            assert not np.array_equal(restored["weights"], state(6)["weights"])


def test_two_damaged_ones_and_the_third_is_used(run):
    for step in (4, 6):
        halve(files(run / "checkpoints" / str(step) / "default")[-1])
    step, restored = newest(run)
    assert step == 2
    np.testing.assert_array_equal(restored["weights"], state(2)["weights"])
    assert sorted(p.name for p in (run / "damaged").iterdir()) == ["4", "6"]


def test_a_step_damaged_twice_keeps_both(run):
    flip(files(run / "checkpoints" / "6" / "default")[-1])
    assert newest(run)[0] == 4
    with checkpoint.manager(run / "checkpoints", keep=3) as held:
        checkpoint.save(held, state(6), step=6)
    flip(files(run / "checkpoints" / "6" / "default")[-1])
    assert newest(run)[0] == 4
    assert sorted(p.name for p in (run / "damaged").iterdir()) == ["6", "6-1"]


def test_what_was_set_aside_is_missed_until_it_is_written_again(run):
    """Otherwise a finished stage without its last state would be skipped forever."""
    assert not checkpoint.is_damaged(run / "checkpoints")
    flip(files(run / "checkpoints" / "6" / "default")[-1])
    assert checkpoint.is_damaged(run / "checkpoints")
    assert newest(run)[0] == 4
    assert checkpoint.is_damaged(run / "checkpoints")
    with checkpoint.manager(run / "checkpoints", keep=3) as held:
        checkpoint.save(held, state(6), step=6)
    assert not checkpoint.is_damaged(run / "checkpoints")


def test_no_healthy_one_is_an_error_that_names_them_all(run):
    for step in (2, 4, 6):
        halve(files(run / "checkpoints" / str(step) / "default")[0])
    with pytest.raises(CheckpointError, match="holds no healthy checkpoint") as raised:
        newest(run)
    assert all(f"step {step} is damaged" in str(raised.value) for step in (2, 4, 6))
    assert sorted(p.name for p in (run / "damaged").iterdir()) == ["2", "4", "6"]
    assert newest(run) == (None, None)


def test_a_partial_checkpoint_is_never_taken_for_one(run):
    shutil.copytree(run / "checkpoints" / "6", run / "checkpoints" / "8.orbax-checkpoint-tmp")
    assert newest(run)[0] == 6
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["2", "4", "6"]


def test_a_failure_before_the_seal_leaves_no_checkpoint(run):
    with (
        mock.patch.object(checkpoint, "seal", side_effect=OSError(28, "No space left on device")),
        pytest.raises(CheckpointError, match="No space left on device"),
        checkpoint.manager(run / "checkpoints", keep=3) as held,
    ):
        checkpoint.save(held, state(8), step=8)
    assert newest(run)[0] == 6


def test_what_ends_a_run_is_raised_and_not_what_that_breaks(run):
    with (
        mock.patch.object(checkpoint, "seal", side_effect=OSError(28, "No space left on device")),
        pytest.raises(LookupError),
        checkpoint.manager(run / "checkpoints", keep=3) as held,
    ):
        checkpoint.save(held, state(8), step=8)
        raise LookupError
    assert newest(run)[0] == 6


@pytest.mark.parametrize(
    ("cause", "lost"),
    [
        (jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: Barrier"), True),
        (ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer"), True),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: memory"), False),
        (ValueError("RESOURCE_EXHAUSTED: No space left on device"), False),
    ],
)
def test_a_lost_process_is_told_from_a_checkpoint_that_can_not_be_written(
    run, cause, lost, monkeypatch
):
    def save(self, step, **options):
        raise TimeoutError("Timed out while waiting for a barrier") from cause

    monkeypatch.setattr(ocp.CheckpointManager, "save", save)
    with (
        pytest.raises(CheckpointError) as raised,
        checkpoint.manager(run / "checkpoints", keep=3) as held,
    ):
        checkpoint.save(held, state(8), step=8)
    assert not parallel.peer_died(raised.value)  # a single process cannot lose a peer
    monkeypatch.setattr(parallel, "joined", lambda: True)
    assert parallel.peer_died(raised.value) == lost
    assert not parallel.peer_died(CheckpointError("No space left on device"))


def test_retention_counts_healthy_ones(run):
    """If the newest checkpoint is damaged, the one before stays until a newer one is complete."""
    flip(files(run / "checkpoints" / "6" / "default")[-1])
    with checkpoint.manager(run / "checkpoints", keep=2) as held:
        checkpoint.save(held, state(8), step=8)
        held.wait_until_finished()
        kept = sorted(p.name for p in (run / "checkpoints").iterdir())
    assert kept == ["4", "8"]


def test_a_checkpoint_without_seal_is_used_and_it_is_said(tmp_path, capsys):
    directory = (tmp_path / "checkpoints").resolve()
    with ocp.CheckpointManager(directory) as held:
        held.save(3, args=ocp.args.StandardSave(state(3)))
    step, restored = newest(tmp_path)
    assert step == 3
    np.testing.assert_array_equal(restored["weights"], state(3)["weights"])
    assert "has no sha256.json, so it is not verified" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("full", "raised"),
    [
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory."), DeviceMemoryError),
        (MemoryError(), MemoryError),
    ],
)
def test_a_machine_without_memory_left_damages_no_checkpoint(run, full, raised):
    folder = run / "checkpoints"
    (folder / "6" / checkpoint.MANIFEST).unlink()
    with (
        checkpoint.manager(folder, keep=3) as held,
        mock.patch.object(held, "restore", side_effect=full),
        pytest.raises(raised),
    ):
        checkpoint.resume(held, abstract())
    assert newest(run)[0] == 6


def test_one_without_seal_that_can_not_be_restored_is_set_aside_as_well(run, capsys):
    """Otherwise the same command fails forever, because nothing marks the checkpoint as damaged."""
    for step in (6, 4, 2):
        for path in files(run / "checkpoints" / str(step)):
            path.unlink() if path.name == checkpoint.MANIFEST else path.write_bytes(b"")
        with checkpoint.manager(run / "checkpoints", keep=3) as held:
            if step == 2:
                with pytest.raises(CheckpointError, match="holds no healthy checkpoint"):
                    checkpoint.resume(held, abstract())
                continue
            found, restored = checkpoint.resume(held, abstract())
            assert found == step - 2
            np.testing.assert_array_equal(restored["weights"], state(found)["weights"])
        assert f"WARNING: the checkpoint of step {step} is damaged" in capsys.readouterr().out
    assert sorted(p.name for p in (run / "damaged").iterdir()) == ["2", "4", "6"]


def test_one_with_a_seal_that_holds_another_state_stays(run):
    other = {"weights": abstract()["weights"]}
    with (
        checkpoint.manager(run / "checkpoints", keep=3) as held,
        pytest.raises(CheckpointError, match="step 6 cannot be restored"),
    ):
        checkpoint.resume(held, {**other, "else": other["weights"]})
    assert newest(run)[0] == 6


def test_what_else_lies_among_the_damaged_is_no_step(run):
    (run / "damaged").mkdir()
    for name in (".DS_Store", "notes", "-7"):
        (run / "damaged" / name).touch()
    assert not checkpoint.is_damaged(run / "checkpoints")


def test_files_and_folders_are_flushed_before_the_seal_is_complete(run, monkeypatch):
    folder, flushed = run / "checkpoints" / "6", []
    flush = os.fsync

    def fsync(number):
        flushed.append(pathlib.Path(os.readlink(f"/proc/self/fd/{number}")))
        flush(number)

    monkeypatch.setattr(os, "fsync", fsync)
    checkpoint.seal(folder)
    contents = {
        p for p in folder.rglob("*") if str(p.relative_to(folder)) not in checkpoint.UNSEALED
    }
    assert {*contents, folder, folder.parent} <= set(flushed)
    write_json(run / "new" / "some.json", {})
    assert flushed[-1] == run / "new"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', '{"a": ["x", 2]}', "null", "[" * 9999])
def test_a_seal_that_is_none_is_damage(run, text):
    (run / "checkpoints" / "6" / checkpoint.MANIFEST).write_text(text)
    assert checkpoint.is_damaged(run / "checkpoints")
    assert newest(run)[0] == 4


@pytest.mark.parametrize("family", ["adversarial", "dacs", "tufl"])
def test_the_checkpoints_of_release_0_1_load(family, tmp_path):
    """`python tests/tiny.py FAMILY FOLDER` wrote these checkpoints; the first has no teacher."""
    shutil.copytree(FIXTURE / family / "12", tmp_path / "checkpoints" / "12")
    with tiny.stubs():
        config = tiny.config(family)
        fresh = jax.eval_shape(lambda: build.initial_state(build.build(config)))
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with checkpoint.manager(tmp_path / "checkpoints", keep=2) as held:
        found = tiny.digests(checkpoint.restore(held, checkpoint.abstract(fresh, one)))
    expected = json.loads((FIXTURE / family / "leaves.json").read_text())
    assert {name: found[name] for name in expected} == expected
    assert any("teacher" in name for name in expected) == (family == "dacs")
    assert any("theta" in name for name in expected) == (family == "tufl")


def everything(root):
    return {p: p.is_file() and p.read_bytes() for p in root.rglob("*")}


def test_who_only_reads_changes_nothing(tmp_path, capsys):
    """A partial checkpoint stays, because another process may be writing it."""
    with tiny.stubs():
        tiny.run("dacs", tmp_path / "one")
        plan = {"one": tiny.stage("dacs", "one")}
        partial = tmp_path / "one" / "checkpoints" / "14.orbax-checkpoint-tmp"
        shutil.copytree(tmp_path / "one" / "checkpoints" / "12", partial)
        before = everything(tmp_path)
        model = load_network(plan, "one", tmp_path)
        assert everything(tmp_path) == before
        assert jax.tree.leaves(model.variables)
        flip(max(files(tmp_path / "one" / "checkpoints" / "12"), key=lambda p: p.stat().st_size))
        before = everything(tmp_path)
        with pytest.raises(ConfigError, match="is at step 10 of 12"):
            load_network(plan, "one", tmp_path)
        assert everything(tmp_path) == before
    assert "the checkpoint of step 12 is damaged" in capsys.readouterr().out
