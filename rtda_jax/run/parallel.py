"""Runs one program on one or many devices, in one or many processes.

No other module places arrays on devices.

The train state has no device axis: it is replicated. A batch is split along its leading axis, and
each process provides its share of it.
"""

import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rtda_jax.errors import (
    ERRORS,
    ConfigError,
    DataError,
    DeviceMemoryError,
    Interrupted,
    printable,
)

T = TypeVar("T")

AXIS = "batch"
SHOWN = 20  # the most differences between processes that an error lists
HEARTBEAT = 60  # seconds without a heartbeat after which a peer counts as dead
PATIENCE = 300  # seconds that the processes of a job wait for each other at the start

# Errors that begin with these words are a process's own fault; errors with these names come from a
# collective.
OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"
OWN_FAULTS = (OUT_OF_MEMORY, "INVALID_ARGUMENT", "UNIMPLEMENTED")
COLLECTIVES = ("Gloo", "NCCL")  # jax raises these as ValueError when a program is dispatched


def mesh(devices: list | None = None) -> Mesh:
    """Returns all devices, or the given ones, along one axis."""
    return Mesh(np.array(devices or jax.devices()), (AXIS,))


def local_mesh() -> Mesh:
    """Returns the first device of this process alone."""
    return mesh(jax.local_devices()[:1])


