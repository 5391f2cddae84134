"""Any image file to 8-bit grey or RGB pixels, upright and opaque.

| Pillow mode            | becomes | how                                                                        |
|------------------------|---------|----------------------------------------------------------------------------|
| 1, L                   | L       | as it is; black and white are 0 and 255                                    |
| LA, La                 | L       | laid on white                                                              |
| P, PA                  | RGB     | by its palette; laid on white where it has transparent parts               |
| RGB, RGBX              | RGB     | as it is                                                                   |
| RGBA, RGBa             | RGB     | laid on white                                                              |
| CMYK, YCbCr            | RGB     | by Pillow's formulas; colour profiles are not applied                      |
| 16-bit grey PNG        | L       | divided by 257 and rounded: a PNG's white is always 65535                  |
| 16-bit colour PNG      | RGB     | the high byte of each value                                                |
| I, F, I;16 of TIFF     | refused | what counts as white differs between programs, so any scaling is a guess   |
| LAB, HSV and the rest  | refused | no agreed way to RGB without a profile                                     |

The rotation that a camera left in EXIF is applied. Of files that move, the first frame is taken.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from pipeline.errors import DataError

# A short list keeps out of reach the formats whose readers start other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
EXTENSIONS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
GREY_MODES = ("1", "L", "LA", "La")
COLOUR_MODES = ("P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr")
SIXTEEN_BIT_GREY = ("I;16", "I;16B", "I;16L", "I;16N")
MAX_PIXELS = 64_000_000


def decode_picture(content: bytes) -> Image.Image:
    """Decode an image file to Pillow mode L or RGB by the table above.

    Raises DataError, which says what is wrong but not where, for files that are broken, that hold more
    than 64 million pixels, or that the table refuses. Size and mode are looked at before the pixels are.
    """
    try:
        with warnings.catch_warnings():
            # Of sizes that are looked at here, and of metadata that nothing reads.
            warnings.simplefilter("ignore")
            return _decode(content)
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"it is not an image that can be read ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise DataError(f"it has far more than {MAX_PIXELS:,} pixels, which are not decoded") from None
    except Exception as error:  # Pillow's readers raise nearly anything on broken files
        raise DataError(f"it is broken: {error}") from None


def _decode(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    check_size(*image.size)
    _check_mode(image)
    if image.format == "PNG":
        # Pillow takes a PNG for whole once it has all pixels; this compares the checksums as well.
        image.verify()
        image = Image.open(io.BytesIO(content), formats=("PNG",))
    image.load()
    return _plain(ImageOps.exif_transpose(image))


def check_size(width: int, height: int) -> None:
    """Raise DataError for an image that is not worth its memory: a few kilobytes may unfold to gigabytes."""
    if width * height > MAX_PIXELS:
        raise DataError(f"it has {width} x {height} pixels, and over {MAX_PIXELS:,} are not decoded")


def _check_mode(image: ImageFile.ImageFile) -> None:
    if image.mode in GREY_MODES or image.mode in COLOUR_MODES:
        return
    if image.mode in SIXTEEN_BIT_GREY and image.format == "PNG":
        return
    raise DataError(
        f"it is {image.format} in Pillow's mode {image.mode}, whose range or colours differ between programs; "
        "convert it to 8 bits a channel, grey or RGB"
    )


def _plain(image: Image.Image) -> Image.Image:
    if image.mode in SIXTEEN_BIT_GREY:
        return Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    mode = "L" if image.mode in GREY_MODES else "RGB"
    if not image.has_transparency_data:
        return image if image.mode == mode else image.convert(mode)
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert(mode)
