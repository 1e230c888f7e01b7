"""Predicts pictures with a network whose classes NumPy knows too, and makes pictures and videos."""

import fractions
import json

import numpy as np
from helpers import config, pixelwise
from PIL import Image

from rtda_jax.data.labels import class_set
from rtda_jax.deploy import Networks, media, predict, video

RATE = fractions.Fraction(10)
KEY = media.Key(class_set("cityscapes19").names, class_set("cityscapes19").colours)


def noise(height, width, seed=0):
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    return blocks.repeat(8, 0).repeat(8, 1)[:height, :width]


def run(tmp_path, source, *, out=None, shown=("train_ids",), resolution="native", **fields):
    out = out or tmp_path / "out"
    chosen = Networks(
        (pixelwise()[0],), ("train",), "evaluate", tmp_path, config(**fields).lock(), ("pixelwise",)
    )
    record = predict.run(lambda: chosen, source=source, out=out, views=shown, resolution=resolution)
    assert record == json.loads((out / "predict.json").read_text())
    return out


def result(path):
    with Image.open(path) as image:
        return np.asarray(image)


def write_video(path, frames, times=None):
    like = video.Frame(frames[0], 0, 1 / RATE, RATE)
    with video.writing(path, like=like, size=frames[0].shape[:2]) as write:
        for time, frame in zip(times or range(len(frames)), frames, strict=True):
            write(frame, like._replace(time=time))
