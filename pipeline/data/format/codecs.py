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
import struct
import zlib
from collections.abc import Callable
from functools import cache
from typing import Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from pipeline.data.format.boundary import reason
from pipeline.data.format.picture_files import jpeg, png
from pipeline.data.format.picture_files.parts import PictureFile
from pipeline.errors import DataError, PipelineError
from pipeline.wording import counted

Encoding = Literal["png", "jpeg", "raw"]
Bytes = npt.NDArray[np.uint8]
Shape = tuple[int, int, int]
"""(height, width, channels). 1 channel means grey, 3 channels mean RGB, and 4 RGB with alpha."""

EXTENSIONS: dict[str, Encoding] = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "npy": "raw"}
"""The file endings of images in a shard, and the encoding that each one means."""

MAX_FILE_BYTES = 1 << 28
"""More than any image that may be decoded needs; larger files are not read."""
# Run-length coding of filtered rows: files are at most a tenth larger than with zlib's full search, and writing
# them is several times as fast.
PNG_OPTIONS = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
GREY_PNG_OPTIONS = [*PNG_OPTIONS, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FAST_FILTERS]
COLOUR_PNG_OPTIONS = [*PNG_OPTIONS, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_PAETH]
COLOURS = {1: "grey", 3: "colour", 4: "colour with alpha"}
"""What messages call images of so many channels."""
PNG_CHANNELS = {0: 1, 2: 3, 6: 4}
PNG_READING = {
    1: cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION,
    3: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION,
    4: cv2.IMREAD_UNCHANGED,
}
"""How OpenCV reads PNGs, by the number of their channels; only those with alpha are then in its own order, BGRA."""
_PNG_HEADER = struct.Struct(">16sIIBB3xI")
_PNG_START = png.SIGNATURE + b"\0\0\0\x0dIHDR"
JPEG_CHANNELS = {"Gray": 1, "YCbCr": 3}
JPEG_COLOURS = {1: "GRAY", 3: "RGB"}
"""What simplejpeg calls the colours of pixels with so many channels"""

# OpenCV reports damaged files on the console too.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class Header(NamedTuple):
    """What the header of an image file says."""

    encoding: Encoding
    shape: Shape

    def __str__(self) -> str:
        height, width, channels = self.shape
        return f"{self.encoding} of {height} x {width} in {COLOURS[channels]}"


def decode_into(pixels: Bytes, encoded: Bytes, encoding: Encoding) -> None:
    """Decode `encoded`, uint8 (bytes,), into `pixels`, uint8 (height, width, channels), which it overwrites.

    Nothing is decoded that does not fit into `pixels`. Raises DataError unless this is an undamaged image of that
    encoding and shape, except that a grey JPEG can become colour; the message does not name the file, so callers must
    add its name.
    """
    try:
        DECODERS[encoding](pixels, encoded)
    except PipelineError:
        raise
    except Exception as error:  # of a decoder: it may be any
        raise DataError(f"a damaged {encoding.upper()}: {reason(error)}") from error


def decode_reduced(encoded: Bytes, shape: Shape, reduction: int) -> Bytes:
    """A JPEG of this shape, (height, width, channels), as `decode_as` gives it. Raises DataError as `decode_into`."""
    check_header(read_jpeg_header(encoded), shape)
    _check_scans(encoded, shape)
    return decode_as(Header("jpeg", shape), encoded, reduction)


def decode_as(header: Header, content: bytes | Bytes, reduction: int = 1) -> Bytes:
    """The pixels, uint8 (height, width, channels), of a PNG or JPEG with this header, which `read_picture_file` passed.

    A JPEG can be decoded to every `reduction`-th of its sides, which must be 1, 2, 4 or 8: from fewer of its
    frequencies, so that each pixel is about the mean of those that it stands for. Raises DataError if it is damaged, at
    each reduction alike; the message does not name the file, so callers must add its name.
    """
    height, width, channels = header.shape
    pixels = np.empty((*reduced_size(height, width, reduction), channels), dtype=np.uint8)
    if header.encoding == "png":
        decode_into(pixels, np.frombuffer(content, dtype=np.uint8), "png")
        return pixels
    height, width, _ = pixels.shape
    try:
        # The smallest of libjpeg's scales that gives so many pixels; they are written to `buffer`.
        simplejpeg.decode_jpeg(
            content, JPEG_COLOURS[channels], min_height=height, min_width=width, buffer=pixels
        )
    except Exception as error:  # of the decoder: it may be any
        raise DataError(f"a damaged JPEG: {reason(error)}") from error
    return pixels


