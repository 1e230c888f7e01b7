"""Several processes on the loopback interface compute what one process computes."""

import json
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from unittest import mock

import helpers
import host
import jax
import numpy as np
import pytest
import tiny

from rtda_jax.errors import ConfigError, DataError
from rtda_jax.run import parallel
from rtda_jax.stages import KINDS, plan

ROOT = pathlib.Path(__file__).parents[1]
SLURM_PORTS = 65536 - 2**12  # JAX adds the job's number modulo 2^12
GONE = 120  # seconds after which a process without its peers must have ended, see docs/trust.md


def free_port(lowest=0):
    """Returns a free port: a random one, or the first one from `lowest` on."""
    with socket.socket() as probe:
        while True:
            try:
                probe.bind(("127.0.0.1", lowest))
                return probe.getsockname()[1]
            except OSError:
                lowest += 1


def slurm(index, count, *, port):
    """Returns the variables that srun sets in each process of a job on one node.

    JAX derives the port from the job's number.

    https://slurm.schedmd.com/srun.html#SECTION_OUTPUT-ENVIRONMENT-VARIABLES
    """
    return {
        "SLURM_JOB_ID": str(port - SLURM_PORTS),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(count),
        "SLURM_PROCID": str(index),
        "SLURM_LOCALID": str(index),
        "SLURM_STEP_NUM_NODES": "1",
    }


def launch(count, job, *arguments, scheduler=None):
    port = free_port(SLURM_PORTS if scheduler else 0)
    return [
        subprocess.Popen(
            [
                sys.executable, str(ROOT / "tests" / "host.py"),
                *map(str, ("auto" if scheduler else port, count, index, job, *arguments)),
            ],
            env=helpers.environment() | (scheduler(index, count, port=port) if scheduler else {}),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for index in range(count)
    ]  # fmt: skip


def finish(processes, *, seconds=300):
    """Returns exit code and output of each process; none is left running."""
    end, rows = time.monotonic() + seconds, []
    try:
        for process in processes:
            out, said = process.communicate(timeout=max(end - time.monotonic(), 1))
            rows.append((process.returncode, out + said))
    finally:
        for process in processes:
            process.kill()
    return rows


def final(family, workdir):
    """Returns the state of a finished workdir, on the two devices of this process."""

    def never(start):
        raise AssertionError("the stage is finished")

    return tiny.run(family, workdir, batches=never)


def assert_close(one, other, *, tolerance):
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True
    ):
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        if jax.tree_util.keystr(path).endswith("['Conv_0']['bias']") and "d_" not in str(path[0]):
            continue  # before a batch normalisation, its gradient is only rounding noise
        scale = np.abs(np.asarray(a)).max() + 1e-30
        np.testing.assert_allclose(
            np.asarray(b) / scale, np.asarray(a) / scale, atol=tolerance, rtol=0,
            err_msg=jax.tree_util.keystr(path),
        )  # fmt: skip


