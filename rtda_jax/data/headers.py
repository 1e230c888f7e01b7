"""What an encoded image says about itself, read from its first bytes without decoding."""

import struct
import zlib
from typing import NamedTuple

from rtda_jax.data.errors import DataError

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PALETTE = 3
_DEPTHS = (1, 2, 4, 8, 16)
MOST_PIXELS = 2**27  # of an image: three times the largest of any data set here


class Header(NamedTuple):
    """Format ("PNG", "JPEG", "WebP"), size in pixels, channels and bits of each, palette or not."""

    format: str
    height: int
    width: int
    channels: int
    bits: int
    palette: bool


def probe(data: bytes, where: str) -> Header:
    """The header of an encoded image; DataError naming `where` if it is none or cut short."""
    if not data:
        raise DataError(f"{where}: zero bytes; expected a PNG, JPEG or WebP image")
    try:
        if data.startswith(_PNG):
            header = _png(data, where)
        elif data.startswith(b"\xff\xd8"):
            header = _jpeg(data)
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            header = _webp(data)
        else:
            raise DataError(f"{where}: neither PNG, JPEG nor WebP (begins with {data[:8]!r})")
    except (struct.error, IndexError):
        raise DataError(f"{where}: truncated; the header ends after {len(data)} bytes") from None
    if not 0 < header.height * header.width <= MOST_PIXELS:
        raise DataError(
            f"{where}: {header.width}x{header.height} pixels; an image has 1 to {MOST_PIXELS}"
        )
    return header


def _png(data: bytes, where: str) -> Header:
    width, height, bits, kind = struct.unpack(">IIBB", data[16:26])
    if kind not in _PNG_CHANNELS:
        raise DataError(f"{where}: PNG of unknown colour type {kind}")
    if bits not in _DEPTHS:
        raise DataError(f"{where}: PNG of {bits} bits per channel; known: 1, 2, 4, 8, 16")
    return Header("PNG", height, width, _PNG_CHANNELS[kind], bits, kind == _PALETTE)


def _jpeg(data: bytes) -> Header:
    at = 2
    while True:
        while data[at] == 0xFF and data[at + 1] == 0xFF:  # fill bytes
            at += 1
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits, height, width, channels = struct.unpack(">BHHB", data[at + 4 : at + 10])
            return Header("JPEG", height, width, channels, bits, False)
        at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]


def _webp(data: bytes) -> Header:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return Header("WebP", height & 0x3FFF, width & 0x3FFF, 3, 8, False)
    if kind == b"VP8L":
        (packed,) = struct.unpack("<I", data[21:25])
        channels = 4 if packed >> 28 & 1 else 3
        return Header(
            "WebP", (packed >> 14 & 0x3FFF) + 1, (packed & 0x3FFF) + 1, channels, 8, False
        )
    flags = data[20]
    width, height = (int.from_bytes(data[i : i + 3], "little") + 1 for i in (24, 27))
    return Header("WebP", height, width, 4 if flags & 0x10 else 3, 8, False)


def as_indices(data: bytes) -> bytes:
    """A palette PNG declared greyscale, so that a decoder returns its indices and not its colours.

    Below 8 bits a decoder spreads greyscale over 0..255: divide by `index_step`.
    """
    kept, at = [data[:8]], 8
    while data[at + 4 : at + 8] not in (b"IDAT", b"IEND"):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, end = data[at + 4 : at + 8], at + 12 + length
        if kind == b"IHDR":
            body = kind + data[at + 8 : at + 17] + b"\0" + data[at + 18 : at + 21]
            kept.append(struct.pack(">I", length) + body + struct.pack(">I", zlib.crc32(body)))
        elif kind not in (b"PLTE", b"tRNS", b"bKGD", b"hIST", b"sBIT", b"sPLT"):
            kept.append(data[at:end])
        at = end
        if at + 8 > len(data):
            raise IndexError("no image data")
    return b"".join((*kept, data[at:]))


def index_step(bits: int) -> int:
    """The distance of neighbouring indices after decoding a greyscale PNG of that depth."""
    return 255 // (2**bits - 1) if bits < 8 else 1
