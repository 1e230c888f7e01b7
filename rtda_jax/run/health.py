"""Health of a run: refuses or skips nonfinite updates, and warns of a collapse."""

import collections
import contextlib
import math
import pathlib
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rtda_jax.errors import ConfigError, NotFiniteError
from rtda_jax.run.log import Metrics, accuracies, say
from rtda_jax.run.workdir import read_json, write_json

LEFTOVERS_FILE = "leftovers.json"
SKIPPED = "skipped"
MAX_SKIPPED_IN_A_ROW = 100  # a run that skips this many steps in a row does not recover

ExampleNames = Callable[[str, np.ndarray], list[str]]


def unguarded(step: Callable) -> Callable:
    """Returns the step unchanged: a nonfinite value stays in its logs, where the loop stops."""
    return step


def skip_nonfinite(step: Callable) -> Callable:
    """Returns a step that skips an update if its logs are not finite, and logs `skipped` 0 or 1.

    A skipped step changes only `state.step`. Parameters, statistics and optimizers, including their
    own counters, stay the same bit for bit. The logs hold all losses and the norms of all gradients
    and are equal on every device, so that all devices decide in the same way.
    """

    def guarded(state: Any, batch: dict) -> tuple[Any, dict[str, jax.Array]]:
        new, logs = step(state, batch)
        finite = jnp.all(jnp.isfinite(jnp.stack(list(logs.values()))))
        chosen = jax.tree.map(lambda after, before: jnp.where(finite, after, before), new, state)
        logs = {**logs, SKIPPED: 1.0 - finite.astype(jnp.float32)}
        return chosen.replace(step=new.step), logs

    return guarded


# The values of `on_not_finite`.
POLICIES: dict[str, Callable[[Callable], Callable]] = {"stop": unguarded, "skip": skip_nonfinite}


class PendingSteps:
    """Collects the logs of the steps since the last log row; most stay on the device until then.

    Args:
      names: maps a domain and the indices of its examples to their names.
      leftovers: what `leftovers` returned when the restored state was saved.
    """

    def __init__(self, names: ExampleNames, leftovers: Mapping[str, Any] | None = None) -> None:
        self._names = names
        self._steps: collections.deque = collections.deque()
        self._fields: list[str] = []
        leftovers = leftovers or {}
        self._rows: list[dict[str, float]] = list(leftovers.get("rows", []))
        self._skipped = leftovers.get("skipped", 0)
        self._in_a_row = leftovers.get("in_a_row", 0)

    def add(self, step: int, logs: Any, batch: Mapping[str, Any], *, ahead: int) -> None:
        """Adds a step; waits while the host is more than `ahead` steps ahead of the device."""
        indices = {k.removesuffix("_index"): v for k, v in batch.items() if k.endswith("_index")}
        self._steps.append((step, logs, indices))
        if len(self._steps) > ahead:
            jax.block_until_ready(self._steps[-ahead][1])

    def means(self) -> dict[str, float]:
        """Returns the mean of every log over the applied steps, and clears them.

        `skipped` is the number of skipped steps; it is absent if there were none.

        Raises:
          NotFiniteError: names the first bad step, its logs and the examples of its batch; under
            the policy "skip" only after `MAX_SKIPPED_IN_A_ROW` bad steps.
        """
        self._fetch()
        rows, skipped, self._rows, self._skipped = self._rows, self._skipped, [], 0
        columns = {k: [row[k] for row in rows if k in row] for k in self._fields}
        means = {k: float(np.mean(column)) if column else math.nan for k, column in columns.items()}
        return {**means, SKIPPED: skipped} if skipped else means

    def leftovers(self) -> dict[str, Any]:
        """Returns what a resumed run needs to write the same next row, as plain values.

        Raises:
          NotFiniteError: as `means` does.
        """
        self._fetch()
        return {"rows": self._rows, "skipped": self._skipped, "in_a_row": self._in_a_row}

    def _fetch(self) -> None:
        fetched = jax.device_get([logs for _, logs, _ in self._steps])
        for (step, _, indices), logs in zip(self._steps, fetched, strict=True):
            logs = {k: float(v) for k, v in logs.items()}
            bad = [k for k, v in logs.items() if not math.isfinite(v)]
            applied = not logs.pop(SKIPPED, 0.0)
            self._fields = list(logs)
            if not bad:
                self._in_a_row = 0
                self._rows.append(logs)
                continue
            event = f"step {step}: {', '.join(bad)} not finite{self._examples(indices)}"
            if applied:
                raise NotFiniteError(f"{event}; no checkpoint was written after it")
            self._skipped, self._in_a_row = self._skipped + 1, self._in_a_row + 1
            # Every process reports its own examples, so this goes to stderr, which is never
            # silenced.
            say(f"  {event}; the update was skipped", to=sys.stderr)
            if self._in_a_row == MAX_SKIPPED_IN_A_ROW:
                raise NotFiniteError(
                    f"{event}; it was skipped step number {MAX_SKIPPED_IN_A_ROW} in a row"
                )
        self._steps.clear()

    def _examples(self, indices: Mapping[str, Any]) -> str:
        parts = [
            f"{domain} {', '.join(self._names(domain, np.asarray(index)))}"
            for domain, index in indices.items()
        ]
        return f" (its batch: {'; '.join(parts)})" if parts else ""


