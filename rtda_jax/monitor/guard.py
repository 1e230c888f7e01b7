"""What happens when a loss or gradient is no longer a number: stop there, or skip that update."""

import collections
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rtda_jax.errors import NotFiniteError
from rtda_jax.monitor.records import say

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
    """Steps that were started and whose logs have not been looked at."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._steps: collections.deque = collections.deque()
        self._in_a_row = 0

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
        rows: list[dict[str, float]] = []
        skipped = 0
        fetched = jax.device_get([logs for _, logs, _ in self._steps])
        for (step, _, indices), logs in zip(self._steps, fetched, strict=True):
            bad = [k for k, v in logs.items() if not math.isfinite(v)]
            applied = not logs.pop(SKIPPED, 0.0)
            if not bad:
                self._in_a_row = 0
                rows.append(logs)
                continue
            event = f"step {step}: {', '.join(bad)} not finite{self._examples(indices)}"
            if applied:
                raise NotFiniteError(f"{event}; no checkpoint was written after it")
            skipped, self._in_a_row = skipped + 1, self._in_a_row + 1
            say(f"  {event}; the update was skipped")
            if self._in_a_row == IN_A_ROW:
                raise NotFiniteError(f"{event}; it was the {IN_A_ROW}th skipped step in a row")
        names = [k for k in fetched[0] if k != SKIPPED]
        self._steps.clear()
        means = {k: float(np.mean([row[k] for row in rows])) if rows else math.nan for k in names}
        return {**means, SKIPPED: skipped} if skipped else means

    def _examples(self, indices: Mapping[str, np.ndarray]) -> str:
        parts = [
            f"{domain} {', '.join(self._names(domain, np.asarray(index)))}"
            for domain, index in indices.items()
        ]
        return f" (its batch: {'; '.join(parts)})" if parts else ""


def numbers(domain: str, indices: np.ndarray) -> list[str]:
    """Examples of a stream whose sets are not known, by their number."""
    return [str(i) for i in indices]
