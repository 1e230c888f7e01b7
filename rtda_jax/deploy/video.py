"""Reads and writes video frames with PyAV, whose wheels bring FFmpeg."""

import fractions
import pathlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from rtda_jax.deploy.inputs import check_size
from rtda_jax.errors import ConfigError, DataError

CODEC, QUALITY = "libx264", "18"  # constant rate factor: lower is better, 18 looks lossless


class Frame(NamedTuple):
    """Upright pixels uint8 [H,W,3], their time in units of `base` seconds, and the frame rate."""

    pixels: np.ndarray
    time: int
    base: fractions.Fraction
    rate: fractions.Fraction


def pyav() -> ModuleType:
    """Imports PyAV, or raises ConfigError that says how to install it."""
    try:
        import av
    except ImportError:
        raise ConfigError("videos need PyAV: pip install 'rtda_jax[video]'") from None
    return av


def read(path: pathlib.Path) -> Iterator[Frame]:
    """Yields the frames of a video's first picture stream, one at a time.

    Raises:
      DataError: naming the file; the frames before the damage come first.
    """
    av = pyav()
    if not path.stat().st_size:
        raise DataError(f"{path}: zero bytes; expected a video")
    number = 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{path}: has no pictures")
            stream = container.streams.video[0]
            check_size(path, stream.height, stream.width)
            stream.thread_type = "AUTO"
            rate = stream.average_rate or stream.base_rate or fractions.Fraction(25)
            last = -1
            for frame in container.decode(stream):
                time = last + 1 if frame.pts is None else max(frame.pts, last + 1)
                pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                base = frame.time_base or 1 / rate
                yield Frame(np.ascontiguousarray(pixels), time, base, rate)
                last, number = time, number + 1
    except av.error.FFmpegError as error:
        what = f"damaged after {number} frames" if number else "no video that can be read"
        raise DataError(f"{path}: {what} ({error.strerror})") from None
    if not number:
        raise DataError(f"{path}: has no frames")


def length(path: pathlib.Path) -> int:
    """Returns how many frames a video claims; 1 if it does not say or cannot be read."""
    av = pyav()
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            if not stream.frames and stream.duration and stream.average_rate:
                return max(1, round(stream.duration * stream.time_base * stream.average_rate))
            return max(1, stream.frames)
    except (av.error.FFmpegError, IndexError):
        return 1


class Writer:
    """Writes an MP4 file (H.264, no sound) that appears under its name when it is complete."""

    def __init__(self, path: pathlib.Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._partial = path, path.with_name(path.name + ".partial")
        self._container: Any = None
        self._stream: Any = None

    def write(self, pixels: np.ndarray, like: Frame) -> None:
        """Appends a picture uint8 [H,W,3], shown at the time of a frame.

        H.264 halves the resolution of colours: an odd side gets one more line of its edge.
        """
        av = pyav()
        height, width = pixels.shape[:2]
        pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self._container is None:
            self._container = av.open(str(self._partial), "w", format="mp4")
            self._stream = self._container.add_stream(
                CODEC, rate=like.rate, options={"crf": QUALITY}
            )
            self._stream.height, self._stream.width = pixels.shape[:2]
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.time_base = like.base
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base = like.time, like.base
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Finishes the file."""
        if self._container is not None:
            self._container.mux(self._stream.encode())
            self._container.close()
            self._partial.replace(self._path)
