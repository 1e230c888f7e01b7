"""Checks every file of a data set: finds broken files, counts classes and records hashes."""

import collections
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from rtda_jax.data import decode, listing, load, pictures, root_of
from rtda_jax.data import spec as specs
from rtda_jax.data.dataset import Dataset
from rtda_jax.data.labels import class_set
from rtda_jax.data.sampling import contents, stretching, suspicions
from rtda_jax.errors import DataError, printable
from rtda_jax.run.files import write_bytes
from rtda_jax.run.log import Progress
from rtda_jax.tools import drawing, environment

_LOOKAHEAD = 4  # examples in flight per thread
_NAMED = 20  # findings that the report shows; the manifest has all
# The field with the size of a role's images, where that is not "size".
_SIZES = {"source": "source_size", "source_eval": "eval_size", "eval": "eval_size"}
_DARK = 32  # a picture whose largest value is at most this is almost black

# Of the contact sheet.
_WIDTH = 320  # pixels of a panel
_TALLEST = 3 * _WIDTH  # a panel that would be taller is squeezed
_GAP = 4
_LINE = 16  # height of a line of text
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
    """

    key: str
    problem: str
    image_sha256: str = ""
    label_sha256: str = ""
    pixels_sha256: str = ""
    size: tuple[int, int] = (0, 0)
    brightest: int = 255
    raw: np.ndarray | None = None


def check_data(
    spec: Mapping[str, Any],
    *,
    data_dir: str | os.PathLike,
    classes: str,
    out: str | os.PathLike,
    threads: int | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Decodes every example of a specification and writes a report about them.

    It writes three files to `out`: `manifest.json` (counts, hashes, histograms, class frequencies,
    ENet weights), `quarantine.txt` (a list for a specification's field `quarantine`, so that `load`
    leaves the listed examples out) and `sheet.png` (images with their labels, to look at).

    Args:
      spec: see `rtda_jax.data.load`; its own quarantine is not applied, its store is "files".
      data_dir, classes: see `rtda_jax.data.load`.
      out: the folder; created if it does not exist.
      threads: the threads that decode; by default one per core.
      say: receives the lines of the report.

    Returns:
      The manifest.

    Raises:
      DataError: there is nothing to check, for example because a folder is missing. Broken files
        do not raise.
      ConfigError: unknown names.
    """
    dataset, missing = _everything(spec, data_dir, classes)
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    quarantine = dict(missing)
    warnings, dark = list(dataset.notes), list[str]()
    entries, seen = {}, dict[str, str]()
    sizes: collections.Counter[tuple[int, int]] = collections.Counter()
    raw = np.zeros(256, np.int64)
    progress = Progress(f"checking {dataset.name}", len(dataset))
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
    progress.end()
    if dark:
        warnings.append(
            f"{len(dark)} images are almost black, such as {dark[0]}: are they of 10 or 12 bits, "
            "saved with 16?"
        )
    warnings += suspicions(dataset, raw)
    manifest = {
        "name": dataset.name,
        "labelling": dataset.labelling and dataset.labelling.name,
        "classes": classes,
        "count": len(dataset) + len(missing),
        "usable": len(dataset) + len(missing) - len(quarantine),
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
    usable = [i for i, key in enumerate(dataset.keys) if key not in quarantine]
    if usable:
        contact_sheet(dataset, out / "sheet.png", usable)
    for line in _report(manifest, out):
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
            say=say,
        )
        field = _SIZES.get(role, "size")
        rows = [(*name.split("x"), n) for name, n in manifests[role]["sizes"].items()]
        shapes = {(int(height), int(width)): n for width, height, n in rows}
        if field in benchmark:
            for line in stretching(shapes, tuple(benchmark[field]), field=f"benchmark.{field}"):
                say(f"  {line}")
    useless = [f"{role} ({m['name']})" for role, m in manifests.items() if not m["usable"]]
    if useless:
        raise DataError(f"no example is usable of: {', '.join(useless)}; see what was quarantined")
    return manifests


