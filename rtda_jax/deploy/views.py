"""What a prediction can be shown as."""

import functools
from typing import NamedTuple

import numpy as np

from rtda_jax.tools import pictures

SHARE = 0.5  # of the class colour in an overlay


class Key(NamedTuple):
    """Names of the classes and their colours (R, G, B)."""

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]


def train_ids(image: np.ndarray, classes: np.ndarray, key: Key) -> np.ndarray:
    """The classes themselves, uint8 [H,W]; for the 19 of Cityscapes they are its train ids."""
    return classes


def colours(image: np.ndarray, classes: np.ndarray, key: Key) -> np.ndarray:
    """Every class in its colour, uint8 [H,W,3]."""
    return pictures.colourise(classes, np.asarray(key.colours, np.uint8))


def overlay(image: np.ndarray, classes: np.ndarray, key: Key) -> np.ndarray:
    """The colours over the image, half transparent, uint8 [H,W,3]."""
    mixed = SHARE * colours(image, classes, key) + (1 - SHARE) * image
    return pictures.as_bytes(mixed)


def side_by_side(image: np.ndarray, classes: np.ndarray, key: Key) -> np.ndarray:
    """The image, the colours beside it and the names of the classes below, uint8 [h,2W,3]."""
    pair = np.concatenate([image, colours(image, classes, key)], axis=1)
    return np.concatenate([pair, legend(key, pair.shape[1])], axis=0)


@functools.lru_cache(maxsize=8)
def legend(key: Key, width: int) -> np.ndarray:
    """Names and colours of the classes, uint8 [h,width,3]."""
    table = np.asarray(key.colours, np.uint8)
    return np.asarray(pictures.legend(names=key.names, colours=table, width=width))


VIEWS = {
    "overlay": overlay,
    "side_by_side": side_by_side,
    "colours": colours,
    "train_ids": train_ids,
}
