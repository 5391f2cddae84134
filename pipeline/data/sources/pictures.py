"""Decodes any image file to 8-bit grey or RGB pixels, upright and opaque.

| Pillow mode            | becomes | how                                                                        |
|------------------------|---------|----------------------------------------------------------------------------|
| 1, L                   | L       | as it is; black and white are 0 and 255                                    |
| LA, La                 | L       | on a white background                                                      |
| P, PA                  | RGB     | by its palette; on a white background if it has transparent parts          |
| RGB, RGBX              | RGB     | as it is                                                                   |
| RGBA, RGBa             | RGB     | on a white background                                                      |
| CMYK, YCbCr            | RGB     | with Pillow's formulas; colour profiles are not applied                    |
| 16-bit grey PNG        | L       | divided by 257 and rounded: a PNG's white is always 65535                  |
| 16-bit colour PNG      | RGB     | the high byte of each value                                                |
| I, F, I;16 of TIFF     | refused | the value of white differs between programs, so any scaling is a guess     |
| LAB, HSV and others    | refused | there is no standard conversion to RGB without a colour profile            |

The EXIF rotation is applied. Of animated files, the first frame is used.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from pipeline.errors import DataError

# A short list, because the readers of some other formats start external programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
EXTENSIONS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
GREY_MODES = ("1", "L", "LA", "La")
COLOUR_MODES = ("P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr")
SIXTEEN_BIT_GREY = ("I;16", "I;16B", "I;16L", "I;16N")
MAX_PIXELS = 64_000_000


def decode_picture(content: bytes, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """Decode an image file to Pillow mode L or RGB by the table above; `background` is the colour behind transparent
    parts.

    The size and the mode are checked before the pixels are decoded. Raises DataError if the file is damaged, has more
    than 64 million pixels, or is refused by the table; the message does not name the file, so callers must add its
    name.
    """
    try:
        with warnings.catch_warnings():
            # Warnings about sizes, which are checked here, and about metadata, which are not used.
            warnings.simplefilter("ignore")
            return _decode(content, background)
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"it is not an image in a supported format ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise DataError(f"it has far more than {MAX_PIXELS:,} pixels, the limit for decoding") from None
    except Exception as error:  # on damaged files, Pillow may raise almost any exception
        raise DataError(f"it is damaged: {error}") from None


def _decode(content: bytes, background: tuple[int, int, int]) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    check_size(*image.size)
    _check_mode(image)
    if image.format == "PNG":
        # Pillow accepts a PNG as soon as it has all pixels; `verify` also checks the checksums.
        image.verify()
        image = Image.open(io.BytesIO(content), formats=("PNG",))
    image.load()
    return _plain(ImageOps.exif_transpose(image), background)


def check_size(width: int, height: int) -> None:
    """Raise DataError for an image with too many pixels: a few kilobytes can decode to gigabytes."""
    if width * height > MAX_PIXELS:
        raise DataError(f"it has {width} x {height} pixels, more than {MAX_PIXELS:,}, the limit for decoding")


def _check_mode(image: ImageFile.ImageFile) -> None:
    if image.mode in GREY_MODES or image.mode in COLOUR_MODES:
        return
    if image.mode in SIXTEEN_BIT_GREY and image.format == "PNG":
        return
    raise DataError(
        f"it is a {image.format} file in Pillow's mode {image.mode}, whose value range or colours differ between "
        "programs; convert it to 8 bits per channel, grey or RGB"
    )


def _plain(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if image.mode in SIXTEEN_BIT_GREY:
        return Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    mode = "L" if image.mode in GREY_MODES else "RGB"
    if not image.has_transparency_data:
        return image if image.mode == mode else image.convert(mode)
    behind = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(behind, image.convert("RGBA")).convert(mode)
