"""Segment images with an exported network: python run_exported.py EXPORT IMAGE...

Needs jax, numpy and pillow, nothing else; writes the colours of IMAGE beside it.
"""

import json
import pathlib
import sys

import numpy as np
from jax import export
from PIL import Image

folder = pathlib.Path(sys.argv[1])
about = json.loads((folder / "model.json").read_text())
network = export.deserialize(bytearray((folder / about["file"]).read_bytes()))
height, width = about["size"]


def segment(images: np.ndarray) -> np.ndarray:
    """Classes uint8 [B,H,W] of RGB images uint8 [B,H,W,3]."""
    if images.dtype != np.uint8 or images.shape[1:] != (height, width, 3):
        got = f"{images.dtype} {list(images.shape)}"
        raise SystemExit(f"the network reads uint8 [B, {height}, {width}, 3], got {got}")
    return np.asarray(network.call(images))


for path in map(pathlib.Path, sys.argv[2:]):
    image = Image.open(path).convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    classes = segment(np.asarray(image)[None])[0]
    picture = Image.fromarray(classes).convert("P")
    picture.putpalette(np.ravel(about["colours"]).tolist())
    picture.save(path.with_name(path.stem + ".classes.png"))
