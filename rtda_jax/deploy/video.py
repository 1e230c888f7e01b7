"""Reads and writes video frames with PyAV, whose wheels bring FFmpeg.

The content of a file decides its decoder, but only video formats are allowed, because a playlist
that is named .mp4 could make the reader open other files. A stream may use network protocols but
cannot open files.
"""

import contextlib
import fractions
import pathlib
import platform
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from rtda_jax.errors import ConfigError, DataError
from rtda_jax.run.files import replacing

CODEC, QUALITY = "libx264", "18"  # constant rate factor: lower is better, 18 looks lossless
FORMATS = "mov,mp4,matroska,webm,avi,mpeg,mpegts,mpegvideo,asf"  # by their names in FFmpeg
FILES = {"format_whitelist": FORMATS, "protocol_whitelist": "none"}  # options that open a file
# Titles and similar texts are not read, because PyAV fails if one is not UTF-8.
_OF_A_FILE: dict[str, Any] = {"options": FILES, "metadata_errors": "ignore"}
STREAM_FORMATS = f"{FORMATS},rtsp,rtp,sdp,hls,flv,live_flv,mjpeg,mpjpeg,h264,hevc"
PROTOCOLS = ("http", "https", "rtmp", "rtsp", "rtsps", "tcp", "udp")  # of a stream's URL
INNER_PROTOCOLS = "crypto,httpproxy,rtp,srtp,tls"  # that these use in turn
# Pixels of a frame: 4096 x 2304, above 4K. A decoder may keep 16 frames, and a few more for each
# thread.
MAX_PIXELS = 4096 * 2304
_THREADS = 2
TIMEOUT = 10.0  # seconds to open a stream, and to wait for its next frame


