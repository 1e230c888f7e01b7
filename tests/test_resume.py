"""The command line in processes of its own: stopped, killed, and called again."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from helpers import folder_fields

MAIN = pathlib.Path(__file__).parents[1] / "main.py"


def command(root, workdir, *more):
    fields = {**folder_fields(root), "batch_size": 2, "checkpoint_every_steps": 2, **dict(more)}
    arguments = [f"--config.{name}={value}" for name, value in fields.items()]
    return [
        sys.executable,
        str(MAIN),
        f"--config={MAIN.parent / 'configs' / 'adversarial.py'}:folders",
        "--config.benchmark.crop=(32,64)",
        "--config.benchmark.size=(32,64)",
        "--config.log_every_steps=1",
        f"--workdir={workdir}",
        *arguments,
    ]


def environment(tmp_path):
    return {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu"}


def wait_for_step(workdir, step, process):
    log = workdir / "train" / "metrics.jsonl"
    while process.poll() is None:
        if log.exists() and len(log.read_text().splitlines()) >= step:
            return
        time.sleep(0.05)
    raise AssertionError(process.communicate())


def checkpoint_bytes(workdir):
    import orbax.checkpoint as ocp

    steps = sorted(int(p.name) for p in (workdir / "train" / "checkpoints").iterdir())
    tree = ocp.StandardCheckpointer().restore(
        (workdir / "train" / "checkpoints" / str(steps[-1]) / "default").absolute()
    )

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return steps[-1], {
        jax.tree_util.keystr(path): np.asarray(
            jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        ).tobytes()
        for path, x in leaves
    }


def measured(workdir):
    """All that results.json says of the stages but for how long they took.

    The seals in `weights` differ as well, because orbax draws the names of its files.
    """
    stages = json.loads((workdir / "results.json").read_text())["stages"]
    return {
        name: {k: v for k, v in stage.items() if k not in ("seconds", "weights")}
        for name, stage in stages.items()
    }


@pytest.mark.slow
def test_sigterm_and_sigkill_then_the_same_command_is_bitwise_undisturbed(root, tmp_path):
    """Separate processes: one undisturbed, one asked to stop, killed and continued."""
    steps = ("steps", 12)
    subprocess.run(command(root, tmp_path / "whole", steps), check=True, env=environment(tmp_path))
    begin = command(root, tmp_path / "torn", steps)
    first = subprocess.Popen(begin, env=environment(tmp_path), stderr=subprocess.PIPE, text=True)
    wait_for_step(tmp_path / "torn", 3, first)
    first.send_signal(signal.SIGTERM)
    _, said = first.communicate(timeout=120)
    assert first.returncode == 75, said
    assert "the same command continues" in said
    second = subprocess.Popen(begin, env=environment(tmp_path))
    wait_for_step(tmp_path / "torn", 7, second)
    second.kill()
    second.wait()
    subprocess.run(begin, check=True, env=environment(tmp_path))
    assert checkpoint_bytes(tmp_path / "torn") == checkpoint_bytes(tmp_path / "whole")
    stages = [measured(tmp_path / name) for name in ("whole", "torn")]
    assert stages[0] == stages[1]
    assert stages[0]["evaluate"]["step"] == 12
