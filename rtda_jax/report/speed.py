"""Times of networks from the `speed.json` files of --job=benchmark."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from rtda_jax.errors import ConfigError
from rtda_jax.report.runs import NUMBER, Record, read_json


def load(paths: Sequence[pathlib.Path]) -> dict[str, dict[str, Any]]:
    """Network -> `ms` of an image at the largest `size` timed, `device`, `commit`.

    Raises:
      ConfigError: a file or field is missing, or a network was timed twice.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        record = read_json(path)
        model = record.get("model", str)
        if model in found:
            raise ConfigError(f"{path}: {model} was timed by an earlier file too; give one of them")
        found[model] = _timed(record)
    return found


def _timed(record: Record) -> dict[str, Any]:
    infer = record.child("infer")
    processes = [Record(f"{infer.where}: ours", p) for p in infer.get("ours", list)]
    if not processes:
        raise ConfigError(f"{infer.where}: field 'ours' is empty")
    medians = []
    for process in processes:
        sizes = process.child("sizes")
        size = next(reversed(sizes.value), "")
        host = sizes.child(size).child("rows").child("host")
        seconds = host.each("seconds", NUMBER)
        if not seconds or not min(seconds) > 0:
            raise ConfigError(f"{host.where}: field 'seconds' must be durations above 0")
        medians.append(float(np.median(seconds)))
    return {
        "ms": 1e3 * float(np.median(medians)),
        "size": size,
        "device": f"{processes[0].get('device', str)}, {record.get('cores', NUMBER)} cores",
        "commit": record.get("commit", (str, type(None)), default=None) or "unknown",
    }