def join(coordinator: str, *, processes: int | None = None, index: int | None = None) -> None:
    """Joins this process to the others of a job; call it before any device is used.

    If a process hangs or dies, the others end: after a minute, when they miss its heartbeat, or
    earlier, when a collective fails.

    Args:
      coordinator: HOST:PORT of process 0, or "auto" if SLURM, Open MPI, Kubernetes or a TPU pod
        describes the whole job.
      processes: how many there are.
      index: which one this is, from 0.

    Raises:
      ConfigError: an incomplete description.
    """
    initialize = functools.partial(
        jax.distributed.initialize,
        initialization_timeout=2 * PATIENCE,  # the program gives up first, with a message
        heartbeat_timeout_seconds=HEARTBEAT,
    )
    if coordinator == "auto":
        try:
            initialize()
        except ValueError as error:  # nothing here describes a job of several processes
            raise ConfigError(f"--coordinator=auto: {error}") from error
        return
    if processes is None or index is None or not 0 <= index < processes:
        raise ConfigError(
            f"--coordinator={coordinator} needs --num_processes and --process_id in "
            f"0..num_processes-1, got {processes} and {index}"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(f"--coordinator={coordinator} must be HOST:PORT, such as 10.0.0.1:1234")
    initialize(coordinator, processes, index)


def joined() -> bool:
    """Returns whether this process belongs to a job that has, or was meant to have, several."""
    return jax.distributed.is_initialized()


def peer_died(error: BaseException) -> bool:
    """Returns whether an error means that another process of the job is gone or does not answer.

    In that case a collective or a barrier fails, and libraries may have wrapped the error that JAX
    raised. Errors that this process caused itself (memory, programs) do not count.
    """
    return joined() and any(
        (isinstance(e, jax.errors.JaxRuntimeError) and not str(e).startswith(OWN_FAULTS))
        or (isinstance(e, ValueError) and any(name in str(e) for name in COLLECTIVES))
        for e in _causes(error)
    )


def for_user(error: BaseException) -> BaseException:
    """Returns the error of `rtda_jax.errors` that an error means, or else the error itself.

    The device's lack of memory is a `DeviceMemoryError`, and Ctrl-C where nothing handles it is
    `Interrupted`. An error of `rtda_jax.errors` stays, whatever caused it.
    """
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("stopped")
    for cause in _causes(error):
        if isinstance(cause, ERRORS):
            break
        if isinstance(cause, jax.errors.JaxRuntimeError) and str(cause).startswith(OUT_OF_MEMORY):
            reason = str(cause).splitlines()[0].rstrip(".")
            return DeviceMemoryError(
                f"the device has not enough memory: {reason}; in training, lower batch_size or the "
                "crop, or try optim.accumulate=2, model.remat=views or dtype=bfloat16; otherwise "
                "lower benchmark.eval_size; does another program use the device?"
            )
    return error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def process() -> tuple[int, int]:
    """Returns the index of this process and the number of processes."""
    return jax.process_index(), jax.process_count()


def is_main() -> bool:
    """Returns whether this process is the one that writes logs and results."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process has reached the barrier of this name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def any_process(flag: bool, *, now: bool) -> bool:
    """Returns whether the flag is set in any process.

    The processes communicate only if `now` is true, which must be so in all of them; otherwise the
    result is False.
    """
    if jax.process_count() == 1:
        return flag
    return now and bool(multihost_utils.process_allgather(np.array(flag)).any())


def sum_counts(x: np.ndarray) -> np.ndarray:
    """Returns the exact int64 sum of an integer array over the processes."""
    if jax.process_count() == 1:
        return x
    # The halves of each number are summed separately, because a device without x64 has no integers
    # beyond 32 bits.
    low, high = x.astype(np.int64) & 0xFFFF, x.astype(np.int64) >> 16
    halves = multihost_utils.process_allgather(np.stack([low, high]).astype(np.int32))
    low, high = halves.astype(np.int64).sum(0)
    return low + (high << 16)


def sum_floats(tree: Any) -> Any:
    """Returns a tree of numbers and arrays summed over the processes, to float32's accuracy."""
    if jax.process_count() == 1:
        return tree
    gathered = multihost_utils.process_allgather(jax.tree.map(np.float32, tree))
    return jax.tree.map(lambda x: np.asarray(x, np.float64).sum(0), gathered)


def mean_of_processes(tree: Any, *, weight: int) -> Any:
    """Returns the mean of a tree of arrays over the processes, to float32's accuracy.

    Args:
      tree: this process's own mean.
      weight: the number of things that it is the mean of.
    """
    if jax.process_count() == 1:
        return tree
    total = sum_floats({"weight": weight, "tree": jax.tree.map(lambda x: weight * x, tree)})
    return jax.tree.map(lambda x: np.float32(x / total["weight"]), total["tree"])


def gather_text(text: str) -> list[str]:
    """Returns the text of every process, in the order of the processes."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
    sizes = multihost_utils.process_allgather(np.int32(len(data)))
    padded = np.zeros(max(sizes.max(), 1), np.int32)
    padded[: len(data)] = data
    rows = multihost_utils.process_allgather(padded)
    return [
        row[:size].astype(np.uint8).tobytes().decode()
        for row, size in zip(rows, sizes, strict=True)
    ]


def check_agreement(facts: Mapping[str, Any]) -> None:
    """Refuses to continue unless all processes of the job pass the same facts.

    Args:
      facts: plain values by name; floats are compared with all of their digits.

    Raises:
      ConfigError: in every process; names each fact that differs, with its value in the main
        process and in the first process that differs.
    """
    rows = [json.loads(text) for text in gather_text(json.dumps(facts, sort_keys=True))]
    differing = []
    for name in sorted(set().union(*rows)):
        values = [row.get(name, "absent") for row in rows]
        odd = next((i for i, value in enumerate(values) if value != values[0]), 0)
        if odd:
            main, other = printable(values[0]), printable(values[odd])
            differing.append(f"  {name}: {main} in process 0, {other} in process {odd}")
    if differing:
        more = [f"  and {len(differing) - SHOWN} more"] if len(differing) > SHOWN else []
        raise ConfigError(
            "\n".join(["the processes of this job differ:", *differing[:SHOWN], *more])
        )


def on_main(action: Callable[[], None]) -> None:
    """Runs an action in the main process while the others wait; all of them learn how it ended.

    Raises:
      ConfigError: in every process, if the action raised one in the main process.
    """
    problem = ""
    if is_main():
        try:
            action()
        except ConfigError as error:
            problem = str(error) or type(error).__name__
    problem = gather_text(problem)[0]
    if problem:
        raise ConfigError(problem)


def in_every_process(action: Callable[[], T]) -> T:
    """Returns what an action returns in this process, once it has ended in all of them.

    Raises:
      DataError: in every process, if the action raised one in any.
    """
    problem, result = "", None
    try:
        result = action()
    except DataError as error:
        problem = str(error) or type(error).__name__
    if problems := [text for text in gather_text(problem) if text]:
        raise DataError(problems[0])
    return cast(T, result)


def deterministic() -> None:
    """Restricts the compiler to deterministic GPU kernels; call it before any device is used.

    CPU programs are deterministic anyway. This also switches off autotuning, which may choose other
    kernels in another process.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()


def check_batch(batch_size: int, devices: int, *, accumulate: int) -> None:
    """Raises ConfigError if a global batch cannot be split evenly over devices and micro-batches.

    Args:
      batch_size: the images per domain over all devices.
      devices: the number of devices.
      accumulate: the number of micro-batches of each device.
    """
    parts = devices * accumulate
    if batch_size % parts:
        micro_batches = f" with optim.accumulate={accumulate}" if accumulate > 1 else ""
        raise ConfigError(
            f"batch_size {batch_size} is not divisible by the {devices} devices{micro_batches}: "
            f"use a multiple of {parts}"
        )


def replicated(over: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that every device holds as a whole."""
    return NamedSharding(over, PartitionSpec())


def replicate(tree: Any, over: Mesh) -> Any:
    """Puts a tree on every device; without this, the first call of a mapped step compiles twice."""
    if jax.process_count() == 1:
        return jax.device_put(tree, replicated(over))

    def spread(x):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(spread(jax.random.key_data(x)))
        return jax.make_array_from_process_local_data(replicated(over), np.asarray(x))

    return jax.tree.map(spread, tree)


def compile_step(step: Callable, over: Mesh) -> Callable:
    """Returns a step (state, batch) -> (state, logs) that runs on every device.

    A single process maps the step with `jax.pmap`, which accepts a batch of NumPy arrays. Among
    several processes, none has the whole batch: they map the step with `jax.shard_map` over global
    arrays, to which each process contributes its share. In both cases the state has no device axis.
    The returned step takes this process's share of the batch and donates the state.

    Args:
      step: a step written with `axis_name=AXIS`.
      over: the devices.
    """
    return (pmapped if jax.process_count() == 1 else shard_mapped)(step, over)


def shard_mapped(step: Callable, over: Mesh) -> Callable:
    """Returns the step of `compile_step` on global arrays, for several processes."""
    split, whole = PartitionSpec(AXIS), PartitionSpec()
    mapped = jax.jit(
        jax.shard_map(
            step, mesh=over, in_specs=(whole, split), out_specs=(whole, whole), check_vma=False
        ),
        donate_argnums=0,
    )
    placed = NamedSharding(over, split)

    def run(state, batch: Mapping[str, np.ndarray]):
        arrays = {
            k: jax.make_array_from_process_local_data(placed, x) for k, x in dict(batch).items()
        }
        return mapped(state, arrays)

    return run


def pmapped(step: Callable, over: Mesh) -> Callable:
    """Returns the step of `compile_step` for the devices of one process."""
    devices = list(over.devices.flat)
    # in_axes None replicates the state, and out_axes None returns it without a device axis.
    mapped = jax.pmap(
        step, AXIS, in_axes=(None, 0), out_axes=(None, None), devices=devices, donate_argnums=0
    )

    def run(state, batch: Mapping[str, np.ndarray]):
        return mapped(state, jax.tree.map(lambda x: _split(x, len(devices)), dict(batch)))

    return run


def _split(x: np.ndarray, parts: int) -> np.ndarray:
    return x.reshape(parts, x.shape[0] // parts, *x.shape[1:])
