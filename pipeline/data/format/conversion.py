"""From any image to pixels of one shape: the one conversion that `wgan shards make` and training share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from pipeline.data.format.codecs import Bytes, Shape, decode_into, decode_reduced, reduced_size, shape_of
from pipeline.data.format.manifest import Stored
from pipeline.data.format.picture_files import read_picture_file
from pipeline.data.format.picture_files.parts import PictureFile, check_size
from pipeline.data.format.pictures import (
    BLACK,
    WHITE,
    Colour,
    decode_picture,
    decode_stored,
    image_of,
    without_alpha,
)
from pipeline.option_data import Fit

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's names of the numbers of channels that images can have."""
REDUCING_GAP = 2
"""A large JPEG is decoded to a half, a quarter or an eighth of its sides if these are still so many times what they
become: twice as many pixels as wanted are enough for an antialiased resizing whose result looks the same."""


@dataclass(frozen=True)
class PixelConversion:
    """The shape that every image gets, and how.

    `resolution` is (height, width) in pixels. 1 channel is grey, 3 are RGB, and 4 are RGB and alpha, not premultiplied.
    Images with another aspect ratio are cropped at the centre (`crop`) or at a place that is drawn (`random_crop`),
    stretched (`fit`), or padded (`pad`). `background` is the colour behind transparent images that become opaque, and
    around padded ones; by default white and black, and around padded images with alpha nothing.
    """

    resolution: tuple[int, int]
    channels: int
    fit: Fit = "crop"
    background: Colour | None = None

    @property
    def shape(self) -> Shape:
        """(height, width, channels)."""
        return (*self.resolution, self.channels)


class Reduced(NamedTuple):
    """How the pixels of a JPEG that was decoded to fewer lie on the whole image."""

    height: int
    width: int
    """Of the whole image, upright"""
    reduction: int
    """How many of its pixels, in each direction, one stands for"""
    left: float
    top: float
    """Where it begins, in decoded pixels: 0, unless it was turned and its sides are no multiples of the reduction"""


class Decoded(NamedTuple):
    """An image file's pixels, upright; all of them, or those of a JPEG that was decoded to fewer."""

    image: Image.Image | Bytes
    reduced: Reduced | None = None


def convert_encoded(
    encoded: Bytes, stored: Stored | None, conversion: PixelConversion, place: float | None
) -> Bytes:
    """The image in `encoded`, uint8 (bytes,), as uint8 pixels of the conversion's shape.

    `stored` is what it must be, or None for an image file of any kind and size. `place`,
    from 0 to less than 1, is where a `random_crop` is; None for the centre. Raises DataError if the image is damaged;
    the message does not name the file, so callers must add its name.
    """
    if stored is None:
        content = encoded.tobytes()
        image, reduced = decode_file(content, read_picture_file(content), conversion)
        return to_pixels(image, conversion, place, reduced)
    (height, width), channels, encoding = stored
    if encoding == "jpeg" and (reduction := _reduction(height, width, conversion)) > 1:
        pixels = decode_reduced(encoded, (height, width, channels), reduction)
        return to_pixels(pixels, conversion, place, Reduced(height, width, reduction, 0, 0))
    pixels = np.empty((height, width, channels), dtype=np.uint8)
    decode_into(pixels, encoded, encoding)
    return to_pixels(pixels, conversion, place)


def decode_file(content: bytes, file: PictureFile, conversion: PixelConversion) -> Decoded:
    """An image file's pixels: as they are stored where that is possible, or else upright.

    Without alpha unless the conversion keeps it. A JPEG that is much larger than what it becomes is decoded to fewer.
    Raises DataError.
    """
    height, width = file.upright_size
    reduction = _reduction(height, width, conversion) if file.kind == "JPEG" else 1
    reduced = None if reduction == 1 else _after_turning(file, reduction)
    stored = decode_stored(content, file, reduction) if file.is_plain else None
    if stored is not None:
        return Decoded(stored, reduced)
    background = None if conversion.channels == 4 else conversion.background or WHITE
    return Decoded(decode_picture(content, file, background, reduction), reduced)


def _reduction(height: int, width: int, conversion: PixelConversion) -> int:
    """How many pixels of a JPEG in each direction are decoded to one: 1, 2, 4 or 8."""
    part = _part(height, width, conversion, None)
    across, down = part.right - part.left, part.bottom - part.top
    allowed = (
        reduction
        for reduction in (8, 4, 2)
        if across >= reduction * REDUCING_GAP * part.width and down >= reduction * REDUCING_GAP * part.height
    )
    return next(allowed, 1)