def contact_sheet(dataset: Dataset, path: pathlib.Path, indices: Sequence[int]) -> None:
    """Writes a PNG of evenly chosen examples: image, label over image, label, and the legend.

    Ignored pixels are black in the label and unchanged in the overlay. Sheets of unlabelled sets
    show only the images.

    Args:
      dataset: the data set.
      path: the path of the PNG.
      indices: the examples that can be read.
    """
    places = np.linspace(0, len(indices) - 1, min(_ROWS, len(indices))).round().astype(int)
    strips = [_row(dataset, indices[place]) for place in places]
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
    spec: Mapping[str, Any], data_dir: str | os.PathLike, classes: str
) -> tuple[Dataset, dict[str, str]]:
    """Returns the examples that have both files, and key -> problem of the others."""
    fields = specs.checked(spec)
    if fields["name"] in specs.PREPARED:
        return load(spec, data_dir=data_dir, classes=classes), {}
    files = specs.survey(fields, root_of(data_dir), class_set(classes))
    missing = {
        key: f"missing pair: {files.pairs.images[key]} has no label {files.pairs.pattern}"
        for key in files.keys
        if files.labelling is not None and key not in files.pairs.labels
    }
    return files.dataset(tuple(key for key in files.keys if key not in missing)), missing


def _images(spec: Mapping[str, Any], data_dir: str | os.PathLike, classes: str) -> set[str]:
    """Returns where the images are that `check_data` decodes."""
    dataset, _ = _everything(spec, data_dir, classes)
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
    label_sha256 = ""
    if raw is not None and dataset.labelling is not None:
        histogram = np.bincount(raw.ravel(), minlength=256)
        lut = dataset.classes.lut(dataset.labelling)
        if not histogram[lut < len(dataset.classes)].any():
            problem = problem or f"{dataset.reader.where(i)[1]}: all-ignored label"
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
    )


def _digest(entries: Mapping[str, Mapping[str, str]]) -> str:
    lines = [f"{key}\t{e['image']}\t{e['label']}" for key, e in sorted(entries.items())]
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()


def _report(manifest: Mapping[str, Any], out: pathlib.Path) -> Iterator[str]:
    yield f"{manifest['name']}: {manifest['usable']} of {manifest['count']} examples are usable"
    sizes = ", ".join(f"{count} of {size}" for size, count in manifest["sizes"].items())
    yield f"  images: {sizes or 'none can be read'}; labels: {_labels(manifest)}"
    for key, reason in list(manifest["quarantine"].items())[:_NAMED]:
        yield f"  quarantined {key}: {reason}"
    for warning in manifest["warnings"][:_NAMED]:
        yield f"  warning: {warning}"
    for name, share in manifest.get("frequencies", {}).items():
        weight = manifest["enet_weights"][name]
        yield f"  {name:<16}{share:>9.3%} of valid pixels, ENet weight {weight:6.2f}"
    if "ignored" in manifest:
        yield f"  {'ignored':<16}{manifest['ignored']:>9.3%} of all pixels"
    yield f"  {out.resolve()}: manifest.json, quarantine.txt, sheet.png"
    if manifest["quarantine"]:
        yield (
            "  to train without these examples, set the field quarantine of this data set to "
            f"{out.resolve() / 'quarantine.txt'}"
        )


def _labels(manifest: Mapping[str, Any]) -> str:
    if manifest["labelling"] is None:
        return "not used"
    return f"{manifest['labelling']}, for {class_set(manifest['classes']).title}"


def _row(dataset: Dataset, i: int) -> Image.Image:
    """Draws the panels of one example under its name."""
    pixels, label = decode.examine(dataset, i)
    panels = [(pixels, Image.Resampling.BILINEAR)]
    if label is not None:
        colours = np.zeros((256, 3), np.uint8)
        colours[: len(dataset.classes)] = dataset.classes.colours
        painted = colours[label]
        mixed = (_MIX * painted + (1 - _MIX) * pixels).astype(np.uint8)
        valid = (label < len(dataset.classes))[..., None]
        panels.append((np.where(valid, mixed, pixels), Image.Resampling.BILINEAR))
        panels.append((painted, Image.Resampling.NEAREST))
    height = min(max(round(_WIDTH * pixels.shape[0] / pixels.shape[1]), 1), _TALLEST)
    row = Image.new("RGB", (len(panels) * (_WIDTH + _GAP) - _GAP, height + _LINE), "white")
    for number, (panel, method) in enumerate(panels):
        small = Image.fromarray(panel).resize((_WIDTH, height), method)
        row.paste(small, (number * (_WIDTH + _GAP), _LINE))
    title = drawing.spaced(printable(f"{dataset.name} {dataset.keys[i]}"))
    font = drawing.font(drawing.SMALLEST_TEXT)
    ImageDraw.Draw(row).text((2, 1), title, fill=drawing.INK, font=font)
    return row
