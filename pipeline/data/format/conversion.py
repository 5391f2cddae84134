"""From any image to pixels of one shape: the one conversion that `wgan shards make` and training share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from pipeline.data.format.codecs import Bytes, Shape, decode_into, shape_of
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
        return to_pixels(decode_file(content, read_picture_file(content), conversion), conversion, place)
    pixels = np.empty((*stored.resolution, stored.channels), dtype=np.uint8)
    decode_into(pixels, encoded, stored.encoding)
    return to_pixels(pixels, conversion, place)


def decode_file(content: bytes, file: PictureFile, conversion: PixelConversion) -> Image.Image | Bytes:
    """An image file in its own size: as it is stored where that is possible, or else upright.

    Without alpha unless the conversion keeps it. Raises DataError.
    """
    stored = decode_stored(content, file) if file.is_plain else None
    if stored is not None:
        return stored
    return decode_picture(content, file, None if conversion.channels == 4 else conversion.background or WHITE)


def to_pixels(image: Image.Image | Bytes, conversion: PixelConversion, place: float | None = None) -> Bytes:
    """Convert a Pillow image (mode L, RGB or RGBA), or an array of such pixels, to uint8 of the conversion's shape.

    An image that gets smaller in any direction is resized with Lanczos interpolation (antialiased), any other with
    bicubic interpolation. Colour becomes grey with the ITU-R 601 luma formula; grey becomes colour by repeating the
    channel. Colours are weighted by their alpha when they are resized, and become black where nothing of them is seen.
    An image that already has the shape keeps its exact pixels.
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
    if conversion.fit == "pad":
        fitted = _pad(image, *conversion.resolution, conversion.background)
    elif conversion.fit == "fit":
        fitted = _resize(image, *conversion.resolution)
    else:
        fitted = _crop(image, *conversion.resolution, place)
    return _without_hidden_colours(np.asarray(fitted).reshape(conversion.shape))


def _without_hidden_colours(pixels: Bytes) -> Bytes:
    """The pixels with black where they are fully transparent: a critic sees all colours, also those of nothing."""
    if pixels.shape[2] < 4 or pixels[:, :, 3].all():
        return pixels
    return np.where(pixels[:, :, 3:] == 0, np.uint8(0), pixels)


def _crop(image: Image.Image, height: int, width: int, place: float | None) -> Image.Image:
    """Resize the largest part that has the wanted aspect ratio: that around the centre, or the one at the place."""
    # Whole pixels: cropping at fractions of a pixel would blur images that need no resizing.
    cut_width = max(1, min(image.width, round(image.height * width / height)))
    cut_height = max(1, min(image.height, round(image.width * height / width)))
    spare = (image.width - cut_width, image.height - cut_height)
    left, top = (length // 2 if place is None else int(place * (length + 1)) for length in spare)
    return _resize(image.crop((left, top, left + cut_width, top + cut_height)), height, width)


def _pad(image: Image.Image, height: int, width: int, background: Colour | None) -> Image.Image:
    scale = min(height / image.height, width / image.width)
    inner_height = max(1, min(height, round(image.height * scale)))
    inner_width = max(1, min(width, round(image.width * scale)))
    if image.mode == "RGBA" and background is None:
        canvas = Image.new("RGBA", (width, height), (*BLACK, 0))
    else:
        canvas = Image.new("RGB", (width, height), background or BLACK).convert(image.mode)
    inner = _resize(image, inner_height, inner_width)
    canvas.paste(inner, ((width - inner_width) // 2, (height - inner_height) // 2))
    return canvas


def _resize(image: Image.Image, height: int, width: int) -> Image.Image:
    if image.size == (width, height):
        return image
    shrinks = image.width > width or image.height > height
    method = Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC
    return image.resize((width, height), method)
