"""The meaning of labels: class sets and labellings by name, and the user's own classes as JSON."""

import colorsys
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from rtda_jax.data.class_sets import (
    CITYSCAPES,
    CLASS_SETS,
    DEFINITION_FILE,
    ENCODINGS,
    IGNORE,
    LABELLINGS,
    OUTSIDE,
    ClassSet,
    Colour,
    Labelling,
    known_ids,
)
from rtda_jax.errors import DataError, lookup, named
from rtda_jax.run.files import read_bytes

__all__ = [
    "CLASS_SETS",
    "DEFINITION_FILE",
    "ENCODINGS",
    "IGNORE",
    "LABELLINGS",
    "OUTSIDE",
    "ClassSet",
    "Labelling",
    "class_set",
    "define",
    "is_definition",
    "known_ids",
    "labelling",
    "parse",
    "stored",
    "unnamed",
    "with_definitions",
]

MOST_CLASSES = 250
_OWN_ENCODINGS = ("index", "red", "rgb")
_LARGEST = 1_000_000  # bytes of a definition
_DEEPEST = 65535  # number in a label file of 16 bits
_STORED = {"synthia_ids": "synthia_ids_8bit", "camvid32_colours": "camvid32_ids"}
_MOST_NUMBERS = 254  # that raw ids can stand for, beside IGNORE and OUTSIDE


def labelling(name: str) -> Labelling:
    """Returns a labelling by its name, by a definition's file (`.json`) or by its text."""
    if _is_own(name):
        return _definition(name)[1]
    return lookup(LABELLINGS, name, f"labelling (or {DEFINITION_FILE} of your own)")


def class_set(name: str) -> ClassSet:
    """Returns a class set by its name, or by the file (`.json`) or text of a user's definition.

    The `name` of a user's set is the text of its definition, so that a run that records it no
    longer needs the file.
    """
    if _is_own(name):
        return _definition(name)[0]
    return lookup(CLASS_SETS, name, f"classes (or {DEFINITION_FILE} of your own)")


def define(
    classes: Sequence[str | Mapping[str, Any]],
    *,
    ignore: Sequence[int] | Sequence[Colour] = (),
    encoding: str = "index",
) -> str:
    """Returns the definition of the user's classes as text, for `benchmark.classes` in a config.

    Args:
      classes: names, or mappings with the fields that `parse` describes.
      ignore: raw ids (colours with "rgb") that are ignored.
      encoding: "index", "red" or "rgb".
    """
    rows = [{"name": row} if isinstance(row, str) else dict(row) for row in classes]
    content = {"classes": rows, "ignore": list(ignore), "encoding": encoding}
    return parse(json.dumps(content), "classes")[0].name


def is_definition(value: object) -> bool:
    """Returns whether a value of a configuration is the text of a definition of classes."""
    return isinstance(value, str) and value.lstrip().startswith("{")


def with_definitions(record: Any) -> Any:
    """Returns a configuration's record with the content of each class file in place of its path.

    Raises:
      DataError: names a file that cannot be read.
    """
    if isinstance(record, list):
        return [with_definitions(child) for child in record]
    if not isinstance(record, Mapping):
        return record
    return {
        key: class_set(child).name
        if key in ("classes", "eval_classes") and isinstance(child, str)
        else with_definitions(child)
        for key, child in record.items()
    }


def stored(meaning: Labelling) -> Labelling:
    """Returns the labelling of the label files after they have been stored with one channel."""
    if meaning.name in _STORED:
        return LABELLINGS[_STORED[meaning.name]]
    ids = meaning.ids if IGNORE in meaning.ids else (*meaning.ids, IGNORE)
    return dataclasses.replace(meaning, encoding="index", ids=ids, colours=(), numbers={})


def unnamed(meaning: Labelling | None) -> Labelling | None:
    """Returns a labelling for digests, without the path of a user's file, which has many."""
    if meaning is None or meaning.name in LABELLINGS:
        return meaning
    return dataclasses.replace(meaning, name="")


