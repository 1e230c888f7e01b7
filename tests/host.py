"""One of several processes on the loopback interface, on stub networks.

PYTHONPATH=. python tests/host.py PORT PROCESSES INDEX JOB WORKDIR [ARGUMENT]
"""

import os
import pathlib
import signal
import sys
import threading
import time
from unittest import mock

import helpers
import jax
import tiny

from rtda_jax import evaluate, experiment, parallel


def share(start, seconds=0.0):
    """This process's rows of the batches that one process alone reads."""
    index, count = parallel.process()
    for batch in tiny.stream(start):
        time.sleep(seconds)
        rows = len(batch["source_image"]) // count
        yield {k: v[index * rows : (index + 1) * rows] for k, v in batch.items()}


def train(workdir, family):
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
    # The stub's layers are not those that fold into one another.
    unfolded = mock.patch.object(evaluate, "fold", lambda module, variables: (module, variables))
    with tiny.stubs(), unfolded:
        return experiment.run(experiment_config(root), pathlib.Path(workdir))


def experiment_config(root):
    made = helpers.config("fda", "folders", steps=4, stall_seconds=0.0)
    made.update_from_flattened_dict(helpers.folder_fields(pathlib.Path(root)))
    return made.lock()


JOBS = {"train": train, "lose_one": lose_one, "stop_one": stop_one, "whole": whole}


def main(port, processes, index, job, *arguments):
    parallel.join(f"127.0.0.1:{port}", processes=int(processes), index=int(index))
    try:
        JOBS[job](*arguments)
    except Exception as error:  # whatever it is, the exit code is what the test reads
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(getattr(error, "exit_code", 8))


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 1)
    main(*sys.argv[1:])
