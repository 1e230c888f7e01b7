"""A process of the benchmark: `python -m benchmarks.worker SPEC RESULT`, started by speed.py."""

import json
import pathlib
import pickle
import sys
from typing import Any

from rtda_jax.tools import environment


def _ours(spec: dict[str, Any]) -> dict[str, Any]:
    from benchmarks import ours

    environment.retire_holes_after_compilations()
    config = pickle.loads(pathlib.Path(spec["config"]).read_bytes())
    return ours.JOBS[spec["job"]](config, spec)


def _theirs(spec: dict[str, Any]) -> dict[str, Any]:
    try:
        from benchmarks import theirs
    except ModuleNotFoundError as error:
        return {"not_run": f"{error.name} is not installed (pip install -e '.[torch]')"}
    try:
        return theirs.JOBS[spec["job"]](spec)
    except theirs.NotRun as error:
        return {"not_run": str(error)}


SIDES = {"ours": _ours, "theirs": _theirs}


def main() -> None:
    """Reads the spec, runs it and writes the result."""
    environment.keep_freed_memory()  # as in main.py; PyTorch profits as much
    spec = json.loads(pathlib.Path(sys.argv[1]).read_text())
    result = SIDES[spec["side"]](spec)
    pathlib.Path(sys.argv[2]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
