"""Compares the images per second of our input pipeline with those of a PyTorch DataLoader.

    python benchmarks/data_throughput.py [--images 32] [--seconds 10] [--threads N]

All do the same work for labelled images of Cityscapes' size (1024x2048 PNG, rendered here, so
nothing is downloaded): resize to 512x1024, map label ids to train ids, crop, mirror, batches of
uint8. PyTorch reads the original PNGs through Pillow, with as many worker processes as we have
threads. Ours reads the PNGs, shards that are prepared once (in the time that is printed), or the
cache in memory.
"""

import argparse
import os
import pathlib
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image

from rtda_jax.data import labels, load
from rtda_jax.data.stream import Frame, StreamOptions, train_stream
from rtda_jax.data.streets import render

ORIGINAL, SIZE, CROP, BATCH = (1024, 2048), (512, 1024), (448, 896), 4


def originals(root: pathlib.Path, count: int) -> dict:
    """Writes `count` labelled images of the original size and returns the spec that reads them."""
    for i in range(count):
        image, label = render("camera", i, seed=0, height=ORIGINAL[0] // 4, width=ORIGINAL[1] // 4)
        size = (ORIGINAL[1], ORIGINAL[0])
        noise = np.random.default_rng(i).normal(
            0, 2, (*ORIGINAL, 3)
        )  # it compresses like a photograph
        big = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
        for folder, pixels in (
            ("images", np.clip(big + noise, 0, 255).astype(np.uint8)),
            ("labels", np.kron(label, np.ones((4, 4), np.uint8))),
        ):
            (root / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"{i:04d}.png", compress_level=6)
    return {"name": "folders", "images": "images", "labels": "labels"}


class PillowSet:
    """Does the same work as a map-style data set of PyTorch."""

    def __init__(self, root: pathlib.Path) -> None:
        self.images = sorted((root / "images").iterdir())
        self.labels = sorted((root / "labels").iterdir())
        self.lut = labels.class_set("cityscapes19").lut("cityscapes_ids")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        size = (SIZE[1], SIZE[0])
        with Image.open(self.images[i]) as file:
            image = np.asarray(file.convert("RGB").resize(size, Image.Resampling.BILINEAR))
        with Image.open(self.labels[i]) as file:
            label = self.lut[np.asarray(file.resize(size, Image.Resampling.NEAREST))]
        top, left = (random.randint(0, s - c) for s, c in zip(SIZE, CROP, strict=True))
        image = image[top : top + CROP[0], left : left + CROP[1]]
        label = label[top : top + CROP[0], left : left + CROP[1]]
        if random.random() < 0.5:
            image, label = image[:, ::-1], label[:, ::-1]
        return np.ascontiguousarray(image), np.ascontiguousarray(label)


def torch_loader(root: pathlib.Path, workers: int) -> Iterable:
    """Yields endless batches of PyTorch's DataLoader."""
    from torch.utils.data import DataLoader

    loader = DataLoader(
        PillowSet(root),
        batch_size=BATCH,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=True,
    )
    while True:
        yield from loader


def rate(batches: Iterable, seconds: float, *, warm: int) -> float:
    """Measures images a second, after `warm` batches."""
    iterator = iter(batches)
    for _ in range(warm):
        next(iterator)
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        next(iterator)
        count += BATCH
    return count / (time.perf_counter() - begin)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        spec = originals(root, flags.images)

        def ours(cache_gib: float = 0, **fields: object) -> Iterable:
            data = load({**spec, **fields}, data_dir=root, classes="cityscapes19")
            options = StreamOptions(threads=flags.threads, cache_gib=cache_gib)
            return train_stream(
                data, seed=0, batch_size=BATCH, frame=Frame(SIZE, CROP), options=options
            )

        def prepared(image_format: str) -> Callable[[], Iterable]:
            return lambda: ours(store="shards", size=SIZE, format=image_format)

        epoch = -(-flags.images // BATCH)
        rows: dict[str, tuple[Callable[[], Iterable], int]] = {
            "PyTorch, Pillow, original PNG": (
                lambda: torch_loader(root, flags.threads),
                2,
            ),
            "ours, original PNG": (ours, 2),
            "ours, prepared PNG": (prepared("png"), 2),
            "ours, prepared WebP": (prepared("webp"), 2),
            "ours, prepared JPEG": (prepared("jpeg"), 2),
            "ours, memory cache": (lambda: ours(2), 2 * epoch),
        }
        for image_format in ("png", "webp", "jpeg"):
            begin = time.perf_counter()
            prepared(image_format)()
            seconds = time.perf_counter() - begin
            print(f"preparing {flags.images} images as {image_format}: {seconds:.1f} s")
        base = None
        print(f"{flags.threads} threads or workers, {os.cpu_count()} cores, batches of {BATCH} "
              f"{CROP[0]}x{CROP[1]} crops of {SIZE[0]}x{SIZE[1]}")  # fmt: skip
        print(f"{'':<42}{'images/s':>10}{'per core':>10}{'times':>8}")
        for name, (make, warm) in rows.items():
            speed = rate(make(), flags.seconds, warm=warm)
            base = base or speed
            print(f"{name:<42}{speed:>10.1f}{speed / flags.threads:>10.1f}{speed / base:>8.1f}")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"peak memory of this process: {peak:.2f} GiB")


if __name__ == "__main__":
    main()
