"""Runs that are killed, starved, stalled or damaged end in the same bits as undisturbed ones.

The long tests are slow; `pytest -m slow tests/test_faults.py` gives the counts of docs/trust.md.
"""

import contextlib
import fcntl
import functools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
import tiny
from helpers import environment

from rtda_jax.errors import CheckpointError, ConfigError, Interrupted
from rtda_jax.run import checkpoint
from rtda_jax.run.signals import STALLED
from rtda_jax.run.workdir import lock

ROOT = pathlib.Path(__file__).parents[1]
KILLS = 10  # at the touch of a file, and as many at a random time, for each family
FAMILIES = sorted(tiny.FAMILIES)


class Killed(Exception):
    pass


@functools.cache
def undisturbed(family):
    """Returns the leaves, the log and the touched files of an undisturbed run."""
    workdir = pathlib.Path(tempfile.mkdtemp(prefix=f"undisturbed_{family}_"))
    touched = tiny.count_touches(workdir / "checkpoints")
    leaves = tiny.leaves(tiny.run(family, workdir))
    rows, count = log(workdir), touched[0]
    shutil.rmtree(workdir)
    return leaves, rows, count


def log(workdir):
    """Returns the log without the values that depend on the clock."""
    clock = ("images_per_second", "data_wait", "seconds_left")
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in row.items() if k not in clock} for row in rows]


def assert_continues_to_the_same(family, workdir, batches=tiny.stream):
    leaves, rows, _ = undisturbed(family)
    found = tiny.leaves(tiny.run(family, workdir, batches=batches))
    assert found.keys() == leaves.keys()
    assert [name for name in leaves if found[name] != leaves[name]] == []
    assert log(workdir) == rows


def half(family, workdir, step=5):
    """Starts a run that dies while it waits for a step's batch, with checkpoints at 2 and 4."""

    def batches(start):
        for n, made in enumerate(tiny.stream(start), start=start + 1):
            if n == step:
                raise Killed
            yield made

    with pytest.raises(Killed):
        tiny.run(family, workdir, batches=batches)


def start(family, workdir, *words):
    command = [sys.executable, str(ROOT / "tests" / "tiny.py"), family, str(workdir)]
    return subprocess.Popen(
        command + [str(word) for word in words],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, *, seconds=300):
    _, said = process.communicate(timeout=seconds)
    return process.returncode, said


def steps(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdecimal())


