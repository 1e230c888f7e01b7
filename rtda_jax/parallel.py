"""One program on one or many devices: the only file that names them.

The train state has no device axis; it is replicated. A batch is split over its leading axis.
"""

import os
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "batch"


def mesh(devices: list | None = None) -> Mesh:
    """All devices (or the given ones) along one axis."""
    return Mesh(np.array(devices or jax.devices()), (AXIS,))


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
    return jax.device_put(tree, everywhere(over))


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