def parse(text: str | bytes, where: str) -> tuple[ClassSet, Labelling]:
    """Reads a definition of the user's classes: a JSON object, stored with the data as
    `labels.json`.

    Its fields:
      classes: a list of objects, one per class, in the order of the network's outputs. `name`;
        `colour`, [r, g, b] of reports and pictures (default: made up); `ids`, its raw ids in label
        files (default for all: 0..K-1); with the encoding "rgb" instead `label_colours`, its
        colours in label files (default [colour]); `cityscapes`, the Cityscapes ids that map to it,
        so that GTA5, SYNTHIA or Cityscapes can be its source (default: the id of the same name).
      ignore: the raw ids (of "rgb": colours) that count nowhere; 255 is ignored unless it is a
        class. All others are an error that names the file. Of "rgb", there may be 254 colours.
      encoding: how label files are stored: "index" (default), "red" or "rgb". The ids of "index"
        go to 65535; if any is above 255, the labelling's raw ids are their positions.

    Args:
      text: the JSON.
      where: its name in errors.

    Raises:
      DataError: names the invalid field.
    """
    content = _content(text, where)
    rows, encoding = content["classes"], content.get("encoding", "index")
    if encoding not in _OWN_ENCODINGS:
        raise DataError(f"{where}: encoding must be index, red or rgb, got {encoding!r}")
    names = tuple(row["name"] for row in rows)
    colours = _colours(rows, where)
    ignored = content.get("ignore", [])
    if encoding == "rgb":
        labelling = _labelling_of_colours(rows, ignored, where)
    else:
        labelling = _labelling_of_ids(rows, ignored, encoding, where)
    by_name = {row.name: [row.id] for row in CITYSCAPES}
    cities = [row.get("cityscapes", by_name.get(row["name"], [])) for row in rows]
    _once([_number(i, where) for group in cities for i in group], where)
    return (
        ClassSet(
            json.dumps(content, ensure_ascii=False, separators=(",", ":")),
            names,
            colours,
            {i: k for k, group in enumerate(cities) for i in group},
            official=labelling,
            title=f"own classes ({named(names, most=4)})",
        ),
        labelling,
    )


def _labelling_of_colours(rows: list[dict], ignored: list, where: str) -> Labelling:
    """Returns the labelling of files in which a class is one colour or several."""
    if any("ids" in row for row in rows):
        raise DataError(f"{where}: classes have 'label_colours', not 'ids', if encoding is rgb")
    groups = [row.get("label_colours", [row["colour"]] if "colour" in row else []) for row in rows]
    palette = [_colour(c, where) for group in (*groups, ignored) for c in group]
    if len(palette) > _MOST_NUMBERS:  # a colour's position is its raw id
        raise DataError(f"{where}: {len(palette)} label colours; there may be {_MOST_NUMBERS}")
    _once(palette, where)
    _all_filled(rows, groups, where)
    names = [row["name"] for row, group in zip(rows, groups, strict=True) for _ in group]
    return Labelling(
        where,
        "rgb",
        tuple(range(len(palette))),
        colours=tuple(palette),
        classes=dict(enumerate(names)),
    )


def _labelling_of_ids(rows: list[dict], ignored: list, encoding: str, where: str) -> Labelling:
    """Returns the labelling of files in which a class is one whole number or several."""
    if any("label_colours" in row for row in rows):
        raise DataError(f"{where}: 'label_colours' need encoding 'rgb'")
    by_order = not any("ids" in row for row in rows)
    groups = [[k] if by_order else row.get("ids", []) for k, row in enumerate(rows)]
    largest = _DEEPEST if encoding == "index" else 255
    listed = [_number(i, where, largest) for group in (*groups, ignored) for i in group]
    _once(listed, where)
    numbers = {i: i for i in listed}
    wide = max(listed, default=0) > 255
    if wide:  # a raw id is a byte, so that larger ones are numbered by their positions
        numbers = {i: k for k, i in enumerate(sorted(listed))}
        if len(listed) > _MOST_NUMBERS:
            raise DataError(
                f"{where}: {len(listed)} ids; with one above 255 there may be {_MOST_NUMBERS}"
            )
        numbers.setdefault(IGNORE, IGNORE)
    _all_filled(rows, groups, where)
    return Labelling(
        where,
        "wide" if wide else encoding,
        tuple(sorted({*numbers.values(), IGNORE})),
        numbers=numbers if wide else {},
        classes={
            numbers[i]: row["name"] for row, group in zip(rows, groups, strict=True) for i in group
        },
    )


