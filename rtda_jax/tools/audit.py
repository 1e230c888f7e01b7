"""The same steps twice: whether a stage computes the same bits again, and if not, from where on."""

import hashlib
import itertools
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from rtda_jax.adapt import build
from rtda_jax.adapt.step import make_train_step
from rtda_jax.data import DataError
from rtda_jax.data.batches import Batches, paired, with_enet_weights
from rtda_jax.errors import NotDeterministicError
from rtda_jax.run import parallel
from rtda_jax.run.log import say
from rtda_jax.stages.kinds import KINDS
from rtda_jax.stages.plan import make_plan

STEPS = 5


def run(config: Any, workdir: pathlib.Path) -> None:
    """Audit every train stage of an experiment; the final hash can be compared between processes.

    A stage that learns from pseudo-labels is audited where its workdir holds them.

    Raises:
      NotDeterministicError: naming stage, step and leaf where the two runs part.
    """
    for name, planned in make_plan(config, KINDS).items():
        if planned.kind != "train" or planned.method is None:
            continue
        stage, needs_target = planned.config, planned.method.needs_target
        pseudo = workdir / stage.pseudo_labels if stage.pseudo_labels else None
        if pseudo is not None and not pseudo.exists():
            say(f"[{name}] skipped: {pseudo} does not hold its pseudo-labels yet (--job=run)")
            continue
        say(f"[{name}] {STEPS} steps, twice")
        (workdir / name).mkdir(parents=True, exist_ok=True)
        if stage.loss.weighting == "enet":
            stage = with_enet_weights(stage, workdir / name)
        batches = paired(stage, needs_target=needs_target, folder=workdir / name, pseudo=pseudo)
        say(f"  equal in every bit; SHA-256 of the state {audit(stage, batches, name=name)}")


def audit(config: Any, batches: Batches, *, name: str, steps: int = STEPS) -> str:
    """The SHA-256 of a stage's state after `steps` steps, if a second run gives the same.

    Args:
      config: a train stage's configuration.
      batches: start step -> iterator of batches; read twice.
      name: what errors call the stage.
      steps: how many, from a fresh state.

    Raises:
      NotDeterministicError: naming stage, step and leaf where the two runs part.
    """
    mesh = parallel.mesh()
    method = build.build(config, axis_name=parallel.AXIS)
    step = parallel.pmapped(make_train_step(method), mesh)

    def once() -> list[dict[str, str]]:
        state = parallel.replicate(build.initial_state(method), mesh)
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
    step: Callable, state: Any, batches: Iterable[Mapping[str, Any]]
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
