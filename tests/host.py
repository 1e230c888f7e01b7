"""One of several processes on the loopback interface, on stub networks.

PYTHONPATH=. python tests/host.py PORT PROCESSES INDEX JOB WORKDIR [ARGUMENT]

PORT is that of process 0, or "auto" where environment variables describe the job.
"""

import itertools
import os
import pathlib
import signal
import sys
import threading
import time
from unittest import mock

import helpers
import jax
import pytest
import tiny

from configs import base
from rtda_jax import cli, experiment, train
from rtda_jax.data.dataset import fingerprint
from rtda_jax.data.stream import eval_stream
from rtda_jax.errors import ConfigError
from rtda_jax.run import binding, checkpoint, parallel
from rtda_jax.run.options import plain
from rtda_jax.stages import KINDS, pseudo_label, statistics
from rtda_jax.tools import environment


def share(start, seconds=0.0):
    """This process's rows of the batches that one process alone reads."""
    index, count = parallel.process()
    for batch in tiny.stream(start):
        time.sleep(seconds)
        rows = len(batch["source_image"]) // count
        yield {k: v[index * rows : (index + 1) * rows] for k, v in batch.items()}


def run(workdir, family):
    tiny.run(family, workdir, batches=share)


def lose_one(workdir, seconds):
    """The last process is killed in the middle."""

    def batches(start):
        for n, made in enumerate(share(start, 0.1)):
            index, count = parallel.process()
            if n == 1 and index == count - 1:
                threading.Timer(float(seconds), os.kill, (os.getpid(), signal.SIGKILL)).start()
            yield made

    tiny.run("dacs", workdir, batches=batches)


def lose_one_saving(workdir):
    """The last process is killed where it should write its part of the second checkpoint."""
    save = checkpoint.save

    def saved(held, state, *, step):
        index, count = parallel.process()
        if step == 4 and index == count - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        save(held, state, step=step)

    with mock.patch.object(checkpoint, "save", saved):
        tiny.run("dacs", workdir, batches=share)


def stop_one(workdir, step):
    """The last process is asked to stop; all must save the same step."""

    def batches(start):
        for n, made in enumerate(share(start), start=start + 1):
            index, count = parallel.process()
            if n == int(step) and index == count - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield made

    tiny.run("dacs", workdir, batches=batches)


def whole(workdir, root):
    """An experiment with its evaluation, on the tiny folders."""
    with tiny.stubs():
        return experiment.run(experiment_config(root), pathlib.Path(workdir))


def experiment_config(root):
    made = helpers.config("fda", "folders", steps=4, stall_seconds=0.0)
    made.update_from_flattened_dict(helpers.folder_fields(pathlib.Path(root)))
    return made.lock()


def every_kind_config(root):
    """A network is trained, labels the target, gets its statistics anew and is scored."""
    made = helpers.config("adabn", "folders", steps=4, stall_seconds=0.0)
    made.update_from_flattened_dict(helpers.folder_fields(pathlib.Path(root)))
    made.pseudo.split = "eval"  # these folders have no other images
    made.benchmark.source_eval = {**made.benchmark.source.to_dict()}
    made.statistics.batches = 3
    made.stages = ("source_only", "label", "adabn", "eval_source_only")
    made.stage.label = {"kind": "pseudo_label", "models": ("source_only",)}
    return made.lock()


def every_kind(workdir, root):
    """An experiment with a stage of every kind, on networks with real normalisations."""
    with pytest.MonkeyPatch.context() as patch:
        helpers.shrink(patch)
        return experiment.run(every_kind_config(root), pathlib.Path(workdir))


def lose_one_reading(workdir, root, stage, count):
    """The last process is killed when a stage reads one more image than a number of them."""
    module = {"label": pseudo_label, "adabn": statistics}[stage]
    index, processes = parallel.process()
    numbers = itertools.count()  # over all passes of the stage

    def mortal(*args, **options):
        for example in eval_stream(*args, **options):
            if next(numbers) == int(count) and index == processes - 1:
                os.kill(os.getpid(), signal.SIGKILL)
            yield example

    with (
        mock.patch.object(module, "eval_stream", mortal),
        mock.patch.object(pseudo_label, "SAVE_EVERY", 1),
    ):
        every_kind(workdir, root)


def hold(workdir, differing):
    """The last process has another configuration, another version, other data, another folder."""
    workdir = pathlib.Path(workdir)
    index, count = parallel.process()
    odd = index == count - 1
    config = plain(base.get_config())
    versions, commit, data = {"jax": "1"}, "abc", Images(["a", "b"])
    if odd and differing == "configuration":
        config["optim"]["g_lr"] += 1e-9
        config["data_dir"], config["threads"] = "/elsewhere", 7  # of a host
    if odd and differing == "version":
        versions = {"jax": "2"}
    if odd and differing == "commit":
        commit = "def+"
    if odd and differing == "folder":
        workdir = workdir.parent / "elsewhere"
    if odd and differing == "data":
        data = Images(["a", "c"])
    with (
        mock.patch.object(environment, "versions", lambda: versions),
        mock.patch.object(environment, "commit", lambda: commit),
        binding.hold(workdir, config, KINDS),
    ):
        binding.bind_data(workdir / "train", {"source": fingerprint(data)})
        print(f"process {index} holds it")
        if differing == "main":
            parallel.on_main(refuse)


def refuse():
    raise ConfigError("the main process refuses")


class Images:
    """A data set that lies in no files."""

    def __init__(self, keys):
        self.keys = keys

    def where(self, i):
        return "nowhere"


JOBS = {
    "train": run,
    "lose_one": lose_one,
    "lose_one_saving": lose_one_saving,
    "stop_one": stop_one,
    "whole": whole,
    "every_kind": every_kind,
    "lose_one_reading": lose_one_reading,
    "hold": hold,
}


def command(port, processes, index, workdir, root, unforeseen):
    """The program itself; at a step, the last process meets what nobody has thought of."""

    def batches(start):
        for n, made in enumerate(share(start), start=start + 1):
            if n == int(unforeseen) and int(index) == int(processes) - 1:
                raise LookupError("unforeseen")
            yield made

    size = str(helpers.SIZE).replace(" ", "")
    fields = {
        **helpers.folder_fields(pathlib.Path(root)),
        **{"batch_size": 4, "steps": 4, "checkpoint_every_steps": 2, "stages": "('train',)"},
        **{f"benchmark.{name}": size for name in ("size", "crop", "eval_size")},
    }
    words = [
        "--config=fda:folders",
        *(f"--config.{name}={value}" for name, value in fields.items()),
        *(f"--coordinator=127.0.0.1:{port}", f"--num_processes={processes}"),
        *(f"--process_id={index}", f"--workdir={workdir}"),
    ]
    with tiny.stubs(), mock.patch.object(train, "paired_batches", lambda *a, **b: batches):
        sys.exit(cli.main(words))


def main(port, processes, index, job, *arguments):
    if job == "command":
        return command(port, processes, index, *arguments)
    if port == "auto":
        parallel.join("auto")
        assert parallel.process() == (int(index), int(processes))
    else:
        parallel.join(f"127.0.0.1:{port}", processes=int(processes), index=int(index))
    return cli.exit_code_of(lambda: JOBS[job](*arguments))


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 1)
    sys.exit(main(*sys.argv[1:]))
