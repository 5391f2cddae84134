"""Decodes any image file to 8-bit grey or RGB pixels, upright, and opaque unless alpha is asked for.

| Pillow mode            | becomes | how                                                                        |
|------------------------|---------|----------------------------------------------------------------------------|
| 1, L                   | L       | as it is; black and white are 0 and 255                                    |
| LA, La                 | L       | on the background, which is white by default                               |
| P, PA                  | RGB     | by its palette; on a white background if it has transparent parts          |
| RGB, RGBX              | RGB     | as it is                                                                   |
| RGBA, RGBa             | RGB     | on a white background                                                      |
| CMYK, YCbCr            | RGB     | with Pillow's formulas; colour profiles are not applied                    |
| 16-bit grey PNG        | L       | divided by 257 and rounded: a PNG's white is always 65535                  |
| 16-bit colour PNG      | RGB     | the high byte of each value                                                |
| I, F, I;16 of TIFF     | refused | the value of white differs between programs, so any scaling is a guess     |
| LAB, HSV and others    | refused | there is no standard conversion to RGB without a colour profile            |

If alpha is asked for, an image with transparent parts becomes RGBA instead, whatever its mode.

The image is turned as its metadata say. Of animated files, the first frame is used.

Which decoder reads a file depends only on its content, so a file has one verdict at every size: JPEG of all colours and
8-bit PNG are decoded as in training, PNM by `pnm`, and all others by Pillow, which sees only what it needs for the
pixels. A JPEG can be decoded to a half, a quarter or an eighth of its sides; all of its bytes are read all the same.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
import simplejpeg
from PIL import Image, ImageFile, UnidentifiedImageError

from pipeline.data.format.boundary import decoding, reason
from pipeline.data.format.codecs import Bytes, decode_as, read_header, reduced_size
from pipeline.data.format.native_output import caught_native_output
from pipeline.data.format.picture_files import jpeg, png, pnm, read_picture_file, tiff
from pipeline.data.format.picture_files.parts import DamageError, PictureFile, check_size
from pipeline.errors import DataError

EXTENSIONS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
Colour = tuple[int, int, int]
"""Red, green and blue from 0 to 255."""
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
GREY_MODES = ("1", "L", "LA", "La")
COLOUR_MODES = ("P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr")
SIXTEEN_BIT_GREY = ("I;16", "I;16B", "I;16L", "I;16N")
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
STRIP_PIXELS = 1 << 22
"""Transparent images are blended in strips of this size, because several copies of a large one need gigabytes."""


def decode_picture(
    content: bytes, picture: PictureFile | None = None, background: Colour | None = WHITE, reduction: int = 1
) -> Image.Image:
    """Decode an image file to Pillow mode L or RGB by the table above; `background` is behind its transparent parts.

    Without a `background`, an image with transparent parts keeps them, in mode RGBA. `reduction` of a JPEG is that of
    `decode_as`; for other files it must be 1.
    `picture` is what `read_picture_file` says of it. The size and the mode are checked before the pixels are decoded.
    Raises DataError if the file is damaged, has more than 64 million pixels, or is refused by the table; the message
    does not name the file, so callers must add its name.
    """
    picture = picture or read_picture_file(content)
    try:
        image = _decode(content, picture, background, reduction)
    except DamageError as error:
        raise DataError(f"it is damaged: {error}") from None
    turn = TURNS.get(picture.orientation)
    return image if turn is None else image.transpose(turn)


def decode_stored(content: bytes, picture: PictureFile, reduction: int = 1) -> Bytes | None:
    """The pixels of a PNG or JPEG as they are stored, uint8 (height, width, 1, 3 or 4); None if that is not all.

    `reduction` of a JPEG is that of `decode_as`. Raises DataError if it is damaged.
    """
    header = read_header(content, picture)
    if header is None:
        return None
    try:
        return decode_as(header, content, reduction)
    except DataError as error:
        raise DataError(f"it is {error}") from None


def image_of(pixels: Bytes) -> Image.Image:
    """A Pillow image of uint8 pixels (height, width), or (height, width, 1, 3 or 4)."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels)


