"""Images as they come to images as shards hold them: uint8, square, one resolution, grey or colour."""

from __future__ import annotations

import io
import warnings
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from pipeline.data.sources import Pixels
from pipeline.errors import DataError

# A short list keeps out of reach the formats whose readers start other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK")
MAX_PIXELS = 64_000_000
GREY_MODES = ("1", "L", "LA")


def decode_image(stream: IO[bytes], name: str) -> Image.Image:
    """Decode an image file (its first frame, if it moves) to Pillow mode L or RGB, upright.

    1 and LA become L; P, RGBA and CMYK become RGB. Transparent parts are laid on white. The rotation
    that a camera left in EXIF is applied; colour profiles are not. Raises DataError, naming `name`, for
    files that are broken, hold more than 64 million pixels, or more than 8 bits a channel.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(stream, formats=FORMATS)
        _check_header(image, name)
        image.load()
        return _plain(ImageOps.exif_transpose(image))
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(
            f"{name} is not an image that can be read ({', '.join(FORMATS)}). Convert it, or remove it."
        ) from None
    except Image.DecompressionBombError:
        raise DataError(_too_large(name, "far more")) from None
    except Exception as error:  # Pillow's readers raise nearly anything on broken files
        raise DataError(f"{name} is broken: {error}. Replace it, or remove it.") from None


def _check_header(image: ImageFile.ImageFile, name: str) -> None:
    """Look before decoding: a file of a few kilobytes may unfold to gigabytes."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(_too_large(name, f"{width} x {height}"))
    # Pillow reads 16-bit colour as mode RGB and drops the low bytes: only the raw mode tells.
    sixteen_bit = any(";16B" in str(tile[3]) for tile in image.tile)
    if image.mode not in MODES or sixteen_bit:
        kind = "16 bits a channel" if sixteen_bit else f"Pillow's mode {image.mode}"
        raise DataError(
            f"{name} has {kind}; only images of 8 bits a channel ({', '.join(MODES)}) are read, because "
            "any scaling to 8 bits would be a guess. Convert it, or remove it."
        )


def _too_large(name: str, size: str) -> str:
    return (
        f"{name} has {size} pixels, and over {MAX_PIXELS:,} are not decoded. Make it smaller, or remove it."
    )


def _plain(image: Image.Image) -> Image.Image:
    mode = "L" if image.mode in GREY_MODES else "RGB"
    if not image.has_transparency_data:
        return image if image.mode == mode else image.convert(mode)
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert(mode)


def to_array(image: Pixels, resolution: int, channels: int) -> npt.NDArray[np.uint8]:
    """Return `image` as uint8 (resolution, resolution, channels).

    The largest square at the centre is cut out and resized: with Lanczos (antialiased) when it shrinks,
    bicubic when it grows. Colour becomes grey by ITU-R 601 luma; grey becomes colour by repetition.
    An image that fits already keeps its pixels exactly.
    """
    if isinstance(image, np.ndarray):
        fitting = image[:, :, None] if image.ndim == 2 else image
        if fitting.shape == (resolution, resolution, channels):
            return fitting
        image = Image.fromarray(image)
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    pixels = np.asarray(_resize(_centre_square(image), resolution))
    return pixels.reshape(resolution, resolution, channels)


def _centre_square(image: Image.Image) -> Image.Image:
    width, height = image.size
    if width == height:
        return image
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _resize(square: Image.Image, resolution: int) -> Image.Image:
    if square.width == resolution:
        return square
    shrinks = square.width > resolution
    method = Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC
    return square.resize((resolution, resolution), method)


def decode_png(encoded: bytes, resolution: tuple[int, int], channels: int) -> Image.Image:
    """Decode an image of a shard to Pillow mode L or RGB.

    Raises DataError, which says what is wrong but not where, for anything but a whole PNG of this
    (height, width) and number of channels. Size and mode are looked at before the pixels are.
    """
    height, width = resolution
    mode = "L" if channels == 1 else "RGB"
    try:
        image = Image.open(io.BytesIO(encoded), formats=("PNG",))
        if image.size != (width, height) or image.mode != mode:
            found = f"{image.width} x {image.height} in mode {image.mode}"
            raise DataError(f"{found} instead of {width} x {height} in mode {mode}")
        image.load()
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError("not a PNG") from None
    except Exception as error:  # Pillow's readers raise nearly anything on broken files
        raise DataError(f"a broken PNG: {error}") from None
    return image


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encode uint8 (height, width, 1 or 3) as PNG: equal bytes for equal pixels and Pillow builds."""
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()
