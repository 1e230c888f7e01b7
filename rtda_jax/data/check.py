"""Checks every file of a data set: finds broken files, counts classes and records hashes."""

import collections
import hashlib
import json
import os
import pathlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from rtda_jax.data import decode, listing, load, pictures, root_of
from rtda_jax.data import spec as specs
from rtda_jax.data.dataset import Dataset
from rtda_jax.data.labels import class_set
from rtda_jax.data.sampling import contents, suspicions
from rtda_jax.errors import DataError, printable
from rtda_jax.run.files import write_bytes
from rtda_jax.run.log import Progress
from rtda_jax.tools import drawing, environment

_LOOKAHEAD = 4  # examples in flight per thread
_NAMED = 20  # findings that the report shows; the manifest has all
# The field with the size of a role's images, where that is not "size".
_SIZES = {"source": "source_size", "source_eval": "eval_size", "eval": "eval_size"}
_WRITTEN = ("manifest.json", "quarantine.txt", "sheet.png")
_DARK = 32  # a picture whose largest value is at most this is almost black

# Of the contact sheet.
_WIDTH = 320  # pixels of a panel
_TALLEST = 3 * _WIDTH  # a panel that would be taller is squeezed
_GAP = 4
_LINE = 19  # height of a line of text
_ROWS = 6
_MIX = 0.55  # share of the label's colour in the overlay


class Finding(NamedTuple):
    """The result of checking one example.

    Attributes:
      key: the key of the example.
      problem: why training cannot use it; empty if it can.
      image_sha256, label_sha256: the hashes of the files.
      pixels_sha256: the hash of the decoded image.
      size: (H, W).
      brightest: the largest value of any pixel.
      raw: the number of pixels of each raw id, int64 [256]; None without labels.
      meaningless: whether the label has no pixel of a class.
    """

    key: str
    problem: str
    image_sha256: str = ""
    label_sha256: str = ""
    pixels_sha256: str = ""
    size: tuple[int, int] = (0, 0)
    brightest: int = 255
    raw: np.ndarray | None = None
    meaningless: bool = False