def _after_turning(file: PictureFile, reduction: int) -> Reduced:
    height, width = file.upright_size
    down, across = reduced_size(height, width, reduction)
    left = across - width / reduction if file.orientation in (2, 3, 6, 7) else 0
    top = down - height / reduction if file.orientation in (3, 4, 7, 8) else 0
    return Reduced(height, width, reduction, left, top)


def to_pixels(
    image: Image.Image | Bytes,
    conversion: PixelConversion,
    place: float | None = None,
    reduced: Reduced | None = None,
) -> Bytes:
    """Convert a Pillow image (mode L, RGB or RGBA), or an array of such pixels, to uint8 of the conversion's shape.

    An image that gets smaller in any direction is resized with Lanczos interpolation (antialiased), any other with
    bicubic interpolation. Colour becomes grey with the ITU-R 601 luma formula; grey becomes colour by repeating the
    channel. Colours are weighted by their alpha when they are resized, and become black where nothing of them is seen.
    An image that already has the shape keeps its exact pixels. `reduced` says what the pixels are if they are not all.
    """
    if isinstance(image, np.ndarray):
        if shape_of(image) == conversion.shape:
            return _without_hidden_colours(image.reshape(conversion.shape))
        check_size(*image.shape[1::-1])
        image = image_of(image)
    mode = MODES[conversion.channels]
    if image.mode == "RGBA" and mode != "RGBA":
        image = without_alpha(image, conversion.background or WHITE)
    if image.mode != mode:
        image = image.convert(mode)
    height, width, reduction, left, top = reduced or (image.height, image.width, 1, 0, 0)
    part = _part(height, width, conversion, place)
    corners = (part.left, part.top, part.right, part.bottom)
    box = [corner / reduction + begin for corner, begin in zip(corners, (left, top, left, top), strict=True)]
    fitted = _resize(image, box, (part.width, part.height))
    if fitted.size != (conversion.resolution[1], conversion.resolution[0]):
        fitted = _pad(fitted, *conversion.resolution, conversion.background)
    return _without_hidden_colours(np.asarray(fitted).reshape(conversion.shape))


def _without_hidden_colours(pixels: Bytes) -> Bytes:
    """The pixels with black where they are fully transparent: a critic sees all colours, also those of nothing."""
    if pixels.shape[2] < 4 or pixels[:, :, 3].all():
        return pixels
    return np.where(pixels[:, :, 3:] == 0, np.uint8(0), pixels)


class _Part(NamedTuple):
    """The part of an image that is used, in its own pixels, and the size that this part gets."""

    left: int
    top: int
    right: int
    bottom: int
    width: int
    height: int


def _part(height: int, width: int, conversion: PixelConversion, place: float | None) -> _Part:
    """All of an image, or the largest part with the wanted aspect ratio: around the centre, or at the place."""
    down, across = conversion.resolution
    if conversion.fit == "fit":
        return _Part(0, 0, width, height, across, down)
    if conversion.fit == "pad":
        scale = min(down / height, across / width)
        inner = (max(1, min(across, round(width * scale))), max(1, min(down, round(height * scale))))
        return _Part(0, 0, width, height, *inner)
    # Whole pixels: cropping at fractions of a pixel would blur images that need no resizing.
    cut_width = max(1, min(width, round(height * across / down)))
    cut_height = max(1, min(height, round(width * down / across)))
    spare = (width - cut_width, height - cut_height)
    left, top = (length // 2 if place is None else int(place * (length + 1)) for length in spare)
    return _Part(left, top, left + cut_width, top + cut_height, across, down)


def _pad(inner: Image.Image, height: int, width: int, background: Colour | None) -> Image.Image:
    if inner.mode == "RGBA" and background is None:
        canvas = Image.new("RGBA", (width, height), (*BLACK, 0))
    else:
        canvas = Image.new("RGB", (width, height), background or BLACK).convert(inner.mode)
    canvas.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
    return canvas


def _resize(image: Image.Image, box: list[float], size: tuple[int, int]) -> Image.Image:
    """The part of an image in `box` (left, top, right, bottom) in a size (width, height); nothing around it is seen."""
    left, top, right, bottom = math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3])
    if (left, top, right, bottom) != (0, 0, *image.size):
        image = image.crop((left, top, right, bottom))
    if image.size == size:
        return image
    shrinks = image.width > size[0] or image.height > size[1]
    method = Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC
    within = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
    return image.resize(size, method, within)