def save_leftovers(
    path: pathlib.Path, leftovers: Mapping[str, Any], *, step: int, steps: Collection[int]
) -> None:
    """Saves the metrics since the last log row, so that a resumed run writes the same row.

    Call this before the checkpoint of the step is written, which may be between two rows.

    Args:
      path: the file; it does not exist as long as no checkpoint has leftovers.
      leftovers: plain values by name, see `PendingSteps.leftovers`.
      step: the step of the checkpoint.
      steps: the steps that already have a checkpoint; entries of all others are dropped.
    """
    saved = _leftovers(path)
    new = {s: values for s, values in saved.items() if int(s) in steps and int(s) != step}
    if any(leftovers.values()):
        new[str(step)] = dict(leftovers)
    if new != saved:
        write_json(path, new)


def read_leftovers(path: pathlib.Path, *, step: int) -> dict[str, Any]:
    """Returns the leftovers of a checkpoint's step; empty if there are none."""
    return _leftovers(path).get(str(step), {})


def _leftovers(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Returns the leftovers by step; none if the file is damaged, which costs only one log row."""
    if not path.exists():
        return {}
    with contextlib.suppress(ConfigError):
        saved = read_json(path)
        if all(step.isdecimal() and isinstance(values, dict) for step, values in saved.items()):
            return saved
    say(f"  WARNING: {path} is damaged; the next row of the log may cover fewer steps")
    return {}


def example_numbers(domain: str, indices: np.ndarray) -> list[str]:
    """Names examples by their index, for a stream whose data sets are not known."""
    return [str(i) for i in indices]


PATIENCE = 3  # log rows in a row before a warning

DISCRIMINATOR_CERTAIN = 0.99  # a discriminator this often right on both domains teaches nothing
ENTROPY_COLLAPSED = 0.01  # target entropy below which the network is sure of everything
SINGLE_CLASS = 1.5  # effective number of predicted classes below which one dominates
WAITING = 0.5  # share of the time that is spent waiting for images
OVERPOWERED = 10.0  # a view's share of the gradient at the outputs, relative to the source's


def symptoms(metrics: Metrics) -> dict[str, str]:
    """Returns what is wrong in one log row, as a message for each symptom.

    Args:
      metrics: the means of a log row, by the names of `rtda_jax.adapt.step`; a missing value
        counts as healthy.
    """
    sentences = {}
    for level, rates in accuracies(metrics).items():
        if min(rates) > DISCRIMINATOR_CERTAIN:
            sentences[f"d_{level}_accuracy"] = (
                f"discriminator {level} tells the domains apart {min(rates):.0%} of the time and "
                "no longer teaches: lower optim.d_lr or raise objective.adv_*"
            )
    if metrics.get("target_entropy", 1.0) < ENTROPY_COLLAPSED:
        sentences["target_entropy"] = (
            f"the mean entropy of the target's predictions is {metrics['target_entropy']:.3f}, the "
            "network is sure of everything: lower the entropy or pseudo-label weights"
        )
    if metrics.get("target_classes", SINGLE_CLASS) < SINGLE_CLASS:
        sentences["target_classes"] = (
            f"the target's predictions spread over {metrics['target_classes']:.1f} classes: one "
            "class is taking all"
        )
    if metrics.get("teacher_classes", SINGLE_CLASS) < SINGLE_CLASS:
        sentences["teacher_classes"] = (
            f"the teacher's labels of an image spread over {metrics['teacher_classes']:.1f} "
            "classes: it collapses; raise teacher.decay or teacher.threshold, lower the weights of "
            "mix and masked, or start from a trained network (init)"
        )
    if metrics.get("data_wait", 0.0) > WAITING:
        sentences["data_wait"] = (
            f"{metrics['data_wait']:.0%} of the time is spent waiting for images: set store=shards "
            "or cache_gib, or raise threads (0 is one for each core)"
        )
    source = metrics.get("pull_source", 0.0)
    for key, pull in metrics.items():
        if key.startswith("pull_") and source and pull > OVERPOWERED * source:
            view = key.removeprefix("pull_")
            sentences[key] = (
                f"the gradient of the {view} images' terms is {pull / source:.0f} times the "
                "source's at the outputs: lower their weights"
            )
    return sentences


class Alarm:
    """Turns log rows into warnings: each symptom once, after `PATIENCE` rows in a row."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}

    def __call__(self, metrics: Metrics) -> list[str]:
        """Returns the warnings that this row completes."""
        sentences = symptoms(metrics)
        self.rows = {name: self.rows.get(name, 0) + 1 for name in sentences}
        return [text for name, text in sentences.items() if self.rows[name] == PATIENCE]