# --- kills ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kill", range(KILLS))
@pytest.mark.parametrize("family", FAMILIES)
def test_sigkill_while_files_are_touched(family, kill, tmp_path):
    """The kills hit every part of the run; most of them hit the checkpoint writer."""
    count = undisturbed(family)[2]
    moment = int((kill + np.random.default_rng([1, kill]).random()) * 0.95 * count / KILLS) + 1
    code, said = finish(start(family, tmp_path, "kill_at_touch", moment))
    assert code == -signal.SIGKILL, said
    assert_continues_to_the_same(family, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kill", range(KILLS))
@pytest.mark.parametrize("family", FAMILIES)
def test_sigkill_at_a_random_time(family, kill, tmp_path):
    seconds = 0.6 * np.random.default_rng([2, kill]).random()
    code, said = finish(start(family, tmp_path, "kill_after", seconds))
    assert code == -signal.SIGKILL, said
    assert_continues_to_the_same(family, tmp_path)


@pytest.mark.parametrize("kills", [(1,), (3, 4, 9), (5, 5, 5)])
def test_ended_in_process_and_continued(kills, tmp_path):
    for step in kills:
        half("dacs", tmp_path, step)
    assert_continues_to_the_same("dacs", tmp_path)


def test_the_comparison_sees_a_run_that_repeats_a_step(tmp_path):
    """The tests above would catch data that repeat a batch after a kill."""
    half("dacs", tmp_path)
    with pytest.raises(AssertionError, match="g_params"):
        assert_continues_to_the_same("dacs", tmp_path, lambda start: tiny.stream(max(0, start - 1)))


# --- SIGTERM --------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [3, tiny.STEPS])
def test_a_request_to_stop_saves_the_step_it_is_at(tmp_path, step):
    """A signal at the last step counts too, or else the next stage would start."""

    def batches(begin):
        for n, made in enumerate(tiny.stream(begin), start=begin + 1):
            if n == step:
                os.kill(os.getpid(), signal.SIGTERM)
            yield made

    with pytest.raises(Interrupted, match=f"stopped after step {step}"):
        tiny.run("fda", tmp_path, batches=batches)
    assert steps(tmp_path)[-1] == step
    assert_continues_to_the_same("fda", tmp_path)


SPARSE = {"log_every_steps": 3, "checkpoint_every_steps": 8}  # rows at 3, 6, 8, 9, 12


def sparse(workdir, *, stop=0, kill=0, policy="stop", batches=tiny.stream):
    """Starts a run with several steps per log row, to be stopped at a step or killed before it."""

    def disturbed(begin):
        for n, made in enumerate(batches(begin), start=begin + 1):
            if n == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            if n == kill:
                raise Killed
            yield made

    ends = Interrupted if stop else Killed if kill else ()
    with pytest.raises(ends) if ends else contextlib.nullcontext():
        return tiny.run("fda", workdir, batches=disturbed, on_not_finite=policy, **SPARSE)


@pytest.mark.parametrize("stops", [(4,), (1, 2), (7, 10), (3, 8)])
def test_a_stop_between_two_rows_leaves_no_row_and_changes_none(stops, tmp_path):
    """A run that is stopped, killed two steps later and continued writes the same rows and bits."""
    whole = sparse(tmp_path / "whole")
    for step in stops:
        sparse(tmp_path / "torn", stop=step)
        sparse(tmp_path / "torn", kill=step + 2)
    assert tiny.leaves(sparse(tmp_path / "torn")) == tiny.leaves(whole)
    assert [row["step"] for row in log(tmp_path / "whole")] == [3, 6, 8, 9, 12]
    assert log(tmp_path / "torn") == log(tmp_path / "whole")


@pytest.mark.slow
def test_sigkill_after_a_stop_between_two_rows(tmp_path):
    sparse(tmp_path / "whole")
    sparse(tmp_path / "torn", stop=4)
    fields = [f"{name}={value}" for name, value in SPARSE.items()]
    code, said = finish(start("fda", tmp_path / "torn", "kill_after", 0.1, *fields))
    assert code == -signal.SIGKILL, said
    sparse(tmp_path / "torn")
    assert log(tmp_path / "torn") == log(tmp_path / "whole")


def test_a_stop_whose_checkpoint_is_damaged_falls_back_to_an_earlier_one(tmp_path):
    sparse(tmp_path / "whole")
    for step in (4, 7):
        sparse(tmp_path / "torn", stop=step)
    damage(tmp_path / "torn", 7)
    sparse(tmp_path / "torn")
    assert log(tmp_path / "torn") == log(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_sigterm(family, tmp_path):
    process = start(family, tmp_path, "slow", 0.3)
    while process.poll() is None and not (tmp_path / "metrics.jsonl").exists():
        time.sleep(0.02)
    process.terminate()
    code, said = finish(process)
    assert code == Interrupted.exit_code, said
    assert 0 < steps(tmp_path)[-1] < tiny.STEPS
    assert_continues_to_the_same(family, tmp_path)


# --- damage ---------------------------------------------------------------------------------------


def damage(workdir, step):
    path = max((workdir / "checkpoints" / str(step)).rglob("d/*"), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_flipped_bit_costs_the_steps_since_the_checkpoint_before(family, tmp_path, capsys):
    half(family, tmp_path)
    damage(tmp_path, 4)
    assert_continues_to_the_same(family, tmp_path)
    said = capsys.readouterr().out
    assert "WARNING: the checkpoint of step 4 is damaged" in said
    assert "continues after step 2" in said
    assert [p.name for p in (tmp_path / "damaged").iterdir()] == ["4"]


def test_nothing_healthy_left_is_said_and_the_next_run_starts_anew(tmp_path):
    half("fda", tmp_path)
    for step in (2, 4):
        damage(tmp_path, step)
    with pytest.raises(CheckpointError, match="holds no healthy checkpoint"):
        tiny.run("fda", tmp_path)
    assert_continues_to_the_same("fda", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("flip", range(20))
def test_a_random_bit_of_a_random_file(flip, tmp_path):
    """Damage is either noticed or harmless: the run ends in the same state."""
    half("fda", tmp_path)
    rng = np.random.default_rng([3, flip])
    files = sorted(p for p in (tmp_path / "checkpoints" / "4").rglob("*") if p.is_file())
    path = files[rng.integers(len(files))]
    data = bytearray(path.read_bytes())
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    path.write_bytes(data)
    unread = str(path.relative_to(tmp_path / "checkpoints" / "4")) in checkpoint.UNSEALED[1:]
    assert checkpoint.is_damaged(tmp_path / "checkpoints") != unread
    assert_continues_to_the_same("fda", tmp_path)


# --- disks ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(folder, *options):
    """Mounts a small file system; skips the test where mounting is not allowed."""
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs to mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_files_that_may_not_grow(tmp_path):
    half("fda", tmp_path)
    code, said = finish(start("fda", tmp_path, "small_files", 8000))
    assert code == CheckpointError.exit_code, said
    assert "a checkpoint could not be written" in said
    assert steps(tmp_path) == [2, 4]
    assert_continues_to_the_same("fda", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("free", [4, 20, 40, 60])
def test_a_full_disk(free, tmp_path):
    """The disk has a few KiB left after the checkpoints at 2 and 4; another one needs about 100."""
    half("fda", tmp_path / "before")
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "-t", "tmpfs", "-o", "size=4m", "none"):
        shutil.copytree(tmp_path / "before", disk / "run")
        there = os.statvfs(disk)
        used = (there.f_blocks - there.f_bfree) * there.f_frsize // 1024
        subprocess.run(["mount", "-o", f"remount,size={used + free}k", str(disk)], check=True)
        code, said = finish(start("fda", disk / "run"))
        assert code in (CheckpointError.exit_code, os.EX_IOERR), said
        # A thread of orbax may raise an error as well.
        assert re.search("^(CheckpointError|OSError): .*No space left", said, re.MULTILINE)
        assert steps(disk / "run") == [2, 4]
        folders = [disk / "run" / "checkpoints" / str(step) for step in (2, 4)]
        assert [checkpoint.why_damaged(folder) for folder in folders] == ["", ""]
        shutil.copytree(disk / "run", tmp_path / "after")
    assert_continues_to_the_same("fda", tmp_path / "after")


@pytest.mark.slow
def test_a_folder_that_may_only_be_read(tmp_path):
    run = tmp_path / "run"
    half("fda", run)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with contextlib.ExitStack() as stack:
        if os.geteuid():
            folders = [run, *(p for p in run.rglob("*") if p.is_dir())]
            for folder in folders:
                folder.chmod(0o555)
                stack.callback(folder.chmod, 0o755)
        else:
            stack.enter_context(mounted(run, "--bind", str(run)))
            subprocess.run(["mount", "-o", "remount,ro,bind", str(run)], check=True)
        code, said = finish(start("fda", run))
    assert code in (CheckpointError.exit_code, os.EX_IOERR), said
    assert "Traceback" not in said
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    assert_continues_to_the_same("fda", run)


# --- two at once, and none ------------------------------------------------------------------------


def test_the_second_process_is_refused_and_a_dead_ones_lock_is_free(tmp_path):
    """Starts a process that takes the lock, prints a line and waits to be killed."""
    holder = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout.readline() == b"held\n"
        with (
            pytest.raises(ConfigError, match="in use by another process"),
            lock(tmp_path),
        ):
            pass
        process.kill()
    with (
        lock(tmp_path),
        (tmp_path / ".lock").open("w") as file,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 4, 7])
def test_input_that_never_comes(step, tmp_path):
    code, said = finish(start("fda", tmp_path, "stall_at", step, "stall_seconds=20"))
    assert code == STALLED, said
    assert "Stalled: nothing was finished in 20 s" in said
    assert "in batches" in said
    assert_continues_to_the_same("fda", tmp_path)
