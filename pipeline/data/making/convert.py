"""Converts any image to the form in which shards store it: one size, grey or colour, one encoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageColor

from pipeline.data.format.codecs import Bytes, Encoding, encode
from pipeline.data.format.conversion import Decoded, PixelConversion, decode_file, to_pixels
from pipeline.data.format.picture_files import read_picture_file
from pipeline.data.format.picture_files.parts import Kind
from pipeline.data.format.pictures import Colour
from pipeline.data.sources import Picture
from pipeline.errors import ConfigError, DataError
from pipeline.option_types import MAX_SIDE

KINDS: dict[Encoding, Kind] = {"png": "PNG", "jpeg": "JPEG"}
"""The format of image files that are kept as they are in shards of this encoding"""


@dataclass(frozen=True)
class Conversion(PixelConversion):
    """The form that every image is converted to: its pixels, and how a file holds them.

    `resolution` is 1 to 4096 pixels a side. `quality` is the JPEG quality, 1 to 100. If not `resizes`, images of
    another size are refused. Raises ConfigError for values out of range, and for alpha in JPEGs, which have none.
    """

    encoding: Encoding = "png"
    quality: int = 95
    resizes: bool = True

    def __post_init__(self) -> None:
        height, width = self.resolution
        if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
            raise ConfigError(
                f"--resolution {height}x{width} is out of range: each side must be 1 to {MAX_SIDE} pixels."
            )
        if self.channels not in (1, 3, 4):
            raise ConfigError(
                f"--channels {self.channels} is not supported: expected 1 (grey), 3 (colour) or 4 (colour with alpha)."
            )
        if self.channels == 4 and self.encoding == "jpeg":
            raise ConfigError(
                "--encoding jpeg does not work with --channels 4, because a JPEG has no alpha. Use png or raw."
            )
        if self.fit == "random_crop":
            raise ConfigError(
                "--fit random_crop does not work for shards, which hold one crop of each image. Set data.fit: "
                "random_crop for training."
            )
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"--quality {self.quality} is out of range: the JPEG quality must be 1 to 100.")


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
        return _encode(Decoded(picture), picture.shape[:2], conversion)
    file = read_picture_file(picture)
    decoded = decode_file(picture, file, conversion)
    if isinstance(decoded.image, Image.Image):
        converted = _encode(decoded, file.upright_size, conversion)
        return converted._replace(frames_follow=file.frames_follow)
    has_form = decoded.image.shape == conversion.shape and file.kind == KINDS.get(conversion.encoding)
    # Some have colours where they are fully transparent.
    if has_form and np.array_equal(to_pixels(decoded.image, conversion), decoded.image):
        return Converted(picture, decoded.image)
    return _encode(decoded, file.upright_size, conversion)


def _encode(decoded: Decoded, size: tuple[int, ...], conversion: Conversion) -> Converted:
    """Convert the pixels of an image of this size, (height, width)."""
    if not conversion.resizes and size != conversion.resolution:
        wanted = "{} x {}".format(*conversion.resolution)
        raise DataError(
            f"it has {size[0]} x {size[1]} pixels, but the first images have {wanted}; give a size to which all are "
            f"resized, for example --resolution {_as_flag(*conversion.resolution)}"
        )
    pixels = to_pixels(decoded.image, conversion, reduced=decoded.reduced)
    return Converted(encode(pixels, conversion.encoding, conversion.quality), pixels)


def _as_flag(height: int, width: int) -> str:
    return f"{height}" if height == width else f"{height}x{width}"
