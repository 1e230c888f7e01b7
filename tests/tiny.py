"""A stage small enough to be killed a hundred times: real step, loop and files, stub networks.

    PYTHONPATH=. python tests/tiny.py FAMILY WORKDIR [FAULT ARGUMENT [FIELD=NUMBER ...]]

trains it in a process of its own and leaves the SHA-256 of every leaf of its final state;
FAULT, a key of `FAULTS`, is what happens to it on the way.
"""

import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import signal
import sys
import threading
import time
from unittest import mock

import flax.linen as nn
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from rtda_jax.adapt import build
from rtda_jax.errors import CheckpointError, Interrupted
from rtda_jax.models.layers import Network
from rtda_jax.stages import KINDS
from rtda_jax.stages.plan import Stage, make_plan
from rtda_jax.train import train

STEPS = 12  # checkpoints after every 2nd

# Families of methods: the config file, the stage and the fields that make them.
FAMILIES = {
    "adversarial": ("adversarial", "train", {}),
    "fda": ("fda", "train", {"fda_beta": 0.05}),
    "dacs": ("dacs", "train", {}),
    "tufl": ("tufl", "one", {}),
    "mic": (
        "dacs",
        "train",
        {
            "objective.masked": 1.0,
            "objective.feature_distance": 0.1,
            "model.name": "bisenet_lite0",
            "model.pretrained": "imagenet",  # a stub as well
            "teacher.average": "parameters",
            "teacher.follows": "before",
            "teacher.statistics": "batch",
        },
    ),
}


TRUNKS = {"bisenet_lite0": "backbone"}


class Generator(Network):
    """The outputs, parameters and statistics of a segmentation network, of a single layer each."""

    trunk: str | None = None  # the name of its first layer; checkpoints of release 0.1 have Conv_0

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Conv(4, (3, 3), strides=2, name=self.trunk)(images)
        x = self.norm_layer()(name="BatchNorm_0")(x, train=train)
        feature = nn.relu(x).repeat(2, 1).repeat(2, 2)
        heads = ("logits", "aux16", "aux32") if train else ("logits",)
        outputs = {head: nn.Conv(self.num_classes, (1, 1), name=head)(feature) for head in heads}
        return {**outputs, "feature": feature}


class Discriminator(nn.Module):
    @nn.compact
    def __call__(self, maps):
        return nn.Conv(1, (4, 4), strides=4)(maps)


def create_model(name, num_classes, axis_name=None, **options):
    return Generator(num_classes, axis_name, trunk=TRUNKS.get(name))


def create_discriminator(name, in_channels, **options):
    return Discriminator()


@contextlib.contextmanager
def stubs():
    made = {
        "create_model": create_model,
        "create_discriminator": create_discriminator,
        "pretrained_state": lambda state, config: (build.with_reference(state), "a stub"),
    }
    with mock.patch.multiple(build, **made):
        yield


def config(family, **fields):
    name, stage, changes = FAMILIES[family]
    with stubs():
        made = make_plan(helpers.config(name).lock(), KINDS)[stage].config
    for field, value in {"steps": STEPS, "stall_seconds": 0.0, **changes, **fields}.items():
        made.update_from_flattened_dict({field.replace("__", "."): value})
    return made


def stage(family, name, **fields):
    """The stage of a plan that such a configuration is."""
    made = config(family, **fields)
    with stubs():
        return Stage(name, "train", (), made, build.build(made))


def stream(start):
    """Batches of the helpers with the numbers of their examples."""
    for step, batch in enumerate(helpers.batches(start), start=start):
        index = np.arange(4, dtype=np.int32) + 4 * step
        yield {**batch, "source_index": index, "target_index": index}


def run(family, workdir, *, batches=stream, **fields):
    """The final state of a stage in this process, on the host; it begins from new weights."""
    with stubs():
        made = config(family, **{"init": "", **fields})
        return jax.device_get(train(made, workdir, batches=batches))


def leaves(state):
    """The bytes of every leaf by its path."""
    return {
        jax.tree_util.keystr(path): jnp.asarray(
            jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        ).tobytes()
        for path, x in jax.tree_util.tree_leaves_with_path(state)
    }


def arrays(workdir, stage):
    """The bytes of every leaf that a stage saved after its third step, by its path."""
    folder = workdir / stage / "checkpoints" / "3" / "default"
    return leaves(ocp.StandardCheckpointer().restore(folder.absolute()))


def stopping(function, *, after):
    """A function that raises KeyboardInterrupt at a call, counted from 1."""
    calls = itertools.count(1)

    def stop(*arguments):
        if next(calls) == after:
            raise KeyboardInterrupt
        return function(*arguments)

    return stop


def digests(state):
    """The SHA-256 of every leaf by its path."""
    return {path: hashlib.sha256(data).hexdigest() for path, data in leaves(state).items()}


def count_touches(root, at=lambda n: None):
    """Call `at(n)` when this process touches files below a folder for the n-th time; the count."""
    count, root = [0], str(root)

    def audit(event, arguments):
        if event in ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.link"):
            path = arguments[0]
            if isinstance(path, (str, bytes, os.PathLike)) and os.fsdecode(path).startswith(root):
                count[0] += 1
                at(count[0])

    sys.addaudithook(audit)
    return count


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_touch(workdir, number):
    """SIGKILL when a file of the checkpoints is touched for the n-th time, most often by orbax."""
    moment = int(number)
    count_touches(pathlib.Path(workdir) / "checkpoints", lambda n: die() if n == moment else None)
    return stream


def kill_after(workdir, seconds):
    """SIGKILL at some time after the second batch of batches that take 1/20 s each."""

    def batches(start):
        for n, made in enumerate(slow(workdir, 0.05)(start)):
            if n == 1:
                threading.Timer(float(seconds), die).start()
            yield made

    return batches


def slow(workdir, seconds):
    """Every batch takes that long."""

    def batches(start):
        for made in stream(start):
            time.sleep(float(seconds))
            yield made

    return batches


def stall_at(workdir, step):
    """The input of a step never comes."""

    def batches(start):
        for n, made in enumerate(stream(start), start=start + 1):
            if n == int(step):
                time.sleep(3600)
            yield made

    return batches


def small_files(workdir, size):
    """No file can grow beyond a size: what a full disk looks like to a writer."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), int(size)))
    return stream


FAULTS = {
    "kill_at_touch": kill_at_touch,
    "kill_after": kill_after,
    "slow": slow,
    "stall_at": stall_at,
    "small_files": small_files,
}


def main(family, workdir, fault="", argument="", *fields):
    batches = FAULTS[fault](workdir, argument) if fault else stream
    changes = {k: json.loads(v) for k, v in (field.split("=") for field in fields)}
    try:
        state = run(family, workdir, batches=batches, **changes)
    except (CheckpointError, Interrupted) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"OSError: {error}", file=sys.stderr)
        return os.EX_IOERR
    (pathlib.Path(workdir) / "leaves.json").write_text(json.dumps(digests(state), indent=1))
    return 0


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    sys.exit(main(*sys.argv[1:]))