def check_data(
    spec: Mapping[str, Any],
    *,
    data_dir: str | os.PathLike,
    classes: str,
    out: str | os.PathLike,
    role: str = "",
    threads: int | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Decodes every example of a specification and writes a report about them.

    It writes three files to `out`: `manifest.json` (counts, hashes, histograms, class frequencies,
    ENet weights), `quarantine.txt` (a list for a specification's field `quarantine`, so that `load`
    leaves the listed examples out) and, if an example is usable, `sheet.png` (images with their
    labels, to look at). The files of an earlier check are replaced or removed.

    Args:
      spec: see `rtda_jax.data.load`; its own quarantine is not applied, its store is "files".
      data_dir, classes: see `rtda_jax.data.load`.
      out: the folder; created if it does not exist.
      role: its field in a benchmark, such as "source", for the report.
      threads: the threads that decode; by default one per core.
      say: receives the lines of the report.

    Returns:
      The manifest.

    Raises:
      DataError: there is nothing to check, for example because a folder is missing. Broken files
        do not raise.
      ConfigError: unknown names.
    """
    dataset, missing, advice = _everything(spec, data_dir, classes, role)
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    quarantine = dict(missing)
    warnings, dark = [*advice, *dataset.notes], list[str]()
    entries, seen = {}, dict[str, str]()
    sizes: collections.Counter[tuple[int, int]] = collections.Counter()
    raw, lost, meaningless = np.zeros(256, np.int64), np.zeros(256, np.int64), 0
    progress = Progress(f"checking {dataset.title}", len(dataset))
    for finding in _findings(dataset, threads or environment.cores()):
        progress.add(1)
        if finding.problem:
            quarantine[finding.key] = finding.problem
        if not finding.pixels_sha256:
            continue
        sizes[finding.size] += 1
        entries[finding.key] = {"image": finding.image_sha256, "label": finding.label_sha256}
        twin = seen.setdefault(finding.pixels_sha256, finding.key)
        if twin != finding.key:
            warnings.append(f"{finding.key}: same pixels as {twin}")
        if finding.brightest < _DARK and not finding.problem:
            dark.append(finding.key)
        if finding.raw is not None and not finding.problem:
            raw += finding.raw
        if finding.raw is not None and finding.meaningless:
            lost, meaningless = lost + finding.raw, meaningless + 1
    progress.end()
    if dark:
        warnings.append(
            f"{len(dark)} images are almost black, such as {dark[0]}: are they of 10 or 12 bits, "
            "saved with 16?"
        )
    usable = [i for i, key in enumerate(dataset.keys) if key not in quarantine]
    # A few labels without a class are broken; if most are, the labelling is another one.
    warnings += suspicions(dataset, raw + lost if meaningless > len(usable) else raw)
    manifest = {
        "name": dataset.name,
        "labelling": dataset.labelling and dataset.labelling.name,
        "classes": classes,
        "count": len(dataset) + len(missing),
        "usable": len(usable),
        "sha256": _digest(entries),
        "sizes": {f"{w}x{h}": count for (h, w), count in sizes.most_common()},
        "quarantine": quarantine,
        "warnings": warnings,
        **contents(dataset, raw),
        "examples": entries,
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    # Bytes of names that are not UTF-8 become JSON escapes.
    write_bytes(out / "manifest.json", text.encode(errors="backslashreplace"))
    listing.write_list(
        out / "quarantine.txt", quarantine, title="examples that training leaves out: key, reason"
    )
    (out / "sheet.png").unlink(missing_ok=True)  # it would show an earlier check
    if usable:
        contact_sheet(dataset, out / "sheet.png", usable)
    flag = f"--config.benchmark.{role}.quarantine" if role else "the field quarantine"
    for line in _report(manifest, out, title=dataset.title, flag=flag):
        say(printable(line, limit=None))
    return manifest


def check_benchmark(
    benchmark: Mapping[str, Any],
    *,
    data_dir: str | os.PathLike,
    out: str | os.PathLike,
    say: Callable[[str], None] = print,
) -> dict[str, dict[str, Any]]:
    """Runs `check_data` for every set of a benchmark (`configs/benchmarks.py`), into `out/ROLE`.

    The training images of the target are checked with their labels, if all of them have some,
    because this job does not train.

    Raises:
      DataError: after all sets were checked, none of the examples of a set is usable.
    """
    manifests = {}
    for role in ("source", "source_eval", "target_labelled", "target", "eval"):
        spec = benchmark[role]
        if not spec or (spec["name"] == "folders" and not spec["images"]):
            continue
        if role == "target" and "target_labelled" in manifests:
            roles = (benchmark["target"], benchmark["target_labelled"])
            images, labelled = (_images(of, data_dir, benchmark["classes"]) for of in roles)
            if images <= labelled:
                continue
        manifests[role] = check_data(
            spec,
            data_dir=data_dir,
            classes=benchmark["classes"],
            out=pathlib.Path(out) / role,
            role=role,
            say=say,
        )
        field = _SIZES.get(role, "size")
        rows = [(*name.split("x"), n) for name, n in manifests[role]["sizes"].items()]
        shapes = {(int(height), int(width)): n for width, height, n in rows}
        if field in benchmark:
            for line in pictures.stretching(
                shapes, tuple(benchmark[field]), field=f"benchmark.{field}"
            ):
                say(f"  {line}")
    useless = [role for role, m in manifests.items() if not m["usable"]]
    if useless:
        raise DataError(f"no example is usable of: {', '.join(useless)}; see the warnings above")
    return manifests


def contact_sheet(dataset: Dataset, path: pathlib.Path, indices: Sequence[int]) -> None:
    """Writes a PNG of evenly chosen examples: image, label over image, label, and the legend.

    The first line names the data set.

    Ignored pixels are black in the label and unchanged in the overlay. Sheets of unlabelled sets
    show only the images.

    Args:
      dataset: the data set.
      path: the path of the PNG.
      indices: the examples that can be read.
    """
    places = np.linspace(0, len(indices) - 1, min(_ROWS, len(indices))).round().astype(int)
    strips = [_row(dataset, indices[place]) for place in places]
    strips.insert(0, _line(dataset.title, width=strips[0].width))
    if dataset.labelling is not None:
        strips.append(
            drawing.legend(
                names=(*dataset.classes.names, drawing.IGNORED),
                colours=np.array([*dataset.classes.colours, drawing.BLACK], np.uint8),
                width=strips[0].width,
            )
        )
    sheet = Image.new("RGB", (strips[0].width, sum(s.height + _GAP for s in strips)), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height + _GAP
    write_bytes(path, pictures.png(np.asarray(sheet)))


def _everything(
    spec: Mapping[str, Any], data_dir: str | os.PathLike, classes: str, role: str = ""
) -> tuple[Dataset, dict[str, str], list[str]]:
    """Returns the examples with both files, key -> problem of the others, and advice on these."""
    fields = specs.checked(spec)
    if fields["name"] in specs.PREPARED:
        return load(spec, data_dir=data_dir, classes=classes, role=role), {}, []
    files = specs.survey(fields, root_of(data_dir), class_set(classes), role=role)
    missing = {
        key: f"missing pair: there is no label {key}{files.label_suffix}.png"
        for key in files.keys
        if files.labelling is not None and key not in files.pairs.labels
    }
    advice = [f"no image has a label; {files.how_to_pair()}"] if missing and files.suffixes else []
    return files.dataset(tuple(key for key in files.keys if key not in missing)), missing, advice


def _images(spec: Mapping[str, Any], data_dir: str | os.PathLike, classes: str) -> set[str]:
    """Returns where the images are that `check_data` decodes."""
    dataset, *_ = _everything(spec, data_dir, classes)
    return {dataset.where(i) for i in range(len(dataset))}


def _findings(dataset: Dataset, threads: int) -> Iterator[Finding]:
    """Yields the finding for every example, in order; few examples are in memory at a time."""
    with ThreadPoolExecutor(threads) as pool:
        running: collections.deque[Future[Finding]] = collections.deque()
        for i in range(len(dataset)):
            running.append(pool.submit(_look, dataset, i))
            if len(running) >= _LOOKAHEAD * threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _look(dataset: Dataset, i: int) -> Finding:
    key = dataset.keys[i]
    try:
        image, raw = decode.examine_ids(dataset, i)
    except DataError as error:
        return Finding(key, str(error))
    problem = ""
    if (image == image[:1, :1]).all():
        colour = tuple(image[0, 0].tolist())
        problem = f"{dataset.where(i)}: constant image, every pixel is {colour}"
    histogram = None
    label_sha256, meaningless = "", False
    if raw is not None and dataset.labelling is not None:
        histogram = np.bincount(raw.ravel(), minlength=256)
        lut = dataset.classes.lut(dataset.labelling)
        meaningless = not histogram[lut < len(dataset.classes)].any()
        if meaningless:
            numbers = [dataset.labelling.number(k) for k in np.flatnonzero(histogram).tolist()]
            ids = decode.ranges(numbers)
            problem = problem or f"{dataset.reader.where(i)[1]}: all-ignored label (ids {ids})"
        label_sha256 = hashlib.sha256(dataset.reader.label(i)).hexdigest()
    return Finding(
        key,
        problem,
        hashlib.sha256(dataset.reader.image(i)).hexdigest(),
        label_sha256,
        hashlib.sha256(image.tobytes()).hexdigest(),
        (image.shape[0], image.shape[1]),
        int(image.max()),
        histogram,
        meaningless,
    )


def _digest(entries: Mapping[str, Mapping[str, str]]) -> str:
    lines = [f"{key}\t{e['image']}\t{e['label']}" for key, e in sorted(entries.items())]
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def _report(
    manifest: Mapping[str, Any], out: pathlib.Path, *, title: str, flag: str
) -> Iterator[str]:
    yield f"{title}: {manifest['usable']} of {manifest['count']} examples are usable"
    sizes = ", ".join(f"{count} of {size}" for size, count in manifest["sizes"].items())
    yield f"  images: {sizes or 'none can be read'}; labels: {_labels(manifest)}"
    for key, reason in list(manifest["quarantine"].items())[:_NAMED]:
        yield f"  quarantined {key}: {reason}"
    for warning in manifest["warnings"][:_NAMED]:
        yield f"  warning: {warning}"
    if manifest.get("raw_ids"):  # otherwise no label was read that could be counted
        for name, share in manifest["frequencies"].items():
            weight = manifest["enet_weights"][name]
            yield f"  {name:<16}{share:>9.3%} of valid pixels, ENet weight {weight:6.2f}"
        yield f"  {'ignored':<16}{manifest['ignored']:>9.3%} of all pixels"
    written = [file for file in _WRITTEN if (out / file).exists()]
    yield f"  {out.resolve()}: {', '.join(written)}"
    if manifest["quarantine"] and manifest["usable"]:
        file = shlex.quote(str(out.resolve() / "quarantine.txt"))
        yield f"  to train without these examples: {flag}={file}"


def _labels(manifest: Mapping[str, Any]) -> str:
    if manifest["labelling"] is None:
        return "not used"
    return f"{manifest['labelling']}, for {class_set(manifest['classes']).title}"


def _row(dataset: Dataset, i: int) -> Image.Image:
    """Draws the panels of one example under its name."""
    pixels, label = decode.examine(dataset, i)
    panels = [(pixels, Image.Resampling.BILINEAR)]
    if label is not None:
        painted = drawing.colourise(label, np.asarray(dataset.classes.colours, np.uint8))
        mixed = (_MIX * painted + (1 - _MIX) * pixels).astype(np.uint8)
        valid = (label < len(dataset.classes))[..., None]
        panels.append((np.where(valid, mixed, pixels), Image.Resampling.BILINEAR))
        panels.append((painted, Image.Resampling.NEAREST))
    height = min(max(round(_WIDTH * pixels.shape[0] / pixels.shape[1]), 1), _TALLEST)
    row = Image.new("RGB", (len(panels) * (_WIDTH + _GAP) - _GAP, height + _LINE), "white")
    for number, (panel, method) in enumerate(panels):
        small = Image.fromarray(panel).resize((_WIDTH, height), method)
        row.paste(small, (number * (_WIDTH + _GAP), _LINE))
    row.paste(_line(dataset.keys[i], width=row.width), (0, 0))
    return row


def _line(text: str, *, width: int) -> Image.Image:
    """Draws a line of text, whose middle is left out if it is too long."""
    strip = Image.new("RGB", (width, _LINE), "white")
    draw, size = ImageDraw.Draw(strip), drawing.SMALLEST_TEXT
    drawing.write(draw, (2, 0), printable(text), size=size, within=width - 4)
    return strip
