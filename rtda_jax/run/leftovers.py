"""Steps that are in no row of the log yet, kept beside a checkpoint between two rows.

A run that is asked to stop saves its state at whatever step it is; the row of the next log step
is then the one that an undisturbed run writes.
"""

import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from rtda_jax.run import checkpoint

FILE = "leftovers.json"


def keep(path: pathlib.Path, left: Mapping[str, Any], *, step: int, steps: Collection[int]) -> None:
    """Write what is left over at a step, before its checkpoint is.

    Args:
      path: the file; absent where no checkpoint has anything left over.
      left: plain values by name.
      step: that is about to be saved.
      steps: that have a checkpoint; what is known of others is dropped.
    """
    known = checkpoint.read_json(path) if path.exists() else {}
    new = {s: values for s, values in known.items() if int(s) in steps and int(s) != step}
    if any(left.values()):
        new[str(step)] = dict(left)
    if new != known:
        checkpoint.write_json(path, new)


def read(path: pathlib.Path, *, step: int) -> dict[str, Any]:
    """What was left over at a step; nothing where nothing was."""
    return checkpoint.read_json(path).get(str(step), {}) if path.exists() else {}
