"""Converts any image to the form in which shards store it: one size, grey or colour, one encoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from pipeline.data.format.codecs import Bytes, Encoding, Shape, decode_into, encode, read_header, shape_of
from pipeline.data.sources import Picture
from pipeline.data.sources.pictures import check_size, decode_picture
from pipeline.errors import ConfigError, DataError

Fit = Literal["crop", "fit", "pad"]
MAX_SIDE = 4096


@dataclass(frozen=True)
class Conversion:
    """The form that every image is converted to.

    `resolution` is (height, width) in pixels, 1 to 4096 each. Images with another aspect ratio are cropped at the
    centre (`crop`), stretched (`fit`), or padded with black (`pad`). `quality` is the JPEG quality, 1 to 100.
    Raises ConfigError for values out of range.
    """

    resolution: tuple[int, int]
    channels: int
    fit: Fit = "crop"
    encoding: Encoding = "png"
    quality: int = 95

    def __post_init__(self) -> None:
        height, width = self.resolution
        if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
            raise ConfigError(
                f"--resolution {height}x{width} is out of range: each side must be 1 to {MAX_SIDE} pixels."
            )
        if self.channels not in (1, 3):
            raise ConfigError(
                f"--channels {self.channels} is not supported: expected 1 (grey) or 3 (colour)."
            )
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"--quality {self.quality} is out of range: the JPEG quality must be 1 to 100.")

    @property
    def shape(self) -> Shape:
        """(height, width, channels)."""
        return (*self.resolution, self.channels)


def convert(picture: Picture, conversion: Conversion) -> bytes:
    """Convert an image and return the bytes of the new file.

    A file that already has the wanted form is decoded, to check it, and then kept byte for byte. Raises DataError if
    the image is damaged or not supported; the message does not name the file, so callers must add its name.
    """
    if isinstance(picture, np.ndarray):
        return _encode(to_pixels(picture, conversion), conversion)
    header = read_header(picture)
    if header is None or header.shape != conversion.shape:
        return _encode(to_pixels(decode_picture(picture), conversion), conversion)
    pixels = np.empty(conversion.shape, dtype=np.uint8)
    try:
        decode_into(pixels, np.frombuffer(picture, dtype=np.uint8), header.encoding)
    except DataError as error:
        raise DataError(f"it is {error}") from None
    return picture if header.encoding == conversion.encoding else _encode(pixels, conversion)


def _encode(pixels: Bytes, conversion: Conversion) -> bytes:
    return encode(pixels, conversion.encoding, conversion.quality)


def to_pixels(image: Image.Image | Bytes, conversion: Conversion) -> Bytes:
    """Convert a Pillow image (mode L or RGB), or an array of such pixels, to uint8 of the conversion's shape.

    An image that gets smaller in any direction is resized with Lanczos interpolation (antialiased), any other with
    bicubic interpolation. Colour becomes grey with the ITU-R 601 luma formula; grey becomes colour by repeating the
    channel. An image that already has the shape keeps its exact pixels.
    """
    if isinstance(image, np.ndarray):
        if shape_of(image) == conversion.shape:
            return image.reshape(conversion.shape)
        check_size(*image.shape[1::-1])
        image = Image.fromarray(image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    mode = "L" if conversion.channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    return np.asarray(_FITS[conversion.fit](image, *conversion.resolution)).reshape(conversion.shape)


def _crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """Resize the largest part around the centre that has the wanted aspect ratio."""
    # Whole pixels: cropping at fractions of a pixel would blur images that need no resizing.
    cut_width = max(1, min(image.width, round(image.height * width / height)))
    cut_height = max(1, min(image.height, round(image.width * height / width)))
    left, top = (image.width - cut_width) // 2, (image.height - cut_height) // 2
    return _resize(image.crop((left, top, left + cut_width, top + cut_height)), height, width)


def _pad(image: Image.Image, height: int, width: int) -> Image.Image:
    scale = min(height / image.height, width / image.width)
    inner_height = max(1, min(height, round(image.height * scale)))
    inner_width = max(1, min(width, round(image.width * scale)))
    canvas = Image.new(image.mode, (width, height))
    inner = _resize(image, inner_height, inner_width)
    canvas.paste(inner, ((width - inner_width) // 2, (height - inner_height) // 2))
    return canvas


def _resize(image: Image.Image, height: int, width: int) -> Image.Image:
    if image.size == (width, height):
        return image
    shrinks = image.width > width or image.height > height
    method = Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC
    return image.resize((width, height), method)


_FITS = {"crop": _crop, "fit": _resize, "pad": _pad}
