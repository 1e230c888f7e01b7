"""Measures the memory that making pseudo-labels for a large set needs besides the network.

    python benchmarks/pseudo_memory.py [--images 3000] [--height 512] [--width 1024]

The predictions are synthetic: 19 classes, blocks of one label, noisy confidences. Everything after
the network is real: histogram, thresholds, both passes and PNG files. The growth is that of the
largest resident size since the first prediction.

Measured on two cores of an Intel Xeon: 24 MB (scope dataset), of 222 MB in all.
"""

import argparse
import pathlib
import resource
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np

from rtda_jax.adapt.pseudo_labels import PseudoLabelOptions
from rtda_jax.run.log import say
from rtda_jax.stages.pseudo_label import generate

CLASSES = 19


def peak() -> float:
    """Returns the largest resident size this process had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def prediction(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes label and confidence of one image."""
    rng = np.random.default_rng(seed)
    small = (-(-height // 32), -(-width // 32))
    label, sure = rng.integers(0, CLASSES, small, np.uint8), rng.random(small, np.float32)
    label, sure = (x.repeat(32, 0).repeat(32, 1)[:height, :width] for x in (label, sure))
    return label, 1 - (1 - sure) * rng.random((height, width), np.float32)


def main() -> None:
    """Prints the growth for both scopes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--width", type=int, default=1024)
    flags = parser.parse_args()
    prediction(0, flags.height, flags.width)
    say(f"{flags.images} images of {flags.height}x{flags.width}; {peak():.0f} MB at the start")

    def predictions(order: Sequence[int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return (prediction(i, flags.height, flags.width) for i in order)

    for scope in ("dataset", "image"):
        before, begin = peak(), time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            generate(
                predictions,
                pathlib.Path(folder),
                keys=[f"{i:05d}" for i in range(flags.images)],
                options=PseudoLabelOptions(scope=scope, cut=0.66, cap=0.9, index="floor"),
                num_classes=CLASSES,
                interrupted=threading.Event(),
            )
        seconds = time.perf_counter() - begin
        say(f"scope {scope}: grew by {peak() - before:.0f} MB to {peak():.0f} MB, {seconds:.0f} s")


if __name__ == "__main__":
    main()
