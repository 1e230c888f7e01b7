"""Decoded examples kept in memory, up to a number of bytes."""

import threading

import numpy as np

from rtda_jax.data import decode
from rtda_jax.data.dataset import Dataset
from rtda_jax.data.lazy_tf import tensorflow


class Cache:
    """Decoded, resized and mapped examples; once `limit` bytes are held, the rest is decoded anew.

    Args:
      dataset: what is read.
      size: (H, W) that image and label are resized to; None keeps the files'.
      limit: bytes of pixels held at most.
    """

    def __init__(self, dataset: Dataset, *, size: tuple[int, int] | None, limit: int) -> None:
        self.dataset, self.size, self.limit = dataset, size, limit
        self.held: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.bytes = 0
        self._lock = threading.Lock()

    def get(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 [H,W,3] and classes uint8 [H,W] ([0,0] of unlabelled sets) of example i."""
        if i in self.held:
            return self.held[i]
        tf = tensorflow()
        image, label = decode.examine(self.dataset, i)
        if label is None:
            label = np.zeros((0, 0), np.uint8)
        if self.size is not None:
            image = decode.resized(tf.constant(image), self.size).numpy()
            if label.size:
                label = decode.resized_label(tf.constant(label), self.size).numpy()
        needed = image.nbytes + label.nbytes
        with self._lock:
            if i not in self.held and self.bytes + needed <= self.limit:
                self.held[i] = image, label
                self.bytes += needed
        return image, label
