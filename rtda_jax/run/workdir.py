"""The folder of a run: its records in JSON, its lock, and its evaluations side by side."""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from rtda_jax.errors import ConfigError
from rtda_jax.run import files, parallel

RESULT = "result.json"


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


@contextlib.contextmanager
def lock(workdir: pathlib.Path) -> Iterator[None]:
    """Holds a workdir for one job; of several processes of that job, the main one holds it.

    Raises:
      ConfigError: in every process; another job holds the workdir.
    """
    with contextlib.ExitStack() as stack:
        parallel.on_main(lambda: stack.enter_context(files.lock(workdir)))
        yield


def find_result(folder: pathlib.Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns what an evaluate stage measured under an identity, or None.

    Args:
      folder: the stage's.
      identity: the fields that decide the numbers: protocol, models and step.
    """
    wanted = json.loads(json.dumps(dict(identity)))
    for path in _results(folder):
        record = read_json(path)
        if _part(record, identity) == wanted:
            return record
    return None


def save_result(
    folder: pathlib.Path, record: Mapping[str, Any], identity: Mapping[str, Any]
) -> None:
    """Writes what an evaluate stage measured to `result.json`, its newest result.

    An earlier result under another identity moves to `result-HASH.json`, so that all of them stay
    side by side.
    """
    record, path = json.loads(json.dumps(dict(record))), folder / RESULT
    if parallel.is_main() and path.exists():
        earlier = read_json(path)
        if _part(earlier, identity) != _part(record, identity):
            write_json(_beside(folder, _part(earlier, identity)), earlier)
    write_json(path, record)
    if parallel.is_main():
        _beside(folder, _part(record, identity)).unlink(missing_ok=True)


def other_results(folder: pathlib.Path, identity: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the results that an evaluate stage measured under other identities."""
    records = [read_json(path) for path in _results(folder)]
    wanted = json.loads(json.dumps(dict(identity)))
    return [record for record in records if _part(record, identity) != wanted]


def _results(folder: pathlib.Path) -> list[pathlib.Path]:
    newest = folder / RESULT
    return ([newest] if newest.exists() else []) + sorted(folder.glob("result-*.json"))


def _part(record: Mapping[str, Any], identity: Mapping[str, Any]) -> dict[str, Any]:
    return {field: record.get(field) for field in identity}


def _beside(folder: pathlib.Path, part: Mapping[str, Any]) -> pathlib.Path:
    digest = hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()
    return folder / f"result-{digest[:8]}.json"
