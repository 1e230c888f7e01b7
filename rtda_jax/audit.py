"""The same steps twice: whether a stage computes the same bits again, and if not, from where on."""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from rtda_jax import build, experiment, parallel
from rtda_jax.data import DataError
from rtda_jax.errors import NotDeterministicError
from rtda_jax.records import say
from rtda_jax.train import Batches, paired_batches

STEPS = 5


def run(config: Any) -> None:
    """Audit every train stage of an experiment; the final hash can be compared between processes.

    Raises:
      NotDeterministicError: naming stage, step and leaf where the two runs part.
    """
    for name, stage in experiment.stages(config).items():
        if stage.kind == "train":
            say(f"[{name}] {STEPS} steps, twice")
            say(f"  equal in every bit; SHA-256 of the state {audit(stage, name=name)}")


def audit(config: Any, *, name: str, steps: int = STEPS, batches: Batches | None = None) -> str:
    """The SHA-256 of a stage's state after `steps` steps, if a second run gives the same.

    Args:
      config: a train stage's configuration.
      name: what errors call it.
      steps: how many, from a fresh state.
      batches: start step -> iterator of batches; default the benchmark's stream, read twice.

    Raises:
      NotDeterministicError: naming stage, step and leaf where the two runs part.
    """
    mesh = parallel.mesh()
    parts = build.build(config, axis_name=parallel.AXIS)
    batches = batches or paired_batches(config, needs_target=parts.needs_target)
    step = parallel.pmapped(build.train_step(parts, config, axis_name=parallel.AXIS), mesh)

    def once() -> list[dict[str, str]]:
        state = parallel.replicate(build.initial_state(parts, config), mesh)
        return hashes(step, state, itertools.islice(batches(0), steps))

    first, second = once(), once()
    for number, (one, other) in enumerate(zip(first, second, strict=True)):
        differing = [leaf for leaf in one if one[leaf] != other[leaf]]
        if differing:
            raise NotDeterministicError(
                f"stage {name}: after step {number} of two runs {len(differing)} of {len(one)} "
                f"leaves differ, {differing[0]} the first of them; on a GPU try --deterministic"
            )
    if len(first) <= steps:
        raise DataError(f"stage {name}: only {len(first) - 1} of {steps} batches came")
    return hashlib.sha256("".join(first[-1].values()).encode()).hexdigest()


def hashes(
    step: Callable, state: Any, batches: Iterable[Mapping[str, np.ndarray]]
) -> list[dict[str, str]]:
    """The SHA-256 of every leaf of state and logs, by its path: before the steps, after each."""
    rows = [_leaves(state)]
    for batch in batches:
        state, logs = step(state, batch)
        rows.append(_leaves(state) | _leaves({"logs": logs}))
    return rows


def _leaves(tree: Any) -> dict[str, str]:
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        data = np.ascontiguousarray(jax.device_get(leaf)).tobytes()
        found[jax.tree_util.keystr(path)] = hashlib.sha256(data).hexdigest()
    return found
