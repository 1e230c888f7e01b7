"""Segments images with an exported network: python run_exported.py EXPORT IMAGE...

Needs jax, numpy and pillow, nothing else. The colours of photos/NAME.jpg are written to
EXPORT/predictions/NAME.png; --output names another folder, best not that of the images, where the
next reader would count them as further images. An exported network is a program for your device:
run those of people you trust.
"""

import argparse
import io
import json
import pathlib
from typing import Any

import numpy as np
from jax import export
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
MOST_PIXELS = 50_000_000
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def read(path: pathlib.Path) -> Image.Image:
    """Returns a picture in 8-bit RGB and upright, as training and the job predict read it.

    The EXIF orientation is applied, alpha is dropped, and of 16 bits the upper 8 stay.
    """
    data = path.read_bytes()  # of a path, Pillow maps some files and loses their orientation
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        grey_16 = image.mode.startswith("I;16") or (image.format, image.mode) == ("PPM", "I")
        if image.mode in ("I", "F", "LAB") and not grey_16:
            raise SystemExit(f"{path}: save it with 8 bits of RGB")
        if image.width * image.height > MOST_PIXELS:
            raise SystemExit(f"{path}: above {MOST_PIXELS:,} pixels")
        if image.format == "PNG":  # Pillow decodes a PNG without checking its checksums
            with Image.open(io.BytesIO(data), formats=("PNG",)) as copy:
                copy.verify()
        image = ImageOps.exif_transpose(image)
        if grey_16:
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
        if image.mode == "RGBa" or "transparency" in image.info:
            image = image.convert("RGBA")
        return image.convert("RGB")


def describe(folder: pathlib.Path) -> dict[str, Any]:
    """Returns what model.json says of the network: its file, its size (H, W) and the colours.

    Exits with a sentence if that is no description of a network in this folder.
    """
    path = folder / "model.json"
    try:
        about = json.loads(path.read_bytes())
        file, (height, width) = about["file"], about["size"]
        colours = np.array(about["colours"], np.uint8)
        resampling = FILTERS[str(about["resize"]).partition(" ")[0]]
        right = (
            pathlib.PurePath(file).name == file
            and (folder / file).is_file()
            and all(type(side) is int and side > 0 for side in (height, width))
            and height * width <= MOST_PIXELS
            and colours.shape[1:] == (3,)
            and len(colours) <= 256
        )
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise SystemExit(f"{path}: does not describe a network: {error!r}") from None
    if not right:
        raise SystemExit(f"{path}: does not describe a network of this folder")
    return {
        "file": folder / file,
        "size": (height, width),
        "colours": colours,
        "resampling": resampling,
    }


def segment(network: export.Exported, images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the classes uint8 [B,H,W] of RGB images uint8 [B,H,W,3] of the network's size."""
    if images.dtype != np.uint8 or images.shape[1:] != (*size, 3):
        got = f"{images.dtype} {list(images.shape)}"
        raise SystemExit(f"the network reads uint8 [B, {size[0]}, {size[1]}, 3], got {got}")
    return np.asarray(network.call(images))


def results(images: list[pathlib.Path], out: pathlib.Path) -> list[pathlib.Path]:
    """Returns the path of each image's result in a folder; exits if two would be the same."""
    owners: dict[pathlib.Path, pathlib.Path] = {}
    for image in images:
        result = out / f"{image.stem}.png"
        if result in owners:
            raise SystemExit(f"{owners[result]} and {image} would both be written to {result}")
        if result.resolve() == image.resolve():
            raise SystemExit(f"the result of {image} would replace it; choose another --output")
        owners[result] = image
    return list(owners)


def main() -> None:
    """Writes the classes of every image of the command line as a PNG with their colours."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("export", type=pathlib.Path, help="the folder that the job export wrote")
    parser.add_argument("images", type=pathlib.Path, nargs="+", metavar="IMAGE")
    parser.add_argument("--output", type=pathlib.Path, help="default EXPORT/predictions")
    words = parser.parse_args()
    out = words.output or words.export / "predictions"
    paths = results(words.images, out)
    about = describe(words.export)
    network = export.deserialize(bytearray(about["file"].read_bytes()))
    height, width = about["size"]
    out.mkdir(parents=True, exist_ok=True)
    for path, result in zip(words.images, paths, strict=True):
        try:
            image = read(path).resize((width, height), about["resampling"])
        except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for a broken file
            raise SystemExit(f"{path}: cannot be read as an image: {error}") from None
        classes = segment(network, np.asarray(image)[None], (height, width))[0]
        picture = Image.fromarray(classes).convert("P")
        picture.putpalette(about["colours"].ravel().tolist())
        picture.save(result)
        print(result)


if __name__ == "__main__":
    main()
