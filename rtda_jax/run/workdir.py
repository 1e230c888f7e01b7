"""The folder of a run: its JSON records, and the configuration that it is bound to."""

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from rtda_jax.errors import ConfigError
from rtda_jax.run import files, parallel

# Fields that change how a run is watched, but not what it computes as long as all goes well.
FREE = (
    "data_dir",
    "log_every_steps",
    "checkpoint_every_steps",
    "checkpoint_keep",
    "loggers",
    "on_not_finite",
    "stall_seconds",
    "threads",
    "cache_gib",
)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes or replaces a JSON file atomically; of several processes, the main one writes."""
    if parallel.is_main():
        files.write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Returns the object that `write_json` wrote.

    Raises:
      ConfigError: names the file if it holds something else.
    """
    try:
        value = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not the JSON this program writes there: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: holds a {type(value).__name__}, expected an object")
    return value


@contextlib.contextmanager
def lock(workdir: pathlib.Path) -> Iterator[None]:
    """Holds a workdir for one job; of several processes of that job, the main one holds it.

    Raises:
      ConfigError: another job holds the workdir.
    """
    with files.lock(workdir) if parallel.is_main() else contextlib.nullcontext():
        yield


def claim(workdir: pathlib.Path, config: dict, *, free: tuple[str, ...]) -> None:
    """Binds a folder to a configuration, or refuses if it is bound to another one.

    Args:
      workdir: created if need be.
      config: nested plain values.
      free: dotted names of fields and groups that may differ between runs of one folder.

    Raises:
      ConfigError: names every differing field with both values.
    """
    path = workdir / "config.json"
    config = json.loads(json.dumps(config))
    if path.exists():
        recorded, given = flat(read_json(path)), flat(config)
        differing = [
            f"  {field}: {recorded.get(field, 'absent')!r} there, "
            f"{given.get(field, 'absent')!r} now"
            for field in sorted(recorded.keys() | given.keys())
            if recorded.get(field) != given.get(field)
            and not any(field == f or field.startswith(f + ".") for f in free)
        ]
        if differing:
            raise ConfigError(
                f"{workdir} holds a run of another configuration:\n"
                + "\n".join(differing)
                + "\nChoose another --workdir, or give the configuration it was made with."
            )
        return
    write_json(path, config)


def plain(config: ConfigDict) -> dict[str, Any]:
    """Returns a configuration as nested plain values, as reading its JSON gives them."""
    return json.loads(config.to_json_best_effort())


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Returns a nested dict as one level of dotted names."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    rows: dict[str, Any] = {}
    for key, value in tree.items():
        rows |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return rows
