"""What happens when a loss or gradient is no longer a number: stop there, or skip that update."""

import collections
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rtda_jax.errors import NotFiniteError

SKIPPED = "skipped"
IN_A_ROW = 100  # skipped steps after which no better one is to be expected

Names = Callable[[str, np.ndarray], list[str]]


def as_it_is(step: Callable) -> Callable:
    """The step itself: what is not finite stays in its logs, and the loop stops there."""
    return step


def guarded(step: Callable) -> Callable:
    """The step, not applied when one of its logs is not finite; its logs then say `skipped` 1.

    A skipped step changes the counter `state.step` alone: parameters, statistics and optimizers
    (with their own counters) keep every bit. The logs hold all losses and the norms of all
    gradients, equal on every device, so that all devices decide alike.
    """

    def run(state: Any, batch: dict) -> tuple[Any, dict[str, jax.Array]]:
        new, logs = step(state, batch)
        finite = jnp.all(jnp.isfinite(jnp.stack(list(logs.values()))))
        kept = jax.tree.map(lambda after, before: jnp.where(finite, after, before), new, state)
        return kept.replace(step=new.step), {**logs, SKIPPED: 1.0 - finite.astype(jnp.float32)}

    return run


POLICIES: dict[str, Callable[[Callable], Callable]] = {"stop": as_it_is, "skip": guarded}


class Pending:
    """Steps since the last row of the log, most of them not looked at.

    Args:
      names: from a domain and numbers of its examples to their names.
      left: what `left` gave when the state was saved that a run continues from.
    """

    def __init__(self, names: Names, left: Mapping[str, Any] | None = None) -> None:
        self._names = names
        self._steps: collections.deque = collections.deque()
        self._fields: list[str] = []
        left = left or {}
        self._rows: list[dict[str, float]] = list(left.get("rows", []))
        self._skipped, self._in_a_row = left.get("skipped", 0), left.get("in_a_row", 0)

    def add(self, step: int, logs: Any, batch: Mapping[str, np.ndarray], *, ahead: int) -> None:
        """Remember a step; waits while the host is more than `ahead` steps before the device."""
        indices = {k.removesuffix("_index"): v for k, v in batch.items() if k.endswith("_index")}
        self._steps.append((step, logs, indices))
        if len(self._steps) > ahead:
            jax.block_until_ready(self._steps[-ahead][1])

    def means(self) -> dict[str, float]:
        """Means over the applied ones of the pending steps, and how many were skipped, if any.

        Raises:
          NotFiniteError: naming the first bad step, its logs and the examples of its batch; under
            the policy "skip" when there were too many in a row.
        """
        self._look()
        rows, skipped, self._rows, self._skipped = self._rows, self._skipped, [], 0
        means = {
            k: float(np.mean([row[k] for row in rows])) if rows else math.nan for k in self._fields
        }
        return {**means, SKIPPED: skipped} if skipped else means

    def left(self) -> dict[str, Any]:
        """What a run that continues here has to know of the pending steps, as plain values.

        Raises:
          NotFiniteError: as `means` does.
        """
        self._look()
        return {"rows": self._rows, "skipped": self._skipped, "in_a_row": self._in_a_row}

    def _look(self) -> None:
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
            # Of several processes each has examples of its own, and all have a stderr.
            print(f"  {event}; the update was skipped", file=sys.stderr, flush=True)
            if self._in_a_row == IN_A_ROW:
                raise NotFiniteError(f"{event}; it was the {IN_A_ROW}th skipped step in a row")
        self._steps.clear()

    def _examples(self, indices: Mapping[str, np.ndarray]) -> str:
        parts = [
            f"{domain} {', '.join(self._names(domain, np.asarray(index)))}"
            for domain, index in indices.items()
        ]
        return f" (its batch: {'; '.join(parts)})" if parts else ""


def numbers(domain: str, indices: np.ndarray) -> list[str]:
    """Examples of a stream whose sets are not known, by their number."""
    return [str(i) for i in indices]