def losses(workdir):
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [(row["step"], row["loss"], row.get("d_loss", 0.0)) for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("family", ["adversarial", "dacs"])
def test_several_train_as_one(family, count, tmp_path):
    one = tiny.run(family, tmp_path / "one")
    rows = finish(launch(count, "train", tmp_path / "several", family))
    assert [code for code, _ in rows] == [0] * count, rows
    np.testing.assert_allclose(losses(tmp_path / "several"), losses(tmp_path / "one"), rtol=1e-5)
    assert_close(one, final(family, tmp_path / "several"), tolerance=1e-4)


@pytest.mark.slow
def test_the_comparison_sees_statistics_that_are_not_global(tmp_path):
    """The test above would catch devices that normalise by their own share of the batch."""
    one = tiny.run("dacs", tmp_path / "one")

    def local(name, num_classes, axis_name=None, **options):
        return tiny.Generator(num_classes, axis_name=None)

    with (
        mock.patch.object(tiny, "create_model", local),
        pytest.raises(AssertionError, match="Not equal to tolerance"),
    ):
        assert_close(one, tiny.run("dacs", tmp_path / "local"), tolerance=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [("lose_one", 0.05), ("lose_one", 0.6), ("lose_one_saving",)])
def test_one_is_killed_the_other_ends_and_one_goes_on(moment, tmp_path):
    job, *seconds = moment
    one = tiny.run("dacs", tmp_path / "one")
    begin = time.monotonic()
    rows = finish(launch(2, job, tmp_path / "several", *seconds), seconds=GONE)
    print(f"both had ended {time.monotonic() - begin:.0f} s after their start")
    assert rows[1][0] == -signal.SIGKILL
    assert rows[0][0] == 8, rows
    assert "Another process of this job is gone" in rows[0][1]
    assert_close(one, tiny.run("dacs", tmp_path / "several"), tolerance=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("unforeseen", "codes"), [(0, [0, 0]), (3, [8, 1])])
def test_the_program_itself(unforeseen, codes, tmp_path):
    """An unexpected error ends all processes at once, with its traceback."""
    helpers.write_folders(tmp_path / "data")
    processes = launch(2, "command", tmp_path / "run", tmp_path / "data", unforeseen)
    rows = finish(processes, seconds=GONE)
    assert [code for code, _ in rows] == codes, rows
    if unforeseen:
        assert "LookupError: unforeseen" in rows[1][1]
    else:
        results = json.loads((tmp_path / "run" / "results.json").read_text())
        assert results["stages"]["train"]["step"] == 4


@pytest.mark.slow
def test_one_is_asked_to_stop_and_both_save_the_same_step(tmp_path):
    one = tiny.run("dacs", tmp_path / "one")
    rows = finish(launch(2, "stop_one", tmp_path / "several", 5))
    assert [code for code, _ in rows] == [75, 75], rows
    assert "stopped after step 5" in rows[0][1]
    rows = finish(launch(4, "train", tmp_path / "several", "dacs"))
    assert [code for code, _ in rows] == [0] * 4, rows
    assert_close(one, final("dacs", tmp_path / "several"), tolerance=1e-4)


@pytest.mark.slow
def test_evaluation_is_summed(tmp_path):
    helpers.write_folders(tmp_path / "data", count=5)
    alone = host.whole(tmp_path / "one", tmp_path / "data")
    rows = finish(launch(2, "whole", tmp_path / "several", tmp_path / "data"))
    assert [code for code, _ in rows] == [0, 0], rows
    # Only the main process introduces the data.
    assert [said.count("of the pixels are ignored") for _, said in rows] == [1, 0]
    together = json.loads((tmp_path / "several" / "results.json").read_text())
    alone, together = (r["stages"]["evaluate"] for r in (alone, together))
    assert together["images"] == 5
    assert together["pixels"] == alone["pixels"]
    assert together["validators"].keys() == alone["validators"].keys()
    for name, value in alone["validators"].items():
        expected = value if value is None else pytest.approx(value, rel=0.01)
        assert together["validators"][name] == expected, name
    difference = np.abs(np.array(together["confusion"]) - np.array(alone["confusion"])).sum()
    assert difference <= 0.001 * alone["pixels"]
    assert (tmp_path / "several" / "evaluate" / "predictions.png").exists()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Returns the workdir of one process, with a stage of every kind, and its data."""
    folder = tmp_path_factory.mktemp("every_kind")
    helpers.write_folders(folder / "data", count=5)
    host.every_kind(folder / "one", folder / "data")
    return folder


def after_training(alone, workdir):
    """Copies the workdir so that only its training is finished."""
    shutil.copytree(alone / "one" / "source_only", workdir / "source_only")
    shutil.copy(alone / "one" / "config.json", workdir)
    return workdir


def assert_equal_stages(one, other, data):
    manifests = [json.loads((w / "label" / "manifest.json").read_text()) for w in (one, other)]
    assert manifests[0] == manifests[1]
    assert len(manifests[0]["files"]) == 5 and 0 < manifests[0]["coverage"] < 1
    with pytest.MonkeyPatch.context() as patch:
        helpers.shrink(patch)
        stages = plan.make_plan(host.every_kind_config(data), KINDS)
        networks = [plan.load_network(stages, "adabn", w) for w in (one, other)]
        before = plan.load_network(stages, "source_only", one).variables["batch_stats"]
    stats = [network.variables["batch_stats"] for network in networks]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *stats)
    assert any(
        (a != b).any() for a, b in zip(*map(jax.tree.leaves, (before, stats[0])), strict=True)
    )
    scores, expected = (
        json.loads((w / "results.json").read_text())["stages"]["eval_source_only"]
        for w in (other, one)
    )
    for exact in ("confusion", "miou", "images", "pixels"):
        assert scores[exact] == expected[exact], exact
    assert scores["validators"] == pytest.approx(expected["validators"], rel=1e-5)
    for exact in ("source_miou", "masked_agreement", "source_images"):
        assert scores["validators"][exact] == expected["validators"][exact], exact


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_label_measure_and_score_as_one(count, alone, tmp_path):
    workdir = after_training(alone, tmp_path)
    rows = finish(launch(count, "every_kind", workdir, alone / "data"))
    assert [code for code, _ in rows] == [0] * count, rows
    assert_equal_stages(alone / "one", workdir, alone / "data")


# One of two processes is killed while it counts its second image, writes its first label or reads
# a batch.
@pytest.mark.slow
@pytest.mark.parametrize(("stage", "count"), [("label", 1), ("label", 2), ("adabn", 2)])
def test_one_is_killed_in_a_stage_and_one_goes_on(stage, count, alone, tmp_path):
    workdir = after_training(alone, tmp_path)
    processes = launch(2, "lose_one_reading", workdir, alone / "data", stage, count)
    rows = finish(processes, seconds=GONE)
    assert [code for code, _ in rows] == [8, -signal.SIGKILL], rows
    assert (workdir / "label" / "manifest.json").exists() == (stage == "adabn")
    host.every_kind(workdir, alone / "data")
    assert_equal_stages(alone / "one", workdir, alone / "data")


def test_an_error_of_one_process_is_raised_in_all(monkeypatch):
    def broken():
        raise DataError("a.png: broken")

    with pytest.raises(DataError, match=r"a\.png: broken"):
        parallel.in_every_process(broken)
    monkeypatch.setattr(parallel, "gather_text", lambda text: [text, "b.png: broken"])
    with pytest.raises(DataError, match=r"b\.png: broken"):
        parallel.in_every_process(lambda: 1)


DIFFERENCES = {
    "configuration": r"config\.optim\.g_lr: 0\.025 in process 0, 0\.025000001 in process 1",
    "version": "version of jax: 1 in process 0, 2 in process 1",
    "commit": r"commit: abc in process 0, def\+ in process 1",
    "folder": "config.json of the workdir, a folder that all must see: .*, False in process 1",
    "data": r"data of source: 2 examples, \w+ in process 0, 2 examples, \w+ in process 1",
    "main": "the main process refuses",
}


@pytest.mark.parametrize(
    "differing",
    ["configuration", *(pytest.param(d, marks=pytest.mark.slow) for d in list(DIFFERENCES)[1:])],
)
def test_processes_that_differ_end_with_the_name_of_the_difference(differing, tmp_path):
    rows = finish(launch(2, "hold", tmp_path / "run", differing))
    assert [code for code, _ in rows] == [2, 2], rows
    for _, said in rows:
        assert re.search(DIFFERENCES[differing], said), said
        assert "data_dir" not in said
    if differing in ("configuration", "version", "commit"):
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("scheduler", [slurm, pytest.param(None, marks=pytest.mark.slow)])
def test_processes_that_agree_hold_a_workdir_together(scheduler, tmp_path):
    rows = finish(launch(2, "hold", tmp_path / "run", "nothing", scheduler=scheduler))
    assert [code for code, _ in rows] == [0, 0], rows
    assert "process 1 holds it" in rows[1][1]
    assert (tmp_path / "run" / "train" / "bound.json").exists()


ALONE = """
import sys
from rtda_jax import cli
from rtda_jax.run import parallel
parallel.PATIENCE = 3
sys.exit(cli.main(["--config=fda", *sys.argv[1:]]))
"""


@pytest.mark.parametrize("index", [0, 1])
def test_a_process_whose_others_never_come_ends_with_a_sentence(index, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    words = [f"--coordinator=localhost:{port}", "--num_processes=2", f"--process_id={index}"]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, f"--workdir={tmp_path / 'run'}", *words],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert f"localhost:{port}: not all of 2 processes answered within 3 seconds" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_one_process_agrees_with_itself():
    assert parallel.gather_text("é") == ["é"]
    parallel.check_agreement({"a": 1, "b": None})
    with pytest.raises(ConfigError, match="main"):
        parallel.on_main(host.refuse)


def test_the_total_of_one_process_is_what_it_has():
    x = np.arange(4)
    assert parallel.sum_counts(x) is x
