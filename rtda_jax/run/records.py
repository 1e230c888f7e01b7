"""What a run says: JSON lines for machines, one aligned line per log step for people."""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

FILE = "metrics.jsonl"


def say(text: str = "") -> None:
    """Print at once, on a terminal and into a log file alike."""
    print(text, flush=True)


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """The records of a run that is not being written; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def truncate(path: pathlib.Path, *, after: int) -> None:
    """Drop the lines of steps after the one a run resumes from, and a torn last line."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record["step"] <= after:
            kept.append(line)
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(line + "\n" for line in kept))
    partial.replace(path)


def append(path: pathlib.Path, record: Mapping[str, Any]) -> None:
    """Add one line; numbers that are not finite become null, as JSON has no name for them."""
    clean = {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()
    }
    try:
        with path.open("a") as file:
            file.write(json.dumps(clean) + "\n")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def line(record: Mapping[str, Any], *, steps: int, objective: list[str]) -> str:
    """One log step for people: step, terms, discriminators, rates, speed and time left."""
    width = len(str(steps))
    parts = [f"step {record['step']:>{width}}/{steps}", f"loss {record['loss']:.3f}"]
    parts += [f"{name} {record[name]:.3f}" for name in objective]
    for key in record:
        if key.startswith("d_") and key.endswith("_accuracy_source"):
            level = key.removeprefix("d_").removesuffix("_accuracy_source")
            pair = record[key], record[f"d_{level}_accuracy_target"]
            parts.append(f"D({level}) right {pair[0]:.2f}/{pair[1]:.2f}")
    rates = f"lr {record['g_lr']:.2g}"
    parts.append(rates + (f"/{record['d_lr']:.2g}" if "d_lr" in record else ""))
    parts.append(f"{record['images_per_second']:.1f} img/s")
    parts.append(f"data {100 * record['data_wait']:.0f}%")
    parts.append(f"left {duration(record['seconds_left'])}")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as people read them: 42s, 3m07s, 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