def without_alpha(image: Image.Image, background: Colour) -> Image.Image:
    """An image with transparent parts on a background, in mode L or RGB."""
    mode = "L" if image.mode in GREY_MODES else "RGB"
    plain = Image.new(mode, image.size)
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        behind = Image.new("RGBA", strip.size, (*background, 255))
        plain.paste(Image.alpha_composite(behind, strip).convert(mode), (0, top))
    return plain


def _decode(content: bytes, picture: PictureFile, background: Colour | None, reduction: int) -> Image.Image:
    stored = decode_stored(content, picture, reduction)
    if stored is not None:
        return _plain(image_of(stored), background)
    match picture.kind:
        case "PPM":
            return image_of(pnm.decode(content))
        case "PNG":
            return _decode_with_pillow(bytes(png.only_pixels(memoryview(content))), picture, background)
        case "TIFF":
            return _decode_tiff(content, picture, background)
        case "JPEG":
            return _decode_rare_jpeg(jpeg.only_pixels(content), picture, reduction)
        case _:
            return _decode_with_pillow(content, picture, background)


def _decode_with_pillow(content: bytes, picture: PictureFile, background: Colour | None) -> Image.Image:
    with decoding(), warnings.catch_warnings():
        # Warnings about sizes, which are checked here, and about metadata, which are not used.
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(content), formats=(picture.kind,))
        except UnidentifiedImageError:  # its text is the address of an object
            raise DamageError(f"its header is not that of a {picture.kind}") from None
        check_size(*image.size)
        _check_mode(image)
        image.load()
        return _plain(image, background)


def _decode_tiff(content: bytes, picture: PictureFile, background: Colour | None) -> Image.Image:
    """A TIFF; damaged rows of fax images are an error only in what libtiff prints."""
    with caught_native_output() as printed:
        image = _decode_with_pillow(tiff.only_pixels(content), picture, background)
        errors = printed().splitlines()
    if errors:
        raise DamageError(errors[0])
    return image


def _decode_rare_jpeg(content: bytes, picture: PictureFile, reduction: int) -> Image.Image:
    """A JPEG in the colours of print or in plain RGB, with a rare subsampling, or whose metadata alone are damaged.

    Not decoded by Pillow, which fills what is damaged with grey and does not say so.
    """
    stored = decode_stored(content, picture, reduction)
    if stored is not None:
        return image_of(stored)
    is_of_print = _colours_of(content) in ("CMYK", "YCCK")
    height, width = reduced_size(picture.height, picture.width, reduction)
    with decoding():
        pixels = simplejpeg.decode_jpeg(
            content, "CMYK" if is_of_print else "RGB", min_height=height, min_width=width
        )
    if not is_of_print:
        return image_of(pixels)
    # Adobe's programs store these values inverted, as all others expect by now.
    return Image.fromarray(255 - pixels, "CMYK").convert("RGB")


def _colours_of(content: bytes) -> str:
    """The colours that the header of a JPEG names; "" if it has a subsampling without a name."""
    try:
        colours: str = simplejpeg.decode_jpeg_header(content)[2]
    except KeyError:
        return ""
    except ValueError as error:
        if "subsampling" not in str(error):
            raise DamageError(reason(error)) from None
        raise DataError(
            "it is a JPEG whose colours are stored in an unusual size (chroma subsampling), so that damage could not "
            "be told; convert it to an ordinary JPEG"
        ) from None
    return colours


def _check_mode(image: ImageFile.ImageFile) -> None:
    if image.mode in GREY_MODES or image.mode in COLOUR_MODES:
        return
    if image.mode in SIXTEEN_BIT_GREY and image.format == "PNG":
        return
    raise DataError(
        f"it is a {image.format} file in Pillow's mode {image.mode}, whose value range or colours differ between "
        "programs; convert it to 8 bits per channel, grey or RGB"
    )


def _plain(image: Image.Image, background: Colour | None) -> Image.Image:
    if image.mode in SIXTEEN_BIT_GREY:
        eight_bit = np.rint(np.arange(1 << 16) / 257).astype(np.uint8)
        return Image.fromarray(eight_bit[np.asarray(image)])
    mode = "L" if image.mode in GREY_MODES else "RGB"
    if not image.has_transparency_data:
        return image if image.mode == mode else image.convert(mode)
    return image.convert("RGBA") if background is None else without_alpha(image, background)