def reduced_size(height: int, width: int, reduction: int) -> tuple[int, int]:
    """(height, width) of a JPEG that is decoded with a reduction: libjpeg rounds up."""
    return -(-height // reduction), -(-width // reduction)


def _decode_png(pixels: Bytes, encoded: Bytes) -> None:
    view = encoded.data
    check_header(read_png_header(view), pixels.shape)
    # Without metadata, which cost time at each reading, and which libpng complains about on the console.
    bare = png.only_pixels(view, png.CRITICAL)
    stored = encoded if bare is view else np.frombuffer(bare, dtype=np.uint8)
    found = cv2.imdecode(stored, PNG_READING[pixels.shape[2]])
    if found is None:
        raise DataError("a damaged PNG")
    if pixels.shape[2] == 4:
        cv2.cvtColor(found, cv2.COLOR_BGRA2RGBA, dst=found)
    pixels[:] = found.reshape(pixels.shape)


def _decode_jpeg(pixels: Bytes, encoded: Bytes) -> None:
    shape = pixels.shape
    _check_scans(encoded, shape)
    try:
        # Written to `pixels`. Its header is not read before, which would take a tenth of the time of small images.
        found = simplejpeg.decode_jpeg(encoded, JPEG_COLOURS[shape[2]], buffer=pixels)
    except Exception:
        check_header(read_jpeg_header(encoded), shape)
        raise
    if found.shape != shape:
        check_header(read_jpeg_header(encoded), shape)


def _decode_raw(pixels: Bytes, encoded: Bytes) -> None:
    if len(encoded) != pixels.size:
        raise DataError(f"{counted(len(encoded), 'byte')} of pixels instead of {pixels.size:,}")
    pixels[:] = encoded.reshape(pixels.shape)


DECODERS: dict[Encoding, Callable[[Bytes, Bytes], None]] = {
    "png": _decode_png,
    "jpeg": _decode_jpeg,
    "raw": _decode_raw,
}


def _check_scans(encoded: Bytes, shape: tuple[int, ...]) -> None:
    size = shape[0] * shape[1]
    if not jpeg.is_quick(len(encoded), size):
        jpeg.check_scans(encoded.tobytes(), size)


def check_header(header: Header | None, shape: tuple[int, ...]) -> None:
    """Raise DataError unless a header is that of an image of this shape, (height, width, channels)."""
    if header is None:
        raise DataError("not an 8-bit grey, RGB or RGBA image of the expected encoding")
    if header.shape != shape:
        raise DataError(f"{header} instead of {Header(header.encoding, (shape[0], shape[1], shape[2]))}")


def shape_of(pixels: Bytes) -> Shape:
    """(height, width, channels) of uint8 pixels (height, width) or (height, width, channels)."""
    height, width, *channels = pixels.shape
    return height, width, channels[0] if channels else 1


def encode(pixels: Bytes, encoding: Encoding, quality: int) -> bytes:
    """Encode uint8 (height, width, 1, 3 or, apart from JPEG, 4).

    The same pixels and library versions always give the same bytes.
    """
    if encoding == "raw":
        # Row by row, whatever their order in memory: the index points to the pixels alone.
        return _npy_header(pixels.shape) + pixels.tobytes()
    if encoding == "jpeg":
        grey = pixels.shape[2] == 1
        # No chroma subsampling: storing an image must not blur the colours that the critic sees.
        return bytes(
            simplejpeg.encode_jpeg(
                np.ascontiguousarray(pixels),
                quality=quality,
                colorspace="GRAY" if grey else "RGB",
                colorsubsampling="Gray" if grey else "444",
            )
        )
    match pixels.shape[2]:
        case 1:
            return cv2.imencode(".png", pixels, GREY_PNG_OPTIONS)[1].tobytes()
        case 3:
            ordered = pixels[:, :, ::-1]
        case _:
            ordered = pixels[:, :, [2, 1, 0, 3]]
    return cv2.imencode(".png", ordered, COLOUR_PNG_OPTIONS)[1].tobytes()


@cache
def _npy_header(shape: tuple[int, ...]) -> bytes:
    """What stands before the pixels in a .npy file; numpy needs longer to write it than a small image."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream,
        {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape},
    )
    return stream.getvalue()


def read_header(content: bytes, picture: PictureFile) -> Header | None:
    """The header of a PNG or JPEG that `decode_into` takes: 8-bit, in grey, RGB or RGBA. Else None."""
    if picture.kind == "PNG" and picture.is_opaque:
        return read_png_header(content)
    if picture.kind == "JPEG":
        return read_jpeg_header(np.frombuffer(content, np.uint8))
    return None


def read_png_header(content: bytes | memoryview) -> Header | None:
    """The header of a PNG; None unless it is an 8-bit PNG in grey, RGB or RGBA. Its first 33 bytes are enough."""
    if len(content) < png.HEADER_BYTES:
        return None
    start, width, height, depth, colours, checksum = _PNG_HEADER.unpack_from(content)
    if (
        start != _PNG_START
        or depth != 8
        or colours not in PNG_CHANNELS
        or zlib.crc32(content[12:29]) != checksum
    ):
        return None
    return Header("png", (height, width, PNG_CHANNELS[colours]))


def read_jpeg_header(encoded: Bytes) -> Header | None:
    """The header of a JPEG; None unless it is a JPEG in grey or YCbCr."""
    try:
        height, width, kind, _ = simplejpeg.decode_jpeg_header(encoded)
    except Exception:  # of the decoder, for example KeyError for a subsampling that it does not know
        return None
    return Header("jpeg", (height, width, JPEG_CHANNELS[kind])) if kind in JPEG_CHANNELS else None
