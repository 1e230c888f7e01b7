"""Folders that jobs write to: records in JSON, locks, lists of results, and several evaluations.

A job lists its results in its record (predict.json, model.json, retrieve.json) before it writes the
first of them, so that a job that was killed recognises its own files when it is started again. A
job overwrites only files that an earlier job wrote, and a job that is refused before its first
result leaves the results and the record of the earlier one as they were.
"""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from rtda_jax.errors import ConfigError, named
from rtda_jax.run import files, parallel

RESULT = "result.json"
_EVERYTHING = ""  # in the list of a record: everything in its folder
_LARGEST = 2**24  # bytes of a record
_LARGEST_LIST = 2**29  # bytes of a record that lists results, one for each image


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes or replaces a JSON file atomically, in the main process only."""
    if parallel.is_main():
        files.write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: pathlib.Path, *, most: int = _LARGEST) -> dict[str, Any]:
    """Returns the object that `write_json` wrote.

    Args:
      path: the file.
      most: the largest size in bytes.

    Raises:
      ConfigError: names the file if it cannot be read or does not hold a JSON object.
    """
    try:
        value = json.loads(files.read(path, most=most))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: {files.reason(path, error)}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not the JSON this program writes there: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: holds a {type(value).__name__}, expected an object")
    return value


def read_results(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns the content of results.json, which is empty before the first stage has ended."""
    path = workdir / "results.json"
    return read_json(path) if path.exists() else {}


@contextlib.contextmanager
def lock(workdir: pathlib.Path) -> Iterator[None]:
    """Locks a workdir for one job; if the job has several processes, the main one locks it.

    Raises:
      ConfigError: in every process; another job holds the workdir.
    """
    with contextlib.ExitStack() as stack:
        parallel.on_main(lambda: stack.enter_context(files.lock(workdir)))
        yield


@contextlib.contextmanager
def claimed(
    out: pathlib.Path, *, record: str, results: Iterable[str]
) -> Iterator[Callable[[], list[str]]]:
    """Locks a folder for one job, which then lists its results in the record.

    Args:
      out: the folder; created if it does not exist.
      record: the name of the record in the folder.
      results: the files that the job may write, relative to the folder. A name that ends in a slash
        is a folder that belongs to the job with all of its content.

    Yields:
      A function to call before the first result is written, and after all that may be refused: it
      replaces the record of an earlier job. It returns the list that the record must have under
      "results" when the job replaces it in turn: the job's own files and those of earlier jobs that
      are still there.

    Raises:
      ConfigError: another job holds the folder, or the folder has files of these names that no
        earlier job listed.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the output folder {out} cannot be made: {error.strerror}; choose another --output"
        ) from None
    with files.lock(out):
        ours, names = written(out / record), {record, *results}
        there = sorted(name for name in names if (out / name).exists() and not covers(ours, name))
        if there:
            raise ConfigError(
                f"{out} holds {named(there)}, which this job would overwrite and no earlier one "
                "wrote; choose another --output"
            )
        listed = sorted(names | {name for name in ours - {_EVERYTHING} if (out / name).exists()})

        def begin() -> list[str]:
            write_json(out / record, {"finished": False, "results": listed})
            return listed

        yield begin


def written(record: pathlib.Path) -> set[str]:
    """Returns the results that a record lists, relative to its folder; none without a record."""
    try:
        known: dict[str, Any] = read_json(record, most=_LARGEST_LIST) if record.is_file() else {}
    except (ConfigError, OSError):
        return set()
    results = known.get("results")
    if isinstance(results, list):
        return {record.name, *(name for name in results if isinstance(name, str))}
    # Records of releases up to 0.1 have no list.
    if isinstance(known.get("views"), list):
        return {record.name, "legend.png", *(f"{view}/" for view in known["views"])}
    return {_EVERYTHING} if known.keys() & {"run", "runs"} else set()


def covers(results: set[str], name: str) -> bool:
    """Returns whether a list of results names a file, or a folder that contains the file."""
    path = pathlib.PurePosixPath(name)
    return bool({_EVERYTHING, str(path), f"{path}/", *(f"{p}/" for p in path.parents)} & results)


def find_result(folder: pathlib.Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns what an evaluate stage measured under an identity, or None.

    Args:
      folder: the stage's.
      identity: the fields that decide the numbers: protocol, models and step.
    """
    wanted = _as_recorded(identity)
    for path in _results(folder):
        record = read_json(path)
        if _identity_of(record, identity) == wanted:
            return record
    return None


def save_result(
    folder: pathlib.Path, record: Mapping[str, Any], identity: Mapping[str, Any]
) -> None:
    """Writes what an evaluate stage measured to `result.json`, its newest result.

    An earlier result under another identity is moved to `result-HASH.json`, so that all of them are
    kept.
    """
    record, path = _as_recorded(record), folder / RESULT
    if parallel.is_main() and path.exists():
        earlier = read_json(path)
        if _identity_of(earlier, identity) != _identity_of(record, identity):
            write_json(_path_of_other(folder, _identity_of(earlier, identity)), earlier)
    write_json(path, record)
    if parallel.is_main():
        _path_of_other(folder, _identity_of(record, identity)).unlink(missing_ok=True)


def other_results(folder: pathlib.Path, identity: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the results that an evaluate stage measured under other identities."""
    records = [read_json(path) for path in _results(folder)]
    wanted = _as_recorded(identity)
    return [record for record in records if _identity_of(record, identity) != wanted]


def _results(folder: pathlib.Path) -> list[pathlib.Path]:
    newest = folder / RESULT
    return ([newest] if newest.exists() else []) + sorted(folder.glob("result-*.json"))


def _as_recorded(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns fields as a record in JSON has them: with lists for tuples."""
    return json.loads(json.dumps(dict(fields)))


def _identity_of(record: Mapping[str, Any], identity: Mapping[str, Any]) -> dict[str, Any]:
    return {field: record.get(field) for field in identity}


def _path_of_other(folder: pathlib.Path, identity: Mapping[str, Any]) -> pathlib.Path:
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return folder / f"result-{digest[:8]}.json"
