"""Looking at every file of a data set: what is wrong, what is in it, and what it is exactly."""

import collections
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from rtda_jax.data import catalogue, decode, sheet
from rtda_jax.data.dataset import Dataset, Files
from rtda_jax.data.errors import DataError
from rtda_jax.data.labels import IGNORE, class_set
from rtda_jax.data.statistics import enet_weights, frequencies

_LOOKAHEAD = 4  # examples in flight per thread
_NAMED = 20  # findings the report shows; the manifest has all


class Finding(NamedTuple):
    """What one example is."""

    key: str
    problem: str  # empty: none
    image_sha256: str = ""
    label_sha256: str = ""
    pixels_sha256: str = ""
    size: tuple[int, int] = (0, 0)
    raw: np.ndarray | None = None  # pixels of each raw id, int64 [256]


def check_data(
    spec: Mapping[str, Any],
    *,
    data_dir: str | os.PathLike,
    classes: str,
    out: str | os.PathLike,
    threads: int | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Decode every example of a spec and write down what was found.

    `out` gets `manifest.json` (counts, hashes, histograms, class frequencies, ENet weights),
    `quarantine.txt` (a spec's field `quarantine` takes it, and `load` then leaves the listed
    examples out) and `sheet.png` (images with their labels, to be looked at).

    Args:
      spec: see rtda_jax.data.load; its own quarantine is not applied, its store is "files".
      data_dir, classes: see rtda_jax.data.load.
      out: folder, made if need be.
      threads: of decoding; default one per core.
      say: gets the lines of the report.

    Returns:
      The manifest.

    Raises:
      DataError: nothing to look at: unknown names, missing folders. Broken files do not raise.
    """
    dataset, missing, orphans = _everything(spec, data_dir, classes)
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    quarantine = dict(missing)
    warnings = [f"{path}: label without image" for path in orphans]
    entries, seen = {}, dict[str, str]()
    sizes: collections.Counter[tuple[int, int]] = collections.Counter()
    raw = np.zeros(256, np.int64)
    for finding in _findings(dataset, threads or os.cpu_count() or 1):
        if finding.problem:
            quarantine[finding.key] = finding.problem
        if not finding.pixels_sha256:
            continue
        sizes[finding.size] += 1
        entries[finding.key] = {"image": finding.image_sha256, "label": finding.label_sha256}
        twin = seen.setdefault(finding.pixels_sha256, finding.key)
        if twin != finding.key:
            warnings.append(f"{finding.key}: same pixels as {twin}")
        if finding.raw is not None and not finding.problem:
            raw += finding.raw
    warnings += _suspicions(dataset, raw)
    manifest = {
        "name": dataset.name,
        "labelling": dataset.labelling,
        "classes": classes,
        "count": len(dataset) + len(missing),
        "usable": len(dataset) + len(missing) - len(quarantine),
        "sha256": _digest(entries),
        "sizes": {f"{w}x{h}": count for (h, w), count in sizes.most_common()},
        "quarantine": quarantine,
        "warnings": warnings,
        **_contents(dataset, raw),
        "examples": entries,
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    lines = ["# examples that training leaves out: key, tab, reason"]
    lines += [f"{key}\t{reason}" for key, reason in quarantine.items()]
    (out / "quarantine.txt").write_text("\n".join(lines) + "\n")
    usable = [i for i, key in enumerate(dataset.keys) if key not in quarantine]
    if usable:
        sheet.contact_sheet(dataset, out / "sheet.png", usable)
    for line in _report(manifest, out):
        say(line)
    return manifest


def _everything(
    spec: Mapping[str, Any], data_dir: str | os.PathLike, classes: str
) -> tuple[Dataset, dict[str, str], list[str]]:
    """The examples that have both files, key -> problem of those that have not, lone labels."""
    fields = catalogue.checked(spec)
    if fields["name"] in ("streets", "cityscapes_tfds"):
        return catalogue.load(spec, data_dir=data_dir, classes=classes), {}, []
    found = catalogue.survey(fields, catalogue.root_of(data_dir))
    labelled = found.labelling is not None
    missing = {
        key: f"missing pair: {found.pairs.images[key]} has no label {found.pairs.folder}"
        for key in found.keys
        if labelled and key not in found.pairs.labels
    }
    keys = tuple(key for key in found.keys if key not in missing)
    images = tuple(found.pairs.images[key] for key in keys)
    label_files = tuple(found.pairs.labels[key] for key in keys) if labelled else ()
    dataset = Dataset(
        found.name,
        keys,
        class_set(classes),
        found.labelling,
        Files(images, label_files),
        found.lenient,
    )
    lone = [path for key, path in found.pairs.labels.items() if key not in found.pairs.images]
    return dataset, missing, lone


def _findings(dataset: Dataset, threads: int) -> Iterator[Finding]:
    """What every example is, in order; few are in memory at a time."""
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
        image, raw = decode.examine_known(dataset, i)
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
        histogram,
    )


def _suspicions(dataset: Dataset, raw: np.ndarray) -> list[str]:
    """What the ids that occur say about the labelling that was named."""
    if dataset.labelling not in ("cityscapes_ids", "gta5_ids") or not raw.sum():
        return []
    occurring = set(np.flatnonzero(raw).tolist())
    void = raw[:7].sum() / raw.sum()
    if occurring <= {*range(19), IGNORE} and void > 0.5:
        return [
            f"labelling {dataset.labelling!r}: only ids 0..18 and 255 occur and {void:.0%} of the "
            "pixels would be void; these look like train ids (labelling 'train_ids')"
        ]
    return []


def _contents(dataset: Dataset, raw: np.ndarray) -> dict[str, Any]:
    """Histograms of raw ids and classes, and the weights that follow."""
    if dataset.labelling is None:
        return {}
    lut = dataset.classes.lut(dataset.labelling)
    counts = np.array([raw[lut == number].sum() for number in range(len(dataset.classes))])
    frequency = frequencies(counts)
    weights = enet_weights(frequency)
    total = max(int(raw.sum()), 1)
    named = dataset.classes.names
    return {
        "raw_ids": {str(i): int(raw[i]) for i in np.flatnonzero(raw)},
        "ignored": float(1 - counts.sum() / total),
        "frequencies": dict(zip(named, frequency.tolist(), strict=True)),
        "enet_weights": dict(zip(named, weights.tolist(), strict=True)),
    }


def _digest(entries: Mapping[str, Mapping[str, str]]) -> str:
    lines = [f"{key}\t{e['image']}\t{e['label']}" for key, e in sorted(entries.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _report(manifest: Mapping[str, Any], out: pathlib.Path) -> Iterator[str]:
    yield f"{manifest['name']}: {manifest['usable']} of {manifest['count']} examples are usable"
    yield f"  sizes {manifest['sizes']}, labels {manifest['labelling']} -> {manifest['classes']}"
    for key, reason in list(manifest["quarantine"].items())[:_NAMED]:
        yield f"  quarantined {key}: {reason}"
    for warning in manifest["warnings"][:_NAMED]:
        yield f"  warning: {warning}"
    for name, share in manifest.get("frequencies", {}).items():
        weight = manifest["enet_weights"][name]
        yield f"  {name:<16}{share:>9.3%} of valid pixels, ENet weight {weight:6.2f}"
    if "ignored" in manifest:
        yield f"  {'ignored':<16}{manifest['ignored']:>9.3%} of all pixels"
    yield f"  {out}: manifest.json, quarantine.txt, sheet.png"


def check_benchmark(
    benchmark: Mapping[str, Any],
    *,
    data_dir: str | os.PathLike,
    out: str | os.PathLike,
    threads: int | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, dict[str, Any]]:
    """`check_data` for every set of a benchmark (configs/benchmarks.py), into `out/<role>`.

    The training images of the target are looked at with their labels where there are any: this
    job trains nothing.
    """
    manifests = {}
    for role in ("source", "source_eval", "target_labelled", "target", "eval"):
        spec = benchmark[role]
        if not spec or (role == "target" and "target_labelled" in manifests):
            continue
        if spec["name"] == "folders" and not spec["images"]:
            continue
        manifests[role] = check_data(
            spec,
            data_dir=data_dir,
            classes=benchmark["classes"],
            out=pathlib.Path(out) / role,
            threads=threads,
            say=say,
        )
    return manifests
