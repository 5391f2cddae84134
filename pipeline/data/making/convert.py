"""Converts any image to the form in which shards store it: one size, grey or colour, one encoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageColor

from pipeline.data.format.codecs import Bytes, Encoding, Shape, encode, shape_of
from pipeline.data.format.picture_files import read_picture_file
from pipeline.data.format.picture_files.parts import Kind, check_size
from pipeline.data.sources import Picture
from pipeline.data.sources.pictures import BLACK, WHITE, Colour, decode_picture, decode_stored, image_of
from pipeline.errors import ConfigError, DataError

Fit = Literal["crop", "fit", "pad"]
MAX_SIDE = 4096
KINDS: dict[Encoding, Kind] = {"png": "PNG", "jpeg": "JPEG"}
"""The format of image files that are kept as they are in shards of this encoding"""


@dataclass(frozen=True)
class Conversion:
    """The form that every image is converted to.

    `resolution` is (height, width) in pixels, 1 to 4096 each. Images with another aspect ratio are cropped at the
    centre (`crop`), stretched (`fit`), or padded (`pad`). `quality` is the JPEG quality, 1 to 100. `background` is the
    colour behind transparent images and around padded ones; by default these are white and black. If not `resizes`,
    images of another size are refused. Raises ConfigError for values out of range.
    """

    resolution: tuple[int, int]
    channels: int
    fit: Fit = "crop"
    encoding: Encoding = "png"
    quality: int = 95
    background: Colour | None = None
    resizes: bool = True

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


def parse_colour(text: str) -> Colour:
    """The colour with a name, such as white, or in the form #rrggbb. Raises ConfigError for anything else."""
    try:
        red, green, blue, *alpha = ImageColor.getrgb(text)
    except ValueError:
        raise ConfigError(
            f"--background {text} is not a colour. Give a name, such as grey, or #rrggbb."
        ) from None
    if alpha not in ([], [255]):
        raise ConfigError(
            f"--background {text} is transparent. Give an opaque colour, such as white or #808080."
        )
    return red, green, blue


class Converted(NamedTuple):
    """An image in the form of a conversion: the bytes of its file, and its pixels before they were encoded."""

    content: bytes
    pixels: Bytes
    frames_follow: bool = False
    """Whether it is the first of several frames or pages, of which the others are not used"""


def convert_image(picture: Picture, conversion: Conversion) -> Converted:
    """Convert an image to the bytes of the new file, and its pixels, uint8 (height, width, channels).

    A file that already has the wanted form is decoded, to check it, and then kept byte for byte. Raises DataError if
    the image is damaged or not supported; the message does not name the file, so callers must add its name.
    """
    if isinstance(picture, np.ndarray):
        return _encode(to_pixels(picture, conversion), conversion)
    file = read_picture_file(picture)
    stored = decode_stored(picture, file) if file.is_plain else None
    if stored is None:
        decoded = decode_picture(picture, file, conversion.background or WHITE)
        return _encode(to_pixels(decoded, conversion), conversion)._replace(frames_follow=file.frames_follow)
    if stored.shape == conversion.shape and file.kind == KINDS.get(conversion.encoding):
        return Converted(picture, stored)
    return _encode(to_pixels(stored, conversion), conversion)


def _encode(pixels: Bytes, conversion: Conversion) -> Converted:
    return Converted(encode(pixels, conversion.encoding, conversion.quality), pixels)


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
        image = image_of(image)
    if not conversion.resizes and (image.height, image.width) != conversion.resolution:
        height, width = conversion.resolution
        raise DataError(
            f"it has {image.height} x {image.width} pixels, but the first images have {height} x {width}; give a "
            "size to which all are resized, for example --resolution "
            f"{height if height == width else f'{height}x{width}'}"
        )
    mode = "L" if conversion.channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if conversion.fit == "pad":
        fitted = _pad(image, *conversion.resolution, conversion.background or BLACK)
    else:
        fitted = _FITS[conversion.fit](image, *conversion.resolution)
    return np.asarray(fitted).reshape(conversion.shape)


def _crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """Resize the largest part around the centre that has the wanted aspect ratio."""
    # Whole pixels: cropping at fractions of a pixel would blur images that need no resizing.
    cut_width = max(1, min(image.width, round(image.height * width / height)))
    cut_height = max(1, min(image.height, round(image.width * height / width)))
    left, top = (image.width - cut_width) // 2, (image.height - cut_height) // 2
    return _resize(image.crop((left, top, left + cut_width, top + cut_height)), height, width)


def _pad(image: Image.Image, height: int, width: int, background: Colour) -> Image.Image:
    scale = min(height / image.height, width / image.width)
    inner_height = max(1, min(height, round(image.height * scale)))
    inner_width = max(1, min(width, round(image.width * scale)))
    canvas = Image.new("RGB", (width, height), background).convert(image.mode)
    inner = _resize(image, inner_height, inner_width)
    canvas.paste(inner, ((width - inner_width) // 2, (height - inner_height) // 2))
    return canvas


def _resize(image: Image.Image, height: int, width: int) -> Image.Image:
    if image.size == (width, height):
        return image
    shrinks = image.width > width or image.height > height
    method = Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC
    return image.resize((width, height), method)


_FITS = {"crop": _crop, "fit": _resize}
