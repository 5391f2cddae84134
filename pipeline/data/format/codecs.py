"""The encodings of images in shards, each with the fastest decoder that is safe with damaged files.

| encoding | decoded by     | why                                                                                    |
|----------|----------------|----------------------------------------------------------------------------------------|
| png      | OpenCV         | checks every CRC; torchvision's decoder can crash the process on a flipped byte        |
| jpeg     | simplejpeg     | libjpeg-turbo writes straight into the batch; raises an error where others only warn   |
| raw      | a copy         | the pixels themselves, in a .npy file that any webdataset reader can open              |

All of them release the GIL while they decode, so threads can decode in parallel.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from pipeline.errors import DataError
from pipeline.wording import counted

Encoding = Literal["png", "jpeg", "raw"]
Bytes = npt.NDArray[np.uint8]
Shape = tuple[int, int, int]
"""(height, width, channels). 1 channel means grey, 3 channels mean RGB."""

EXTENSIONS: dict[str, Encoding] = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "npy": "raw"}
"""The file endings of images in a shard, and the encoding that each one means."""

MAX_FILE_BYTES = 1 << 28
"""More than any image that may be decoded needs; larger files are not read."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Run-length coding of filtered rows: files are at most a tenth larger than with zlib's full search, and writing
# them is several times as fast.
PNG_OPTIONS = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
GREY_PNG_OPTIONS = [*PNG_OPTIONS, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FAST_FILTERS]
COLOUR_PNG_OPTIONS = [*PNG_OPTIONS, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_PAETH]
PNG_CHANNELS = {0: 1, 2: 3}
JPEG_CHANNELS = {"Gray": 1, "YCbCr": 3}


@dataclass(frozen=True)
class Header:
    """What the header of an image file says."""

    encoding: Encoding
    shape: Shape

    def __str__(self) -> str:
        height, width, channels = self.shape
        return f"{self.encoding} of {height} x {width} in {'grey' if channels == 1 else 'colour'}"


def decode_into(pixels: Bytes, encoded: Bytes, encoding: Encoding) -> None:
    """Decode `encoded`, uint8 (bytes,), into `pixels`, uint8 (height, width, channels), which it overwrites.

    The header is checked before anything is decoded. Raises DataError unless this is an undamaged image of that
    encoding and shape; the message does not name the file, so callers must add its name.
    """
    _DECODERS[encoding](pixels, encoded)


def _decode_png(pixels: Bytes, encoded: Bytes) -> None:
    header = read_png_header(encoded[:33].tobytes())
    _check_shape(header, pixels)
    grey = pixels.shape[2] == 1
    colours = cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR_RGB
    found = cv2.imdecode(encoded, colours | cv2.IMREAD_IGNORE_ORIENTATION)
    if found is None:
        raise DataError("a damaged PNG")
    pixels[:] = found.reshape(pixels.shape)


def _decode_jpeg(pixels: Bytes, encoded: Bytes) -> None:
    _check_shape(read_jpeg_header(encoded), pixels)
    grey = pixels.shape[2] == 1
    try:
        # The result is written to `buffer`.
        simplejpeg.decode_jpeg(encoded, colorspace="GRAY" if grey else "RGB", buffer=pixels)
    except ValueError as error:
        raise DataError(f"a damaged JPEG: {error}") from None


def _decode_raw(pixels: Bytes, encoded: Bytes) -> None:
    if len(encoded) != pixels.size:
        raise DataError(f"{counted(len(encoded), 'byte')} of pixels instead of {pixels.size:,}")
    pixels[:] = encoded.reshape(pixels.shape)


_DECODERS: dict[Encoding, Callable[[Bytes, Bytes], None]] = {
    "png": _decode_png,
    "jpeg": _decode_jpeg,
    "raw": _decode_raw,
}


def _check_shape(header: Header | None, pixels: Bytes) -> None:
    if header is None:
        raise DataError("not an 8-bit grey or RGB image of the expected encoding")
    if header.shape != pixels.shape:
        raise DataError(f"{header} instead of {Header(header.encoding, shape_of(pixels))}")


def shape_of(pixels: Bytes) -> Shape:
    """(height, width, channels) of uint8 pixels (height, width) or (height, width, channels)."""
    height, width, *channels = pixels.shape
    return height, width, channels[0] if channels else 1


def encode(pixels: Bytes, encoding: Encoding, quality: int) -> bytes:
    """Encode uint8 (height, width, 1 or 3). The same pixels and library versions always give the same bytes."""
    if encoding == "raw":
        stream = io.BytesIO()
        np.save(stream, pixels, allow_pickle=False)
        return stream.getvalue()
    grey = pixels.shape[2] == 1
    if encoding == "jpeg":
        # No chroma subsampling: storing an image must not blur the colours that the critic sees.
        return bytes(
            simplejpeg.encode_jpeg(
                np.ascontiguousarray(pixels),
                quality=quality,
                colorspace="GRAY" if grey else "RGB",
                colorsubsampling="Gray" if grey else "444",
            )
        )
    ordered, options = (pixels, GREY_PNG_OPTIONS) if grey else (pixels[:, :, ::-1], COLOUR_PNG_OPTIONS)
    return cv2.imencode(".png", ordered, options)[1].tobytes()


def read_header(content: bytes) -> Header | None:
    """The header of a plain PNG or JPEG: 8-bit, grey or RGB, opaque, upright and of one frame. Else None."""
    if content.startswith(PNG_SIGNATURE):
        has_more = b"tRNS" in content or b"acTL" in content or b"eXIf" in content
        return None if has_more else read_png_header(content[:33])
    if content.startswith(b"\xff\xd8"):
        has_more = any(mark in content[: 1 << 17] for mark in (b"Exif\0\0", b"tiff:Orientation", b"MPF\0"))
        return None if has_more else read_jpeg_header(np.frombuffer(content, np.uint8))
    return None


def read_png_header(start: bytes) -> Header | None:
    """The header in the first 33 bytes of a PNG; None unless it is an 8-bit PNG in grey or RGB."""
    is_png = len(start) == 33 and start.startswith(PNG_SIGNATURE) and start[12:16] == b"IHDR"
    if not is_png or zlib.crc32(start[12:29]) != int.from_bytes(start[29:33], "big"):
        return None
    width, height = int.from_bytes(start[16:20], "big"), int.from_bytes(start[20:24], "big")
    depth, kind = start[24], start[25]
    if depth != 8 or kind not in PNG_CHANNELS:
        return None
    return Header("png", (height, width, PNG_CHANNELS[kind]))


def read_jpeg_header(encoded: Bytes) -> Header | None:
    """The header of a JPEG; None unless it is a JPEG in grey or YCbCr."""
    try:
        height, width, kind, _ = simplejpeg.decode_jpeg_header(encoded)
    except ValueError:
        return None
    return Header("jpeg", (height, width, JPEG_CHANNELS[kind])) if kind in JPEG_CHANNELS else None
