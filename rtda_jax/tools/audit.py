"""Runs the same steps twice, to check that a stage computes the same bits."""

import hashlib
import itertools
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from rtda_jax.adapt import build
from rtda_jax.adapt.method import Method
from rtda_jax.adapt.step import make_train_step
from rtda_jax.data.batches import Batches, paired_batches
from rtda_jax.errors import DataError, NotDeterministicError
from rtda_jax.run import parallel
from rtda_jax.run.log import say
from rtda_jax.run.workdir import lock
from rtda_jax.stages import KINDS
from rtda_jax.stages.plan import make_plan
from rtda_jax.tools.hub import check_unpublished
from rtda_jax.train import with_class_weights

STEPS = 5


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Audits every train stage of an experiment and prints the hash of its final state.

    The hash can be compared between processes and machines. A stage that learns from pseudo-labels
    is audited if the workdir holds them.

    Raises:
      NotDeterministicError: names the stage, the step and the leaf where the two runs differ.
      ConfigError: another job uses the folder.
    """
    plan = make_plan(config, KINDS)
    check_unpublished(workdir)
    with lock(workdir):
        for name, planned in plan.items():
            if planned.kind != "train" or planned.method is None:
                continue
            stage, needs_target = planned.config, planned.method.needs_target
            devices, accumulate = parallel.mesh().size, stage.optim.accumulate
            parallel.check_batch(stage.batch_size, devices, accumulate=accumulate)
            pseudo_folder = workdir / stage.pseudo_labels if stage.pseudo_labels else None
            if pseudo_folder is not None and not pseudo_folder.exists():
                say(
                    f"[{name}] skipped: {pseudo_folder} does not hold its pseudo-labels yet, "
                    "which the job run makes"
                )
                continue
            say(f"[{name}] {STEPS} steps, twice")
            (workdir / name).mkdir(parents=True, exist_ok=True)
            method = with_class_weights(planned.method, stage, workdir / name)
            batches = paired_batches(
                stage,
                needs_target=needs_target,
                folder=workdir / name,
                pseudo_folder=pseudo_folder,
            )
            say(f"  equal in every bit; SHA-256 of the state {audit(method, batches, name=name)}")


def audit(method: Method, batches: Batches, *, name: str, steps: int = STEPS) -> str:
    """Returns the SHA-256 of a stage's state after some steps, if a second run gives the same.

    Args:
      method: the method of the stage; a teacher of another stage has only shapes here, no weights.
      batches: a function from a start step to an iterator of batches; called twice.
      name: the stage's name in errors.
      steps: how many steps to run from a fresh state.

    Raises:
      NotDeterministicError: names the stage, the step and the leaf where the two runs differ.
      DataError: there are too few batches.
    """
    mesh = parallel.mesh()
    step = parallel.pmapped(make_train_step(method), mesh)

    def once() -> list[dict[str, str]]:
        state = parallel.replicate(build.initial_state(method), mesh)
        return hashes(step, state, itertools.islice(batches(0), steps))

    first, second = once(), once()
    for number, (hashes_1, hashes_2) in enumerate(zip(first, second, strict=True)):
        differing = [leaf for leaf in hashes_1 if hashes_1[leaf] != hashes_2[leaf]]
        if differing:
            raise NotDeterministicError(
                f"stage {name}: after step {number} of both runs {len(differing)} of "
                f"{len(hashes_1)} leaves differ, the first is {differing[0]}; on a GPU try "
                "--deterministic"
            )
    if len(first) <= steps:
        raise DataError(f"stage {name}: the data gave only {len(first) - 1} of {steps} batches")
    return hashlib.sha256("".join(first[-1].values()).encode()).hexdigest()


def hashes(
    step: Callable, state: Any, batches: Iterable[Mapping[str, Any]]
) -> list[dict[str, str]]:
    """Returns the SHA-256 of every leaf of state and logs by path, before and after each step."""
    rows = [_leaves(state)]
    for batch in batches:
        state, logs = step(state, batch)
        rows.append(_leaves(state) | _leaves({"logs": logs}))
    return rows


def _leaves(tree: Any) -> dict[str, str]:
    digests = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        data = np.ascontiguousarray(jax.device_get(leaf)).tobytes()
        digests[jax.tree_util.keystr(path)] = hashlib.sha256(data).hexdigest()
    return digests
