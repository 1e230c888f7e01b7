"""Decodes a data set's files to arrays: the pixels, raw ids and classes of one example."""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np

from rtda_jax.data import labels, pictures
from rtda_jax.data.dataset import Dataset
from rtda_jax.data.labels import DEFINITION_FILE, IGNORE, OUTSIDE, Labelling
from rtda_jax.errors import DataError, named

_PART = 2**22  # channels of a picture
_NAMED = 4  # of many numbers, a sentence names so many and then "..."
_NEAR = 8  # levels of a channel by which a colour may miss that of a class to be taken for it
_BLENDED = 16  # colours of no class in one label; more come from resizing or a lossy format


def examine(dataset: Dataset, i: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Decodes example i.

    Returns:
      The image, uint8 [H,W,3] RGB, and its classes, uint8 [H,W] with 255 for ignored pixels, or
      None for unlabelled sets.

    Raises:
      DataError: names the file that cannot be used.
    """
    image, ids = examine_ids(dataset, i)
    return image, None if ids is None else _classes(dataset, ids)


def examine_ids(dataset: Dataset, i: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Decodes example i like `examine`, with the raw ids of its label file instead of classes."""
    image_name, label_name = dataset.reader.where(i)
    if dataset.labelling is None:
        return pictures.rgb(dataset.reader.image(i), image_name), None
    image_data, label_data = dataset.reader.pair(i)
    image = pictures.rgb(image_data, image_name)
    ids = _known(dataset, i, raw_ids(label_data, label_name, dataset.labelling), label_data)
    if image.shape[:2] != ids.shape:
        (height, width), (rows, columns) = ids.shape, image.shape[:2]
        stored = pictures.header(image_data, image_name)
        turned = (stored.height, stored.width) != (rows, columns)
        raise DataError(
            f"{label_name}: label is {width}x{height} but its image {image_name} is "
            f"{columns}x{rows}" + (" upright, as its EXIF orientation says" if turned else "")
        )
    return image, ids


def label(dataset: Dataset, i: int) -> np.ndarray:
    """Decodes the label of example i of a labelled set to classes, uint8 [H,W]."""
    meaning = _labelling(dataset)
    data = dataset.reader.label(i)
    ids = raw_ids(data, dataset.reader.where(i)[1], meaning)
    return _classes(dataset, _known(dataset, i, ids, data))


@contextlib.contextmanager
def remedied(dataset: Dataset) -> Iterator[None]:
    """Adds to an error about a file of a data set what to do about such files."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{error}; {dataset.remedy}" if dataset.remedy else str(error)) from error


def raw_ids(data: bytes, where: str, meaning: Labelling) -> np.ndarray:
    """Decodes a label file to raw ids, uint8 [H,W]; OUTSIDE where a pixel means no id.

    Raises:
      DataError: the file is damaged, lossy or not stored as its labelling says.
    """
    header = pictures.header(data, where)
    _check_storage(header, where, meaning)
    return _DECODERS[meaning.encoding](data, where, header, meaning)


def _indices(data: bytes, where: str, header: pictures.Header, meaning: Labelling) -> np.ndarray:
    """Reads the whole numbers of one channel, with any number of bits, or a palette's indices."""
    values = _values(data, where, header)
    ids = np.clip(values, 0, IGNORE).astype(np.uint8)
    _refuse(values[ids != values], where, meaning)
    return ids


def _wide(data: bytes, where: str, header: pictures.Header, meaning: Labelling) -> np.ndarray:
    """Reads the numbers of one channel, some of which are above 255, as the raw ids they have."""
    values = _values(data, where, header)
    numbers = np.array(sorted(meaning.numbers))
    place = np.minimum(np.searchsorted(numbers, values), len(numbers) - 1)
    _refuse(values[numbers[place] != values], where, meaning)
    return np.array([meaning.numbers[number] for number in numbers.tolist()], np.uint8)[place]


def _values(data: bytes, where: str, header: pictures.Header) -> np.ndarray:
    """Reads one channel as it is stored."""
    with pictures.opened(data, where) as image:
        values = pictures.upright(np.asarray(image), image)
    if header.white:  # Pillow spread them over 0..255 or 0..65535
        full = 65535 if header.bits == 16 else 255
        values = np.rint(values * (header.white / full))
    return values


def _refuse(strange: np.ndarray, where: str, meaning: Labelling) -> None:
    """Refuses the values of pixels that are no id, if there are any."""
    if strange.size:
        numbers = [f"{value:g}" for value in np.unique(strange).tolist()]
        ids = ranges(sorted(meaning.numbers)) if meaning.numbers else f"0..{IGNORE}"
        raise DataError(
            f"{where}: {strange.size} label pixels ({named(numbers, most=_NAMED)}) outside the ids "
            f"of {meaning.name!r} ({ids})"
        )


def _first_of_16_bits(
    data: bytes, where: str, header: pictures.Header, meaning: Labelling
) -> np.ndarray:
    """Reads the first channel of a 16-bit PNG; Pillow reads colours with 8 bits only."""
    from rtda_jax.data.geometry import tf

    del header, meaning
    try:
        wide = tf.io.decode_png(data, dtype=tf.uint16).numpy()
    except tf.errors.OpError as error:
        cause = str(error.message).split("}} ")[-1].split(" [Op")[0].strip()
        raise DataError(f"{where}: truncated or damaged ({cause})") from None
    return np.minimum(wide[..., 0], OUTSIDE).astype(np.uint8)


def _red(data: bytes, where: str, header: pictures.Header, meaning: Labelling) -> np.ndarray:
    """Reads the red channel of a colour picture."""
    del header, meaning
    return np.ascontiguousarray(pictures.rgb(data, where)[..., 0])


def _colours(data: bytes, where: str, header: pictures.Header, meaning: Labelling) -> np.ndarray:
    """Returns the position of each pixel's colour in the list of the labelling."""
    del header
    codes = np.array(meaning.colours) @ (65536, 256, 1)
    order = np.argsort(codes)
    codes = codes[order]

    def positions(pixels: np.ndarray) -> np.ndarray:
        numbers = pixels.astype(np.int32) @ np.array((65536, 256, 1), np.int32)
        place = np.minimum(np.searchsorted(codes, numbers), len(codes) - 1)
        return np.where(codes[place] == numbers, order[place], OUTSIDE).astype(np.uint8)

    picture = pictures.rgb(data, where)
    # In parts, because the search needs ten times the memory of the picture.
    parts = np.array_split(picture.reshape(-1, 3), 1 + picture.size // _PART)
    return np.concatenate([positions(part) for part in parts]).reshape(picture.shape[:2])


_DECODERS = {
    "index": _indices,
    "wide": _wide,
    "first16": _first_of_16_bits,
    "red": _red,
    "rgb": _colours,
}


def _check_storage(header: pictures.Header, where: str, meaning: Labelling) -> None:
    """Refuses a label file that is not stored as its labelling says."""
    encoding, labelling = meaning.encoding, meaning.name
    if header.lossy:
        name = header.format if header.format != "WEBP" else "lossy WebP"
        raise DataError(f"{where}: a {name} cannot hold labels exactly; expected PNG")
    if encoding in ("index", "wide"):
        if header.bits == 16 and header.channels > 1:
            raise DataError(
                f"{where}: 16-bit label of {header.channels} channels, but {labelling!r} is one "
                "channel; SYNTHIA's original files are labelling 'synthia_ids'"
            )
        if header.channels != 1:
            raise DataError(
                f"{where}: label has {header.channels} channels, but {labelling!r} is one channel "
                "or a palette; a colour picture of the labels cannot be used in its place, but "
                f"with the encoding 'red' or 'rgb' of a {DEFINITION_FILE}"
            )
    elif encoding == "first16" and (header.bits != 16 or header.format != "PNG"):
        raise DataError(
            f"{where}: {header.bits}-bit label, but {labelling!r} is a 16-bit PNG; "
            "files converted to 8 bits are labelling 'synthia_ids_8bit'"
        )
    elif encoding in ("red", "rgb") and header.bits == 16:
        raise DataError(f"{where}: label of 16 bits, but {labelling!r} is read from 8-bit colours")
    elif encoding == "red" and header.palette:  # the colour of an index is not the index
        raise DataError(f"{where}: label has a palette, but {labelling!r} is read from RGB pixels")


def _classes(dataset: Dataset, ids: np.ndarray) -> np.ndarray:
    """Maps known raw ids to classes; an id without a class becomes IGNORE."""
    table = dataset.classes.lut(_labelling(dataset))
    return np.take(np.where(table == OUTSIDE, np.uint8(IGNORE), table), ids)


def _known(dataset: Dataset, i: int, ids: np.ndarray, data: bytes) -> np.ndarray:
    """Refuses ids outside the labelling's table; in lenient files they become IGNORE.

    Args:
      dataset, i: the example.
      ids: its raw ids.
      data: its label file, which holds the colours that are no id.
    """
    meaning = _labelling(dataset)
    listed = labels.known_ids(meaning, dataset.classes)
    known = np.zeros(256, bool)
    known[list(listed)] = True
    outside = ~np.take(known, ids)
    if not outside.any():
        return ids
    if dataset.keys[i] in dataset.lenient:
        return np.where(outside, np.uint8(IGNORE), ids)
    where, count = dataset.reader.where(i)[1], int(outside.sum())
    if meaning.encoding == "rgb":
        strange = _strange_colours(pictures.rgb(data, where)[outside], meaning)
        if pictures.header(data, where).channels == 1:
            strange += "; the file is grey: are its labels ids, of the encoding 'index'?"
        raise DataError(
            f"{where}: {count} label pixels of no colour in {meaning.name!r}: {strange}"
        )
    strange = labels.ENCODINGS[meaning.encoding]
    if meaning.encoding in ("index", "red"):
        strange = f"ids {ranges(np.unique(ids[outside]).tolist())}"
    raise DataError(
        f"{where}: {count} label pixels ({strange}) outside the table of {meaning.name!r} "
        f"({ranges(listed)})"
    )


def _strange_colours(pixels: np.ndarray, meaning: Labelling) -> str:
    """Names the most frequent of some colours [N,3] that mean nothing, and what is near them."""
    colours, counts = np.unique(pixels, axis=0, return_counts=True)
    table, shown = np.array(meaning.colours, int), []
    for k in np.argsort(-counts, kind="stable")[:_NAMED]:
        away = np.abs(table - colours[k]).max(axis=1)
        near, about = int(away.argmin()), f"{counts[k]} pixels"
        if away[near] <= _NEAR:
            name = f"{meaning.classes[near]} " if near in meaning.classes else ""
            about += f", near {name}{table[near].tolist()}"
        shown.append(f"{colours[k].tolist()} ({about})")
    more = ", ..." if len(colours) > _NAMED else ""
    if len(colours) > _BLENDED:
        more += f" ({len(colours)} colours; was the picture resized, or saved as JPEG before?)"
    return ", ".join(shown) + more


def _labelling(dataset: Dataset) -> Labelling:
    """Returns the labelling of a set that is known to have labels."""
    if dataset.labelling is None:
        raise DataError(f"{dataset.name}: has no labels")
    return dataset.labelling


def ranges(ids: Sequence[int]) -> str:
    """Writes numbers as ranges: 0..33, 255."""
    runs: list[list[int]] = []
    for i in sorted(ids):
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return ", ".join(f"{a}..{b}" if a != b else str(a) for a, b in runs)