def _all_filled(rows: list[dict], groups: list[list], where: str) -> None:
    """Raises DataError if a class has no ids or label colours."""
    empty = [row["name"] for row, group in zip(rows, groups, strict=True) if not group]
    if empty:
        raise DataError(f"{where}: no ids or label colours for {', '.join(empty)}")


def _is_own(name: str) -> bool:
    return name.endswith(".json") or is_definition(name)


def _definition(name: str) -> tuple[ClassSet, Labelling]:
    if name.endswith(".json"):
        path = os.path.expanduser(name)
        return parse(read_bytes(path), path)
    return parse(name, "own classes")


_FIELDS = {"classes", "ignore", "encoding"}
_ROW_FIELDS = {"name", "colour", "ids", "label_colours", "cityscapes"}


def _content(text: str | bytes, where: str) -> dict[str, Any]:
    """Returns the JSON of a definition, whose fields have the right names and types."""
    if len(text) > _LARGEST:
        raise DataError(f"{where}: {len(text)} bytes are too many for a definition of classes")
    try:
        content = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is not JSON ({error})") from None
    if not isinstance(content, dict) or not isinstance(content.get("classes"), list):
        raise DataError(f"{where}: expected an object with a list 'classes'")
    rows = content["classes"]
    for fields, known in ((content, _FIELDS), *((row, _ROW_FIELDS) for row in rows)):
        if not isinstance(fields, dict) or set(fields) - known:
            strange = ", ".join(sorted(set(fields) - known)) if isinstance(fields, dict) else fields
            raise DataError(f"{where}: unknown field {strange}; known: {', '.join(sorted(known))}")
        for name in ("ignore", "ids", "label_colours", "cityscapes"):
            if not isinstance(fields.get(name, []), list):
                raise DataError(f"{where}: {name} must be a list, got {fields[name]!r}")
    names = [row.get("name") for row in rows]
    if not all(isinstance(name, str) and name and name.isprintable() for name in names):
        raise DataError(f"{where}: every class needs a name, got {names}")
    _once(names, where)
    if not 2 <= len(names) <= MOST_CLASSES:
        raise DataError(f"{where}: expected 2 to {MOST_CLASSES} classes, got {len(names)}")
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns an object of JSON; of a field that stands in it twice, Python would take the last."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError(f"a field stands twice in {', '.join(name for name, _ in pairs)}")
    return fields


def _colours(rows: Sequence[Mapping[str, Any]], where: str) -> tuple[Colour, ...]:
    """Returns a colour for each class; those that are not given are spread over the hues."""
    return tuple(
        _colour(row["colour"], where) if "colour" in row else _hue(k) for k, row in enumerate(rows)
    )


def _hue(k: int) -> Colour:
    """Returns the colour of class k, whose hue is far from those of its neighbours."""
    golden = 0.618034  # of a turn: keeps neighbours apart
    r, g, b = colorsys.hsv_to_rgb(k * golden % 1, 0.65, 0.9)
    return round(255 * r), round(255 * g), round(255 * b)


def _colour(value: Any, where: str) -> Colour:
    if not isinstance(value, list) or len(value) != 3:
        raise DataError(f"{where}: a colour is [r, g, b], got {value!r}")
    r, g, b = (_number(v, where) for v in value)
    return r, g, b


def _number(value: Any, where: str, largest: int = 255) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= largest:
        raise DataError(f"{where}: expected a number from 0 to {largest}, got {value!r}")
    return value


def _once(values: Sequence[Any], where: str) -> None:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise DataError(f"{where}: {twice[0]!r} is listed twice")