class Frame(NamedTuple):
    """Upright pixels uint8 [H,W,3], their time in units of `base` seconds, and the frame rate.

    The time of the first frame is 0, and time only goes forward.
    """

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
      DataError: names the file, after the frames before the damage have been yielded.
    """
    av = pyav()
    try:
        if not path.stat().st_size:
            raise DataError(f"{path}: zero bytes; expected a video")
        with path.open("rb") as file:
            yield from _frames(lambda: av.open(file, **_OF_A_FILE), str(path))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None


def stream(source: str) -> Iterator[Frame]:
    """Yields the frames of a camera, by its number, or of a URL, until it ends.

    Raises:
      DataError: there is no such camera, or nothing answers at the URL.
      ConfigError: the URL has another protocol.
    """
    av = pyav()
    if "://" not in source:
        file, layout = _camera(source)
        return _frames(lambda: av.open(file, format=layout, timeout=TIMEOUT), f"camera {source}")
    protocol = source.partition("://")[0].lower()
    if protocol not in PROTOCOLS:
        raise ConfigError(
            f"unknown protocol {protocol!r} of {source}; known: {', '.join(PROTOCOLS)}"
        )
    options = {
        "format_whitelist": STREAM_FORMATS,
        "protocol_whitelist": f"{','.join(PROTOCOLS)},{INNER_PROTOCOLS}",
    }
    return _frames(
        lambda: av.open(source, timeout=TIMEOUT, options=options, metadata_errors="ignore"), source
    )


def _camera(number: str) -> tuple[str, str]:
    """Returns the name of a camera in FFmpeg, and the format that reads it."""
    system = platform.system()
    if system == "Darwin":
        return number, "avfoundation"
    if system != "Linux":
        raise ConfigError(f"--input={number}: cameras are read on Linux and macOS only")
    device = pathlib.Path(f"/dev/video{number}")
    if not device.exists():
        cameras = ", ".join(sorted(p.name[5:] for p in device.parent.glob("video*"))) or "none"
        raise DataError(
            f"--input={number}: there is no camera {number} ({device}); cameras here: {cameras}"
        )
    return str(device), "v4l2"


def _frames(open_container: Any, where: str) -> Iterator[Frame]:
    """Yields the frames of an opened source; a DataError says how many came before a failure."""
    av, number = pyav(), 0
    try:
        with open_container() as container:
            if not container.streams.video:
                raise DataError(f"{where}: has no pictures")
            pictures = container.streams.video[0]
            decoder = pictures.codec_context
            if decoder is None:
                raise DataError(f"{where}: no video that can be read (unknown codec)")
            _check_size(decoder, where)
            decoder.options = {"max_pixels": str(MAX_PIXELS)}
            decoder.thread_type, decoder.thread_count = "AUTO", _THREADS
            rate = pictures.average_rate or pictures.base_rate or fractions.Fraction(25)
            base = pictures.time_base or 1 / rate
            step = max(1, round(1 / (rate * base)))
            decoded = _checked(container.decode(pictures), where)
            for frame, time in continuous(decoded, step=step):
                pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                yield Frame(np.ascontiguousarray(pixels), time, base, rate)
                number += 1
    except av.error.FFmpegError as error:
        what = f"damaged after {number} frames" if number else "no video that can be read"
        raise DataError(f"{where}: {what} ({error.strerror})") from None
    if not number:
        raise DataError(f"{where}: has no frames")


def _checked(frames: Iterable[Any], where: str) -> Iterator[Any]:
    for frame in frames:
        _check_size(frame, where)
        yield frame


def _check_size(picture: Any, where: str) -> None:
    if picture.height * picture.width > MAX_PIXELS:
        raise DataError(
            f"{where}: a frame of {picture.width}x{picture.height} is larger than {MAX_PIXELS:,} "
            "pixels"
        )


def continuous(frames: Iterable[Any], *, step: int) -> Iterator[tuple[Any, int]]:
    """Yields frames with times that begin at 0 and only go forward.

    If timestamps start again, as in joined recordings of a dash cam, the next recording follows one
    frame after the last.

    Args:
      frames: frames with a timestamp `pts` or None.
      step: the time between two frames.
    """
    last = offset = None
    for frame in frames:
        if last is None or offset is None:
            last, offset = 0, -(frame.pts or 0)
            yield frame, last
            continue
        time = last + step if frame.pts is None else frame.pts + offset
        if time <= last - step:
            offset += last + step - time
            time = last + step
        last = max(time, last + 1)
        yield frame, last


def length(path: pathlib.Path) -> int:
    """Returns the number of frames that a video declares; 1 if it has none or cannot be read."""
    av = pyav()
    try:
        with path.open("rb") as file, av.open(file, **_OF_A_FILE) as container:
            pictures = container.streams.video[0]
            if not pictures.frames and pictures.duration and pictures.average_rate:
                seconds = pictures.duration * pictures.time_base
                return max(1, round(seconds * pictures.average_rate))
            return max(1, pictures.frames)
    except (av.error.FFmpegError, OSError, IndexError):
        return 1


@contextlib.contextmanager
def writing(
    path: pathlib.Path, *, like: Frame, size: tuple[int, int], live: bool = False
) -> Iterator[Callable[[np.ndarray, Frame], None]]:
    """Yields a function that appends a picture uint8 [H,W,3] to an MP4 file (H.264, no sound).

    A picture is shown at the time of its frame. H.264 halves the resolution of colours, so an odd
    side is extended by repeating the edge.

    Args:
      path: the file, which appears when it is complete, and not at all if the block raises.
      like: a frame that tells the rate and the unit of time.
      size: (H, W) of the first picture; later ones of another size are scaled to it.
      live: whether to write to the path itself, in fragments of a second, so that the recording can
        be watched while it grows and is kept however the process ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = {"movflags": "frag_keyframe+empty_moov+default_base_moof"} if live else {}
    second = {"g": str(max(1, round(like.rate)))} if live else {}
    with (
        contextlib.nullcontext(path) if live else replacing(path) as target,
        target.open("wb") as file,
        pyav().open(file, "w", format="mp4", options=flags) as container,
    ):
        stream = container.add_stream(CODEC, rate=like.rate, options={"crf": QUALITY, **second})
        stream.height, stream.width = (side + side % 2 for side in size)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = like.base

        def write(pixels: np.ndarray, like: Frame) -> None:
            height, width = pixels.shape[:2]
            pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            frame = pyav().VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = like.time, like.base
            container.mux(stream.encode(frame))
            if live:
                file.flush()

        yield write
        container.mux(stream.encode())
