"""One page about any number of runs, made only from the files that they wrote."""

import importlib.util
import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

from rtda_jax.errors import ConfigError, printable
from rtda_jax.report import records, runs
from rtda_jax.run import files

PAGE, TEXT, LISTING = "report.html", "report.md", "report.json"
FOLDER = "figures"
FIGURE = re.compile(rf"{FOLDER}/[\w-]+\.(svg|png|jpg)")


def write(
    patterns: Sequence[str],
    out: pathlib.Path,
    *,
    speeds: Sequence[str] = (),
    published: Sequence[str] = (),
) -> pathlib.Path:
    """Writes `report.html`, `report.md` with its `figures/`, and `report.json`, the list of files.

    The same records give the same bytes: there are no dates in them, and the order in which runs
    are named does not matter. Only files that an earlier report's list names are replaced or
    removed.

    Args:
      patterns: workdirs, or globs of them.
      out: the folder; created if it does not exist.
      speeds: `speed.json` files of the job benchmark.
      published: papers to show in addition to those with the runs' own data, see published.toml.

    Returns:
      The page.

    Raises:
      ConfigError: names a file or field that is missing or invalid, a file in `out` that no earlier
        report wrote, or another job that writes there; in these cases no file is replaced.
    """
    for library in ("jinja2", "matplotlib"):
        if importlib.util.find_spec(library) is None:
            raise ConfigError(f"the job report needs {library}: pip install 'rtda_jax[report]'")
    from rtda_jax.report import contents, page
    from rtda_jax.stages import KINDS

    folders, others = runs.find(patterns)
    document = contents.document(
        runs.load_all(folders, KINDS),
        speeds=runs.speeds([pathlib.Path(path).expanduser() for path in speeds]),
        papers=published,
        others=sorted(printable(path.name) for path in others),
    )
    out = out.expanduser()
    text, drawings = page.markdown(document)
    texts_and_drawings = {**drawings, TEXT: text.encode(), PAGE: page.html(document).encode()}
    with files.lock(out):
        _replace(out, texts_and_drawings)
    return out / PAGE


def _replace(out: pathlib.Path, contents: Mapping[str, bytes]) -> None:
    """Writes files to a folder and removes those of an earlier report."""
    if (out / FOLDER).is_symlink():
        raise ConfigError(f"{out / FOLDER} is a link to elsewhere; choose another --output")
    earlier = _listed(out)
    for path in sorted(contents.keys() - earlier):
        if (out / path).exists() or (out / path).is_symlink():
            raise ConfigError(f"{out / path} is not an earlier report's; choose another --output")
    # The list is written first, so that all files can be replaced after an interruption.
    _list(out, contents.keys() | earlier)
    for path, data in sorted(contents.items()):
        files.write_bytes(out / path, data)
    for path in earlier - contents.keys():
        (out / path).unlink(missing_ok=True)
    _list(out, contents.keys())


def _list(out: pathlib.Path, paths: Iterable[str]) -> None:
    listing = json.dumps({"files": sorted(paths)}, indent=1) + "\n"
    files.write_bytes(out / LISTING, listing.encode())


def _listed(out: pathlib.Path) -> set[str]:
    """Returns the files that an earlier report lists, except for impossible ones."""
    if not (out / LISTING).exists():
        return set()
    try:
        listing = records.read_json(out / LISTING)
        paths = records.checked(listing, {"files": [str]}, LISTING)["files"]
    except ConfigError:
        message = f"{out / LISTING} is not an earlier report's; choose another --output"
        raise ConfigError(message) from None
    ours = [path for path in paths if path in (PAGE, TEXT) or FIGURE.fullmatch(path)]
    return {path for path in ours if (out / path).is_file() and not (out / path).is_symlink()}
