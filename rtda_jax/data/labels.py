"""The one label table: which classes there are, and how every raw labelling maps to them.

A *labelling* is what the pixels of a label file mean (Cityscapes ids, SYNTHIA ids, CamVid
colours, ...). A *class set* is what a network's head predicts, 0..K-1. Everything unmapped is
`IGNORE`; a raw id that its labelling does not know is `OUTSIDE`, which is an error, never a class.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from rtda_jax.data.camvid import CAMVID11, CAMVID32, S3_9
from rtda_jax.data.errors import DataError

IGNORE = 255
OUTSIDE = 254

Colour = tuple[int, int, int]


class Label(NamedTuple):
    """One row of the Cityscapes table; `train_id` is IGNORE for classes that do not count."""

    name: str
    id: int
    train_id: int
    colour: Colour


CITYSCAPES = (
    Label("unlabeled", 0, IGNORE, (0, 0, 0)),
    Label("ego vehicle", 1, IGNORE, (0, 0, 0)),
    Label("rectification border", 2, IGNORE, (0, 0, 0)),
    Label("out of roi", 3, IGNORE, (0, 0, 0)),
    Label("static", 4, IGNORE, (0, 0, 0)),
    Label("dynamic", 5, IGNORE, (111, 74, 0)),
    Label("ground", 6, IGNORE, (81, 0, 81)),
    Label("road", 7, 0, (128, 64, 128)),
    Label("sidewalk", 8, 1, (244, 35, 232)),
    Label("parking", 9, IGNORE, (250, 170, 160)),
    Label("rail track", 10, IGNORE, (230, 150, 140)),
    Label("building", 11, 2, (70, 70, 70)),
    Label("wall", 12, 3, (102, 102, 156)),
    Label("fence", 13, 4, (190, 153, 153)),
    Label("guard rail", 14, IGNORE, (180, 165, 180)),
    Label("bridge", 15, IGNORE, (150, 100, 100)),
    Label("tunnel", 16, IGNORE, (150, 120, 90)),
    Label("pole", 17, 5, (153, 153, 153)),
    Label("polegroup", 18, IGNORE, (153, 153, 153)),
    Label("traffic light", 19, 6, (250, 170, 30)),
    Label("traffic sign", 20, 7, (220, 220, 0)),
    Label("vegetation", 21, 8, (107, 142, 35)),
    Label("terrain", 22, 9, (152, 251, 152)),
    Label("sky", 23, 10, (70, 130, 180)),
    Label("person", 24, 11, (220, 20, 60)),
    Label("rider", 25, 12, (255, 0, 0)),
    Label("car", 26, 13, (0, 0, 142)),
    Label("truck", 27, 14, (0, 0, 70)),
    Label("bus", 28, 15, (0, 60, 100)),
    Label("caravan", 29, IGNORE, (0, 0, 90)),
    Label("trailer", 30, IGNORE, (0, 0, 110)),
    Label("train", 31, 16, (0, 80, 100)),
    Label("motorcycle", 32, 17, (0, 0, 230)),
    Label("bicycle", 33, 18, (119, 11, 32)),
)

TRAIN_IDS = {label.id: label.train_id for label in CITYSCAPES if label.train_id != IGNORE}

# SYNTHIA-RAND-CITYSCAPES id -> train id; 0 void, 13 parking slot, 14 road work, 22 lane marking.
_SYNTHIA = {3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 16: 9, 1: 10, 10: 11, 17: 12,
            8: 13, 18: 14, 19: 15, 20: 16, 12: 17, 11: 18}  # fmt: skip

# Cityscapes id -> class of the small sets; ids that are not listed are ignored.
_TO_CAMVID11 = {7: 3, 8: 4, 11: 1, 12: 1, 13: 7, 14: 7, 15: 1, 16: 1, 17: 2, 18: 2, 19: 6, 20: 6,
                21: 5, 22: 5, 23: 0, 24: 9, 25: 10, 26: 8, 27: 8, 28: 8, 29: 8, 30: 8, 31: 8,
                32: 10, 33: 10}  # fmt: skip
_TO_IDDLITE7 = {7: 0, 9: 0, 8: 1, 10: 1, 22: 1, 24: 2, 25: 2, 26: 3, 27: 3, 28: 3, 29: 3, 30: 3,
                31: 3, 32: 3, 33: 3, 4: 4, 12: 4, 13: 4, 14: 4, 17: 4, 18: 4, 19: 4, 20: 4, 11: 5,
                15: 5, 16: 5, 21: 5, 23: 6}  # fmt: skip


class Labelling(NamedTuple):
    """What a label file's pixels mean.

    `encoding` is "index" (one 8-bit channel or a palette), "first16" (the first channel of a
    16-bit file) or "rgb" (colours; the raw id is the position in `colours`). `cityscapes` maps
    raw ids to Cityscapes ids where that makes sense.
    """

    encoding: str
    ids: tuple[int, ...]
    cityscapes: Mapping[int, int]
    colours: tuple[Colour, ...] = ()


_IDS = tuple(range(34))
_BACK = {train_id: raw for raw, train_id in TRAIN_IDS.items()}
_SYNTHIA_BACK = {raw: _BACK[train_id] for raw, train_id in _SYNTHIA.items()}

LABELLINGS = {
    "cityscapes_ids": Labelling("index", (*_IDS, IGNORE), {i: i for i in _IDS}),
    "gta5_ids": Labelling("index", (*_IDS, 34, IGNORE), {i: i for i in _IDS}),  # 34: number plate
    "train_ids": Labelling("index", (*range(19), IGNORE), _BACK),
    "synthia_ids": Labelling("first16", tuple(range(23)), _SYNTHIA_BACK),
    "synthia_ids_8bit": Labelling("index", (*range(23), IGNORE), _SYNTHIA_BACK),
    "camvid32_colours": Labelling(
        "rgb", tuple(range(32)), {}, tuple(colour for _, colour in CAMVID32)
    ),
    "camvid32_ids": Labelling("index", (*range(32), IGNORE), {}),  # as listed
    "camvid11_ids": Labelling("index", tuple(range(12)), {}),
    "iddlite_ids": Labelling("index", (*range(7), IGNORE), {}),
}


_AS_COLOURS = {"camvid32_ids": "camvid32_colours"}


@dataclasses.dataclass(frozen=True)
class ClassSet:
    """The K classes a head predicts.

    Attributes:
      name: key of `CLASS_SETS`.
      names, colours: K of each.
      cityscapes: Cityscapes id -> class.
      native: labelling -> {raw id: class}, for labellings that do not pass through Cityscapes.
    """

    name: str
    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    cityscapes: Mapping[int, int]
    native: Mapping[str, Mapping[int, int]] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labellings(self) -> tuple[str, ...]:
        """The labellings that can be mapped to this set; "classes" are its own 0..K-1."""
        via = [n for n, known in LABELLINGS.items() if known.cityscapes and self.cityscapes]
        native = [n for n in LABELLINGS if _AS_COLOURS.get(n, n) in self.native]
        return ("classes", *sorted({*via, *native}))

    def lut(self, labelling: str) -> np.ndarray:
        """Raw id -> class, uint8 [256]: IGNORE where unmapped, OUTSIDE where not in the table.

        Raises:
          DataError: the labelling is unknown or has no map to this set.
        """
        if labelling not in self.labellings:
            raise DataError(
                f"labels in {labelling!r} have no map to the classes {self.name!r}; "
                f"known for it: {', '.join(self.labellings)}"
            )
        table = np.full(256, OUTSIDE, np.uint8)
        if labelling == "classes":
            table[: len(self)] = np.arange(len(self))
            table[IGNORE] = IGNORE
            return table
        known = LABELLINGS[labelling]
        labelling = _AS_COLOURS.get(labelling, labelling)
        table[list(known.ids)] = IGNORE
        mapping = self.native.get(labelling) or {
            raw: self.cityscapes[city]
            for raw, city in known.cityscapes.items()
            if city in self.cityscapes
        }
        for raw, number in mapping.items():
            table[raw] = number
        return table

    def rows(self, subset: "ClassSet") -> tuple[int, ...]:
        """Where the classes of `subset` stand in this set, by name; DataError if one is absent."""
        absent = [name for name in subset.names if name not in self.names]
        if absent:
            raise DataError(f"classes {self.name!r} lack {', '.join(absent)} of {subset.name!r}")
        return tuple(self.names.index(name) for name in subset.names)


# What raw ids are called once they are stored as one 8-bit channel.
STORED = {"synthia_ids": "synthia_ids_8bit", "camvid32_colours": "camvid32_ids"}


def known_ids(labelling: str, classes: ClassSet) -> tuple[int, ...]:
    """The raw ids a labelling may contain."""
    return (*range(len(classes)), IGNORE) if labelling == "classes" else LABELLINGS[labelling].ids


def encoding(labelling: str) -> str:
    """How a labelling is stored in its files; "classes" are stored as 8-bit indices."""
    return "index" if labelling == "classes" else LABELLINGS[labelling].encoding


def _of_train_ids(name: str, kept: tuple[int, ...]) -> ClassSet:
    rows = [row for train_id in kept for row in CITYSCAPES if row.train_id == train_id]
    return ClassSet(
        name,
        tuple(row.name for row in rows),
        tuple(row.colour for row in rows),
        {row.id: number for number, row in enumerate(rows)},
    )


_13 = (0, 1, 2, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18)

CLASS_SETS = {
    "cityscapes19": _of_train_ids("cityscapes19", tuple(range(19))),
    "synthia16": _of_train_ids("synthia16", tuple(i for i in range(19) if i not in (9, 14, 16))),
    "synthia13": _of_train_ids("synthia13", _13),
    "crosscity13": _of_train_ids("crosscity13", _13),
    "camvid11": ClassSet(
        "camvid11",
        tuple(CAMVID11),
        tuple(colour for colour, _ in CAMVID11.values()),
        _TO_CAMVID11,
        {
            "camvid11_ids": {i: i for i in range(11)},
            "camvid32_colours": {
                raw: number
                for raw, (name, _) in enumerate(CAMVID32)
                for number, (_, members) in enumerate(CAMVID11.values())
                if name in members
            },
        },
    ),
    "s3_9": ClassSet(
        "s3_9",
        tuple(S3_9),
        tuple(next(row.colour for row in CITYSCAPES if row.id == i) for i, _ in S3_9.values()),
        {city: number for number, (city, _) in enumerate(S3_9.values())},
        {
            "camvid32_colours": {
                [name for name, _ in CAMVID32].index(member): number
                for number, (_, member) in enumerate(S3_9.values())
            }
        },
    ),
    "iddlite7": ClassSet(
        "iddlite7",
        ("drivable", "non-drivable", "living things", "vehicles", "roadside objects",
         "far objects", "sky"),
        ((128, 64, 128), (244, 35, 232), (220, 20, 60), (0, 0, 142), (220, 220, 0), (70, 70, 70),
         (70, 130, 180)),
        _TO_IDDLITE7,
        {"iddlite_ids": {i: i for i in range(7)}},
    ),
}  # fmt: skip


def class_set(name: str) -> ClassSet:
    """The class set of that name; DataError lists the known ones."""
    if name not in CLASS_SETS:
        raise DataError(f"unknown classes {name!r}; known: {', '.join(sorted(CLASS_SETS))}")
    return CLASS_SETS[name]
