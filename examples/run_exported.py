"""Segments images with an exported network: python run_exported.py EXPORT IMAGE...

Needs jax, numpy and pillow, nothing else; writes the colours of IMAGE beside it.
"""

import json
import pathlib
import sys

import numpy as np
from jax import export
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def read(path: pathlib.Path) -> Image.Image:
    """Returns a picture in 8-bit RGB and upright, as training and `--job=predict` read it.

    The EXIF orientation is applied, alpha is dropped, and of 16 bits the upper 8 stay.
    """
    with Image.open(path, formats=FORMATS) as image:
        if image.mode in ("I", "F", "LAB"):
            raise SystemExit(f"{path}: save it with 8 bits of RGB")
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
        if image.mode == "RGBa" or "transparency" in image.info:
            image = image.convert("RGBA")
        return image.convert("RGB")


folder = pathlib.Path(sys.argv[1])
about = json.loads((folder / "model.json").read_text())
network = export.deserialize(bytearray((folder / about["file"]).read_bytes()))
height, width = about["size"]
resampling = FILTERS[about["resize"].split()[0]]


def segment(images: np.ndarray) -> np.ndarray:
    """Returns the classes uint8 [B,H,W] of RGB images uint8 [B,H,W,3]."""
    if images.dtype != np.uint8 or images.shape[1:] != (height, width, 3):
        got = f"{images.dtype} {list(images.shape)}"
        raise SystemExit(f"the network reads uint8 [B, {height}, {width}, 3], got {got}")
    return np.asarray(network.call(images))


for path in map(pathlib.Path, sys.argv[2:]):
    image = read(path).resize((width, height), resampling)
    classes = segment(np.asarray(image)[None])[0]
    picture = Image.fromarray(classes).convert("P")
    picture.putpalette(np.ravel(about["colours"]).tolist())
    picture.save(path.with_name(path.stem + ".classes.png"))
