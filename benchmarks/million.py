"""Measures the memory and time of the index of a simulated set of a million labelled examples.

    python benchmarks/million.py [--examples 1000000] [--batch 8]

The records are synthetic: every key is real, and every picture is one and the same small PNG, so
that only what grows with the number of examples is measured. It prints the processor's seconds of
each part, which a busy machine changes little, and the largest resident size after it. The parts
are the keys, their fingerprint (`bind_data`), the first batch of a fresh stream and of one that
resumes in the middle of the fifth epoch, batches after that, and the counts of classes that
`rare_class` needs.

The parts follow each other in one process, so a size includes the parts before it.
"""

import argparse
import io
import resource
import time
from collections.abc import Iterator

import numpy as np
from PIL import Image

from rtda_jax.data.dataset import Dataset, fingerprint
from rtda_jax.data.labels import class_set, labelling
from rtda_jax.data.sampling import RareClass
from rtda_jax.data.stream import Frame, StreamOptions, train_stream
from rtda_jax.run.log import say

SIZE = (64, 128)


def png(pixels: np.ndarray) -> bytes:
    """Returns the pixels as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


class Same:
    """A reader that returns the same picture for every number."""

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(0)
        self.count = count
        self.record = (
            png(rng.integers(0, 256, (*SIZE, 3), np.uint8)),
            png(rng.integers(0, 19, SIZE, np.uint8)),
        )

    def __len__(self) -> int:
        return self.count

    def image(self, i: int) -> bytes:
        """Returns the encoded image."""
        return self.record[0]

    def label(self, i: int) -> bytes:
        """Returns the encoded label."""
        return self.record[1]

    def pair(self, i: int) -> tuple[bytes, bytes]:
        """Returns both."""
        return self.record

    def where(self, i: int) -> tuple[str, str]:
        """Returns the name of an example in errors."""
        return f"record {i}", f"label of record {i}"

    def fingerprint(self, *, labels: bool) -> str:
        """Returns a constant."""
        return "same"


def main() -> None:
    """Prints a line for each part."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--examples", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=8)
    flags = parser.parse_args()
    count = flags.examples
    last = time.process_time()

    def report(what: str) -> None:
        nonlocal last
        now = time.process_time()
        size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        say(f"{what:<44} {now - last:8.2f} CPU s {size:8.0f} MB")
        last = time.process_time()

    def stream(start: int, rare: RareClass | None = None) -> Iterator:
        return train_stream(
            dataset,
            dataset,
            seed=0,
            batch_size=flags.batch,
            frame=Frame(SIZE, SIZE),
            options=StreamOptions(threads=1),
            rare=rare,
            start_step=start,
        )

    tiny = Dataset("tiny", ("0",) * 16, class_set("cityscapes19"), labelling("train_ids"), Same(16))
    dataset = tiny
    next(stream(0))
    report("imports and a stream of 16 examples")
    keys = tuple(f"town_{i % 21:02d}/town_{i % 21:02d}_{i:09d}_leftImg8bit" for i in range(count))
    dataset = Dataset("million", keys, tiny.classes, tiny.labelling, Same(count))
    report(f"keys of {count:,} examples")
    fingerprint(dataset)
    report("fingerprint of the set")
    next(stream(0))
    report("first batch")
    resumed = stream(int(4.5 * count) // flags.batch)
    next(resumed)
    report("first batch after 4.5 epochs")
    for _ in range(200):
        next(resumed)
    report("200 batches after it")
    indices = np.concatenate([next(resumed)["source_index"] for _ in range(500)])
    assert len(np.unique(indices)) == len(indices)
    report("500 batches, no example twice")
    counts = np.random.default_rng(0).integers(0, 2, (count, 19)) * np.arange(1, 20)
    report("counts of 19 classes in each example")
    next(stream(0, RareClass(counts, temperature=0.01)))
    report("first batch drawn by rare classes")


if __name__ == "__main__":
    main()
