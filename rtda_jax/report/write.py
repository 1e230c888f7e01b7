"""From workdirs to the two files of a report."""

import pathlib
import shutil
from collections.abc import Sequence

from rtda_jax.report import runs, speed
from rtda_jax.report.contents import document
from rtda_jax.report.html import html
from rtda_jax.report.markdown import FOLDER, markdown


def write(
    patterns: Sequence[str],
    out: pathlib.Path,
    *,
    speeds: Sequence[str] = (),
    published: Sequence[str] = (),
) -> pathlib.Path:
    """Write `report.html`, `report.md` and the latter's `figures/` into a folder.

    The same records give the same bytes: there are no dates in them, and the order in which runs
    are named does not matter.

    Args:
      patterns: workdirs, or globs of them.
      out: made if need be; an earlier report in it is replaced.
      speeds: `speed.json` files of --job=benchmark.
      published: papers to show besides those whose data the runs are on, see published.py.

    Returns:
      The page.

    Raises:
      ConfigError: a file or field that is missing or not a run's, by name; nothing is written.
    """
    loaded = [runs.load(folder) for folder in runs.find(patterns)]
    report = document(
        loaded, speeds=speed.load([pathlib.Path(p) for p in speeds]), published=published
    )
    page = html(report)
    text, files = markdown(report)
    out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out / FOLDER, ignore_errors=True)
    for path, data in sorted(files.items()):
        (out / path).parent.mkdir(exist_ok=True)
        (out / path).write_bytes(data)
    (out / "report.md").write_text(text)
    (out / "report.html").write_text(page)
    return out / "report.html"
