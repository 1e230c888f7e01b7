"""One program on one or many devices, in one or many processes: the only file that names them.

The train state has no device axis; it is replicated. A batch is split over its leading axis; each
process brings its share of it.
"""

import os
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "batch"
HEARTBEAT = 60  # seconds
OWN = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED")  # faults no other process causes
COLLECTIVES = ("Gloo", "NCCL")  # what jax raises as ValueError where a program is dispatched


def mesh(devices: list | None = None) -> Mesh:
    """All devices (or the given ones) along one axis."""
    return Mesh(np.array(devices or jax.devices()), (AXIS,))


def join(coordinator: str, *, processes: int | None = None, index: int | None = None) -> None:
    """Become one of several processes of a job; before any device is used.

    A process that hangs or dies ends the others after a minute: they miss its heartbeat, if
    not a collective fails before.

    Args:
      coordinator: HOST:PORT of process 0, or "auto" where SLURM, Open MPI, Kubernetes or a TPU
        pod says all of it.
      processes: how many there are.
      index: which one this is, from 0.

    Raises:
      ValueError: an incomplete description.
    """
    if coordinator == "auto":
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT)
        return
    if processes is None or index is None or not 0 <= index < processes:
        raise ValueError(
            f"--coordinator={coordinator} needs --num_processes and --process_id in "
            f"0..num_processes-1, got {processes} and {index}"
        )
    jax.distributed.initialize(coordinator, processes, index, heartbeat_timeout_seconds=HEARTBEAT)


def joined() -> bool:
    """Whether this process is one of several, or of a job that was to have several."""
    return jax.distributed.is_initialized()


def lost(error: BaseException | None) -> bool:
    """Whether an error says that another process of the job is gone or does not answer.

    Then some collective or barrier failed; libraries wrap what JAX raises for it. What it raises
    for this process's own faults (memory, programs) is not meant.
    """
    while joined() and error is not None:
        said = str(error)
        if isinstance(error, jax.errors.JaxRuntimeError) and not said.startswith(OWN):
            return True
        if isinstance(error, ValueError) and any(name in said for name in COLLECTIVES):
            return True
        hidden = None if error.__suppress_context__ else error.__context__
        error = error.__cause__ or hidden
    return False


def process() -> tuple[int, int]:
    """Which process this is, and of how many."""
    return jax.process_index(), jax.process_count()


def is_main() -> bool:
    """Whether this process is the one that writes logs and results."""
    return jax.process_index() == 0


def together(what: str) -> None:
    """Wait until every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def agreed(flag: bool, *, now: bool) -> bool:
    """Whether the flag is up in any process; several of them only ask each other `now`."""
    if jax.process_count() == 1:
        return flag
    return now and bool(multihost_utils.process_allgather(np.array(flag)).any())


def total(x: np.ndarray) -> np.ndarray:
    """The sum of an integer array over the processes, int64."""
    if jax.process_count() == 1:
        return x
    # Halves: without x64, devices hold no integer beyond 32 bits.
    low, high = x.astype(np.int64) & 0xFFFF, x.astype(np.int64) >> 16
    halves = multihost_utils.process_allgather(np.stack([low, high]).astype(np.int32))
    low, high = halves.astype(np.int64).sum(0)
    return low + (high << 16)


def summed(tree):
    """A tree of numbers and arrays, each summed over the processes, to float32's accuracy."""
    if jax.process_count() == 1:
        return tree
    gathered = multihost_utils.process_allgather(jax.tree.map(np.float32, tree))
    return jax.tree.map(lambda x: np.asarray(x, np.float64).sum(0), gathered)


def first() -> Mesh:
    """The first device of this process alone."""
    return mesh(jax.local_devices()[:1])


def deterministic() -> None:
    """Have the compiler use only GPU kernels that give the same bits again; before any device is.

    What runs on a CPU is so already. Autotuning, which may choose other kernels in another
    process, is off with it.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()


def check_batch(batch_size: int, devices: int) -> None:
    """Raise if a global batch can not be split evenly."""
    if batch_size % devices:
        raise ValueError(
            f"batch_size {batch_size} is not divisible by the {devices} devices: "
            f"use a multiple of {devices}"
        )


def everywhere(over: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(over, PartitionSpec())


def replicate(tree, over: Mesh):
    """The tree on every device; without it the first call of a pmapped step compiles twice."""
    if jax.process_count() == 1:
        return jax.device_put(tree, everywhere(over))

    def spread(x):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(spread(jax.random.key_data(x)))
        return jax.make_array_from_process_local_data(everywhere(over), np.asarray(x))

    return jax.tree.map(spread, tree)


def compiled(step: Callable, over: Mesh) -> Callable:
    """A step (state, batch) -> (state, logs) written with `axis_name=AXIS`, on every device.

    The batch is this process's share; the same program with pmap, or across processes.
    """
    return (pmapped if jax.process_count() == 1 else shard_mapped)(step, over)


def shard_mapped(step: Callable, over: Mesh) -> Callable:
    """The step of `pmapped` with global arrays, as several processes need them."""
    split, whole = PartitionSpec(AXIS), PartitionSpec()
    mapped = jax.jit(
        jax.shard_map(
            step, mesh=over, in_specs=(whole, split), out_specs=(whole, whole), check_vma=False
        ),
        donate_argnums=0,
    )
    placed = NamedSharding(over, split)

    def run(state, batch: Mapping[str, np.ndarray]):
        share = dict(batch)
        return mapped(
            state, {k: jax.make_array_from_process_local_data(placed, x) for k, x in share.items()}
        )

    return run


def pmapped(step: Callable, over: Mesh) -> Callable:
    """A step (state, batch) -> (state, logs) written with `axis_name=AXIS`, on every device."""
    devices = list(over.devices.flat)
    mapped = jax.pmap(
        step, AXIS, in_axes=(None, 0), out_axes=(None, None), devices=devices, donate_argnums=0
    )

    def run(state, batch: Mapping[str, np.ndarray]):
        return mapped(state, jax.tree.map(lambda x: _split(x, len(devices)), dict(batch)))

    return run


def sharded(step: Callable, over: Mesh) -> Callable:
    """The same step written with `axis_name=None`, as one jitted program over a sharded batch."""
    jitted = jax.jit(step, donate_argnums=0)
    split = NamedSharding(over, PartitionSpec(AXIS))

    def run(state, batch: Mapping[str, np.ndarray]):
        return jitted(state, jax.device_put(dict(batch), split))

    return run


def _split(x: np.ndarray, parts: int) -> np.ndarray:
    return x.reshape(parts, x.shape[0] // parts, *x.shape[1:])
