"""The known labellings and class sets, and the published tables from which they are made.

A *labelling* says what the pixels of a label file mean (Cityscapes ids, SYNTHIA ids, CamVid
colours, ...). A *class set* lists the classes 0..K-1 that the head of a network predicts. A pixel
without a class is `IGNORE`. A raw id that its labelling does not list is `OUTSIDE`, which is an
error and never a class. Look up both in `rtda_jax.data.labels`, which also knows the user's own
classes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rtda_jax.errors import DataError, lookup

IGNORE = 255
OUTSIDE = 254
DEFINITION_FILE = "labels.json"  # a definition of the user's own classes

Colour = tuple[int, int, int]

ENCODINGS = {
    "index": "one channel or a palette",
    "wide": "numbers above 255",
    "red": "the red channel of an RGB picture",
    "rgb": "colours",
    "first16": "the first channel of a 16-bit PNG",
}


class Label(NamedTuple):
    """One row of the Cityscapes table; `train_id` is IGNORE for classes that are not scored."""

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

# SYNTHIA-RAND-CITYSCAPES id -> Cityscapes train id. The others have no class: 0 void, 13 parking
# slot, 14 road work, 22 lane marking.
SYNTHIA = {3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 16: 9, 1: 10, 10: 11, 17: 12,
            8: 13, 18: 14, 19: 15, 20: 16, 12: 17, 11: 18}  # fmt: skip

# Cityscapes id -> class of the small data sets; ids that are not listed are ignored.
TO_CAMVID11 = {7: 3, 8: 4, 11: 1, 12: 1, 13: 7, 14: 7, 15: 1, 16: 1, 17: 2, 18: 2, 19: 6, 20: 6,
                21: 5, 22: 5, 23: 0, 24: 9, 25: 10, 26: 8, 27: 8, 28: 8, 29: 8, 30: 8, 31: 8,
                32: 10, 33: 10}  # fmt: skip
TO_IDDLITE7 = {7: 0, 9: 0, 8: 1, 10: 1, 22: 1, 24: 2, 25: 2, 26: 3, 27: 3, 28: 3, 29: 3, 30: 3,
                31: 3, 32: 3, 33: 3, 4: 4, 12: 4, 13: 4, 14: 4, 17: 4, 18: 4, 19: 4, 20: 4, 11: 5,
                15: 5, 16: 5, 21: 5, 23: 6}  # fmt: skip

# In the alphabetical order of the data set: the position is the raw id of `camvid32_colours`.
CAMVID32 = (
    ("Animal", (64, 128, 64)),
    ("Archway", (192, 0, 128)),
    ("Bicyclist", (0, 128, 192)),
    ("Bridge", (0, 128, 64)),
    ("Building", (128, 0, 0)),
    ("Car", (64, 0, 128)),
    ("CartLuggagePram", (64, 0, 192)),
    ("Child", (192, 128, 64)),
    ("Column_Pole", (192, 192, 128)),
    ("Fence", (64, 64, 128)),
    ("LaneMkgsDriv", (128, 0, 192)),
    ("LaneMkgsNonDriv", (192, 0, 64)),
    ("Misc_Text", (128, 128, 64)),
    ("MotorcycleScooter", (192, 0, 192)),
    ("OtherMoving", (128, 64, 64)),
    ("ParkingBlock", (64, 192, 128)),
    ("Pedestrian", (64, 64, 0)),
    ("Road", (128, 64, 128)),
    ("RoadShoulder", (128, 128, 192)),
    ("Sidewalk", (0, 0, 192)),
    ("SignSymbol", (192, 128, 128)),
    ("Sky", (128, 128, 128)),
    ("SUVPickupTruck", (64, 128, 192)),
    ("TrafficCone", (0, 0, 64)),
    ("TrafficLight", (0, 64, 64)),
    ("Train", (192, 64, 128)),
    ("Tree", (128, 128, 0)),
    ("Truck_Bus", (192, 128, 192)),
    ("Tunnel", (64, 0, 64)),
    ("VegetationMisc", (192, 192, 0)),
    ("Void", (0, 0, 0)),
    ("Wall", (64, 192, 0)),
)

# SegNet's eleven classes: class -> (colour of the 11-class release, members among the 32).
CAMVID11 = {
    "sky": ((128, 128, 128), {"Sky"}),
    "building": ((128, 0, 0), {"Building", "Bridge", "Wall", "Tunnel", "Archway"}),
    "pole": ((192, 192, 128), {"Column_Pole", "TrafficCone"}),
    "road": ((128, 64, 128), {"Road", "LaneMkgsDriv", "LaneMkgsNonDriv"}),
    "pavement": ((60, 40, 222), {"Sidewalk", "ParkingBlock", "RoadShoulder"}),
    "tree": ((128, 128, 0), {"Tree", "VegetationMisc"}),
    "sign": ((192, 128, 128), {"SignSymbol", "Misc_Text", "TrafficLight"}),
    "fence": ((64, 64, 128), {"Fence"}),
    "car": ((64, 0, 128), {"Car", "SUVPickupTruck", "Truck_Bus", "Train", "OtherMoving"}),
    "pedestrian": ((64, 64, 0), {"Pedestrian", "Child", "CartLuggagePram", "Animal"}),
    "bicyclist": ((0, 128, 192), {"Bicyclist", "MotorcycleScooter"}),
}

# The nine classes that Thukral reports on CamVid: class -> (Cityscapes id, CamVid-32 class).
# The paper does not print its map; this is our choice.
THUKRAL9 = {
    "road": (7, "Road"),
    "sidewalk": (8, "Sidewalk"),
    "building": (11, "Building"),
    "pole": (17, "Column_Pole"),
    "traffic light": (19, "TrafficLight"),
    "traffic sign": (20, "SignSymbol"),
    "vegetation": (21, "Tree"),
    "terrain": (22, "VegetationMisc"),
    "bus": (28, "Truck_Bus"),
}


@dataclasses.dataclass(frozen=True)
class Labelling:
    """The meaning of the pixels of a label file.

    Attributes:
      name: key of `LABELLINGS`, or the name of a user's definition in errors.
      encoding: key of `ENCODINGS`.
      ids: the raw ids that may occur.
      cityscapes: raw id -> Cityscapes id, where there is one.
      colours: with the encoding "rgb", the colour of each raw id.
      numbers: with the encoding "wide", number in the files -> raw id.
      classes: raw id -> name of its class, for definitions of users.
    """

    name: str
    encoding: str
    ids: tuple[int, ...] = ()
    cityscapes: Mapping[int, int] = dataclasses.field(default_factory=dict)
    colours: tuple[Colour, ...] = ()
    numbers: Mapping[int, int] = dataclasses.field(default_factory=dict)
    classes: Mapping[int, str] = dataclasses.field(default_factory=dict)

    def number(self, raw: int) -> int:
        """Returns the number that stands in label files for a raw id; of colours their position."""
        return next((number for number, i in self.numbers.items() if i == raw), raw)


_IDS = tuple(range(34))
_BACK = {train_id: raw for raw, train_id in TRAIN_IDS.items()}
_SYNTHIA_BACK = {raw: _BACK[train_id] for raw, train_id in SYNTHIA.items()}
_SAME = {i: i for i in _IDS}

LABELLINGS = {
    labelling.name: labelling
    for labelling in (
        Labelling("cityscapes_ids", "index", (*_IDS, IGNORE), _SAME),
        Labelling("gta5_ids", "index", (*_IDS, 34, IGNORE), _SAME),  # 34 is a number plate
        Labelling("train_ids", "index", (*range(19), IGNORE), _BACK),
        Labelling("synthia_ids", "first16", tuple(range(23)), _SYNTHIA_BACK),
        Labelling("synthia_ids_8bit", "index", (*range(23), IGNORE), _SYNTHIA_BACK),
        Labelling(
            "camvid32_colours", "rgb", tuple(range(32)), colours=tuple(c for _, c in CAMVID32)
        ),
        Labelling("camvid32_ids", "index", (*range(32), IGNORE)),  # in the order of CAMVID32
        Labelling("camvid11_ids", "index", tuple(range(12))),
        Labelling("iddlite_ids", "index", (*range(7), IGNORE)),
        Labelling("classes", "index"),  # the class set's own 0..K-1, and 255
        Labelling("classes_from_1", "index"),  # 1..K, with 0 (and 255) ignored
    )
}
_NUMBERED = {"classes": 0, "classes_from_1": 1}  # -> the raw id of class 0
_AS_COLOURS = {"camvid32_ids": "camvid32_colours"}


@dataclasses.dataclass(frozen=True)
class ClassSet:
    """The K classes that a head predicts.

    Attributes:
      name: the argument of `class_set` for this set: a key of `CLASS_SETS` or a definition's text.
      title: its name in errors and reports.
      names, colours: K of each.
      cityscapes: Cityscapes id -> class.
      native: labelling -> {raw id: class}, for labellings that do not pass through Cityscapes.
      official: the labelling in which results are submitted to a benchmark's server.
    """

    name: str
    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    cityscapes: Mapping[int, int]
    native: Mapping[str, Mapping[int, int]] = dataclasses.field(default_factory=dict)
    official: str | Labelling = "cityscapes_ids"
    title: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", self.title or self.name)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labellings(self) -> tuple[str, ...]:
        """The names of the labellings that can be mapped to this set."""
        via = [n for n, known in LABELLINGS.items() if known.cityscapes and self.cityscapes]
        native = [n for n in LABELLINGS if _AS_COLOURS.get(n, n) in self.native]
        return (*_NUMBERED, *sorted({*via, *native}))

    def lut(self, raw: str | Labelling) -> np.ndarray:
        """Returns raw id -> class, uint8 [256]; IGNORE for no class, OUTSIDE for an unlisted id.

        Args:
          raw: a labelling or its name.

        Raises:
          DataError: the labelling is unknown or has no map to this set.
        """
        if isinstance(raw, str):
            raw = LABELLINGS.get(raw) or Labelling(raw, "")  # without a map, which is an error
        table = np.full(256, OUTSIDE, np.uint8)
        table[list(known_ids(raw, self))] = IGNORE
        for number, value in self._mapping(raw).items():
            table[number] = value
        return table

    def label_ids(self, raw: str | Labelling | None = None) -> np.ndarray:
        """Returns class -> raw id, uint8 [K], as a benchmark's server expects it in a result.

        If several raw ids have one class, the id with the same name is used, and for a user's
        definition the id that is listed first.

        Args:
          raw: a labelling; by default the `official` one of the set.

        Raises:
          DataError: a class has no raw id or no unique one, or the raw ids are colours.
        """
        raw = self.official if raw is None else raw
        raw = lookup(LABELLINGS, raw, "labelling") if isinstance(raw, str) else raw
        if raw.encoding not in ("index", "red"):
            raise DataError(f"labels in {raw.name!r} are {ENCODINGS[raw.encoding]}, not label ids")
        of_class: dict[int, list[int]] = {}
        for number, value in self._mapping(raw).items():
            of_class.setdefault(value, []).append(number)
        ids = []
        for number, name in enumerate(self.names):
            choices = of_class.get(number, [])
            same = [row.id for row in CITYSCAPES if row.name == name and raw.cityscapes]
            chosen = [i for i in choices if raw.cityscapes.get(i) in same] or choices
            if len(chosen) != 1 and not (chosen and raw.classes):
                raise DataError(
                    f"class {name!r} of {self.title!r} has {len(choices)} ids in {raw.name!r} "
                    f"{choices}: results cannot be written as label ids"
                )
            ids.append(chosen[0])
        return np.array(ids, np.uint8)

    def rows(self, subset: "ClassSet") -> tuple[int, ...]:
        """Returns the positions of the classes of `subset` in this set; DataError if one is not."""
        absent = [name for name in subset.names if name not in self.names]
        if absent:
            raise DataError(f"classes {self.title!r} lack {', '.join(absent)} of {subset.title!r}")
        return tuple(self.names.index(name) for name in subset.names)

    def _mapping(self, raw: Labelling) -> Mapping[int, int]:
        """Returns raw id -> class for the raw ids that have one."""
        if raw.name in _NUMBERED:
            return {number + _NUMBERED[raw.name]: number for number in range(len(self))}
        if raw.classes:
            named = tuple(dict.fromkeys(raw.classes.values()))
            if absent := [name for name in named if name not in self.names]:
                unused = [name for name in self.names if name not in named]
                raise DataError(
                    f"{raw.name}: {self.title!r} lacks its classes {', '.join(absent)} (and has "
                    f"without a pair: {', '.join(unused) or 'none'}); give a class one name in "
                    f"both files, list its {'colours' if raw.colours else 'ids'} under 'ignore' or "
                    "train on its classes, benchmark.classes, if the source's labels have them too"
                )
            return {number: self.names.index(name) for number, name in raw.classes.items()}
        if raw.name not in self.labellings:
            raise DataError(
                f"labels in {raw.name!r} have no map to the classes {self.title!r}; known for "
                f"it: {', '.join(self.labellings)}, or a {DEFINITION_FILE}"
            )
        native = self.native.get(_AS_COLOURS.get(raw.name, raw.name))
        return native or {
            number: self.cityscapes[city]
            for number, city in raw.cityscapes.items()
            if city in self.cityscapes
        }


def known_ids(raw: Labelling, classes: ClassSet) -> tuple[int, ...]:
    """Returns the raw ids that label files of a labelling may contain."""
    if raw.name in _NUMBERED:
        return (*range(len(classes) + _NUMBERED[raw.name]), IGNORE)
    return raw.ids


def _of_train_ids(name: str, chosen: Sequence[int]) -> ClassSet:
    rows = [row for train_id in chosen for row in CITYSCAPES if row.train_id == train_id]
    return ClassSet(
        name,
        tuple(row.name for row in rows),
        tuple(row.colour for row in rows),
        {row.id: number for number, row in enumerate(rows)},
    )


_13 = (0, 1, 2, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18)
_CITY_COLOURS = {row.id: row.colour for row in CITYSCAPES}
_CAMVID_NAMES = [name for name, _ in CAMVID32]

CLASS_SETS = {
    classes.name: classes
    for classes in (
        _of_train_ids("cityscapes19", range(19)),
        _of_train_ids("synthia16", [i for i in range(19) if i not in (9, 14, 16)]),
        _of_train_ids("synthia13", _13),
        _of_train_ids("crosscity13", _13),
        ClassSet(
            "camvid11",
            tuple(CAMVID11),
            tuple(colour for colour, _ in CAMVID11.values()),
            TO_CAMVID11,
            {
                "camvid11_ids": {i: i for i in range(11)},
                "camvid32_colours": {
                    _CAMVID_NAMES.index(member): number
                    for number, (_, members) in enumerate(CAMVID11.values())
                    for member in sorted(members)
                },
            },
            official="camvid11_ids",
        ),
        ClassSet(
            "thukral9",
            tuple(THUKRAL9),
            tuple(_CITY_COLOURS[city] for city, _ in THUKRAL9.values()),
            {city: number for number, (city, _) in enumerate(THUKRAL9.values())},
            {
                "camvid32_colours": {
                    _CAMVID_NAMES.index(member): number
                    for number, (_, member) in enumerate(THUKRAL9.values())
                }
            },
        ),
        ClassSet(
            "iddlite7",
            ("drivable", "non-drivable", "living things", "vehicles", "roadside objects",
             "far objects", "sky"),
            ((128, 64, 128), (244, 35, 232), (220, 20, 60), (0, 0, 142), (220, 220, 0),
             (70, 70, 70), (70, 130, 180)),
            TO_IDDLITE7,
            {"iddlite_ids": {i: i for i in range(7)}},
            official="iddlite_ids",
        ),
    )
}  # fmt: skip
