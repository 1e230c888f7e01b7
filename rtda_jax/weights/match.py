"""Recognises the naming of a weight file and the prefix of its names."""

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import flax
import numpy as np

from rtda_jax.errors import ConfigError, printable
from rtda_jax.weights.files import WRAPPERS, WeightFile
from rtda_jax.weights.namings import NETWORKS, OURS, TRUNKS, WITH_BATCH_COUNTS, Naming

LeafPath = tuple[str, ...]  # in a tree of variables

_LEAVES = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}
_PREFIX = re.compile(rf"(?:(?:{'|'.join(WRAPPERS)})\.){{1,5}}")
_ABN = "_inplace_abn"  # suffix of namings that read scales like the library inplace_abn


@dataclasses.dataclass(frozen=True)
class Match:
    """A possible naming of a file.

    Attributes:
      name: the name of the naming.
      naming: the naming.
      expected: path in the variables of every weight of the network's part, by its name.
      prefix: the prefix of these names in the file.
      count: how many of these weights the file has.
    """

    name: str
    naming: Naming
    expected: Mapping[str, LeafPath]
    prefix: str
    count: int

    def rank(self) -> tuple[int, int, int]:
        """Orders matches: many weights, then a short prefix, then the trained network itself."""
        wrappers = self.prefix.split(".")[:-1]
        return -self.count, len(wrappers), WRAPPERS.index(wrappers[0]) if wrappers else 0

    def arrays(self, file: WeightFile) -> dict[str, np.ndarray]:
        """Returns the arrays of a file whose names have the prefix, by their names without it."""
        return {
            name.removeprefix(self.prefix): array
            for name, array in file.arrays.items()
            if name.startswith(self.prefix)
        }


def namings_of(model_name: str, part: str) -> dict[str, Naming]:
    """Returns the possible namings of the weights of a network's part, by name."""
    whole = NETWORKS.get(model_name, {"rtda_jax": OURS})
    return {**TRUNKS.get(model_name, {}), **whole} if part == "backbone" else dict(whole)


def expected_names(naming: Naming, variables: Mapping[str, Any], part: str) -> dict[str, LeafPath]:
    """Returns the path in variables of every weight of the part, by its name in a file."""
    expected = {}
    for path in flax.traverse_util.flatten_dict(variables):
        module = ".".join(path[1:-1])
        renamed = naming.rename(module)
        if renamed is not None and (part == "all" or module.startswith("backbone.")):
            expected[f"{renamed}.{_LEAVES.get((path[0], path[-1]), path[-1])}"] = path
    return expected


def best_match(
    file: WeightFile,
    namings: Mapping[str, Naming],
    variables: Mapping[str, Any],
    *,
    part: str,
    model_name: str,
) -> tuple[Match, tuple[str, ...]]:
    """Returns the naming with the most weights in a file, and sentences about the choice.

    Raises:
      ConfigError: no naming has a weight in the file, or several have equally many and differ in
        their meaning.
    """
    matches = sorted(
        (
            match
            for name, naming in namings.items()
            for match in _matches(file, name, naming, expected_names(naming, variables, part))
        ),
        key=Match.rank,
    )
    if not matches:
        raise ConfigError(
            f"{file.path}: its names fit none of the known namings ({', '.join(namings)}); it has "
            f"{some(file.arrays)}"
        )
    first = matches[0]
    best = [m for m in matches if (m.count, m.prefix) == (first.count, first.prefix)]
    notes = _taken(file, first, matches)
    if len(best) > 1:
        first, reading = _read_scales(file, best, WITH_BATCH_COUNTS.get(model_name, ""))
        notes += reading
    return first, notes


def _matches(
    file: WeightFile, name: str, naming: Naming, expected: Mapping[str, LeafPath]
) -> list[Match]:
    """Returns the ways to read a file in a naming: with different prefixes, or with none."""
    counts: collections.Counter[str] = collections.Counter()
    for full in file.arrays:
        wrapped = _PREFIX.match(full)
        wrappers = wrapped.group().split(".")[:-1] if wrapped else []
        for depth in range(len(wrappers) + 1):
            prefix = "".join(f"{wrapper}." for wrapper in wrappers[:depth])
            counts[prefix] += full.removeprefix(prefix) in expected
    matches = [Match(name, naming, expected, p, count) for p, count in counts.items() if count]
    # Only a handful of the best prefixes, because each of them needs a look at all names.
    nearest = sorted(matches, key=Match.rank)[:8]
    return [match for match in nearest if naming.fits(match.arrays(file))]


def _taken(file: WeightFile, match: Match, matches: Iterable[Match]) -> tuple[str, ...]:
    """Returns a sentence about which weights of a file are used, and which others could be."""
    prefix = match.prefix.removesuffix(".")
    taken = ".".join(filter(None, (file.taken, prefix)))
    if not taken:
        return ()
    others = {m.prefix.removesuffix(".") for m in matches if m.count == match.count} - {prefix}
    names = set(filter(None, others)) | set(file.others)
    return (f"taken from {printable(taken)}" + (f" and not from {some(names)}" if names else ""),)


def _read_scales(file: WeightFile, best: list[Match], likely: str) -> tuple[Match, tuple[str, ...]]:
    """Returns one of two namings that differ only in how scales are read, and a sentence about it.

    Args:
      file: the file with the scales.
      best: the namings that fit equally well.
      likely: the naming that is right unless scales are negative.

    Raises:
      ConfigError: the namings differ in other points, or some scales are negative: inplace_abn uses
        their absolute value, and plain batch normalisation uses them unchanged.
    """
    names = sorted(match.name for match in best)
    plain = likely.removesuffix(_ABN)
    if names != [plain, plain + _ABN]:
        raise ConfigError(
            f"{file.path}: its names fit the namings {', '.join(names)}, which differ in what the "
            "weights expect of their input; say which with model.pretrained_naming"
        )
    pattern = next(match.naming.inplace_abn for match in best if match.name.endswith(_ABN))
    match = next(match for match in best if match.name == likely)
    arrays = match.arrays(file)
    scales = [
        name
        for name, path in match.expected.items()
        if path[-1] == "scale" and name in arrays and re.search(pattern, name)
    ]
    negative = [name for name in scales if np.any(arrays[name] < 0)]
    if negative:
        raise ConfigError(
            f"{file.path}: {some(negative)} are negative scales, which batch normalisation and "
            "inplace_abn read differently, and the file does not say which of the two it is of: "
            f"set model.pretrained_naming to {plain} or {plain}{_ABN}"
        )
    readings = {plain: "plain scales", plain + _ABN: "inplace_abn's |scale| + 1e-5"}
    other = next(name for name in names if name != likely)
    note = f"normalisations are read as {readings[likely]} (in the naming {other} they are not)"
    return match, (note,) if scales else ()


def some(unordered: Iterable[str]) -> str:
    """Returns the first few of some names, as text for a sentence."""
    names = sorted(unordered)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(printable, names[:5])) + more
