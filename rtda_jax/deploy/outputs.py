"""Claims the files of a job's results: nothing is overwritten that no earlier job wrote.

A job lists its results in its record (predict.json, model.json, retrieve.json) before it writes
the first of them, so that a run that is killed knows its own files when it is started again.
"""

import contextlib
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from rtda_jax.errors import ConfigError
from rtda_jax.run import files
from rtda_jax.run.workdir import read_json, write_json

_NAMED = 3  # files that an error names before it counts


@contextlib.contextmanager
def claimed(out: pathlib.Path, *, record: str, results: Iterable[str]) -> Iterator[list[str]]:
    """Holds a folder for one job and lists its results in the record.

    Args:
      out: the folder, created where it does not exist.
      record: name of the record, in the folder.
      results: files that the job may write, relative to the folder; one that ends in a slash is a
        folder that belongs to the job with all that is in it.

    Yields:
      The list that the record must have under "results" when the job replaces it: the job's own
      files and those of earlier jobs that are still there.

    Raises:
      ConfigError: another job holds the folder, or it has files of these names that no earlier
        job listed.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the output folder {out} cannot be made: {error.strerror}") from None
    with files.lock(out):
        ours, names = written(out / record), {record, *results}
        there = sorted(name for name in names if (out / name).exists() and not covers(ours, name))
        if there:
            some = ", ".join(there[:_NAMED]) + (" ..." if len(there) > _NAMED else "")
            raise ConfigError(
                f"{out} holds {some}, which this job would overwrite and no earlier one wrote; "
                "choose another --output"
            )
        listed = sorted(names | {name for name in ours if name and (out / name).exists()})
        write_json(out / record, {"finished": False, "results": listed})
        yield listed


def written(record: pathlib.Path) -> set[str]:
    """Returns the results that a record lists, relative to its folder; none if it is no record."""
    try:
        known: dict[str, Any] = read_json(record) if record.is_file() else {}
    except (ConfigError, OSError):
        return set()
    results = known.get("results")
    if isinstance(results, list):
        return {record.name, *(name for name in results if isinstance(name, str))}
    # Records of releases up to 0.1 have no list.
    if isinstance(known.get("views"), list):
        return {record.name, "legend.png", *(f"{view}/" for view in known["views"])}
    return {""} if known.keys() & {"run", "runs"} else set()


def covers(results: set[str], name: str) -> bool:
    """Tells whether a list of results names a file, or a folder that the file lies in."""
    path = pathlib.PurePosixPath(name)
    return bool({"", str(path), f"{path}/", *(f"{p}/" for p in path.parents)} & results)
