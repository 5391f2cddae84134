"""JPEGs that are much larger than wanted are decoded to fewer pixels: nearly the same result, in the same place."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from PIL import Image

from pipeline.data.format.codecs import Bytes
from pipeline.data.format.conversion import PixelConversion, decode_file, to_pixels
from pipeline.data.format.picture_files import read_picture_file
from pipeline.data.format.pictures import decode_picture
from tests.image_files import encoded

FITS = ("crop", "fit", "pad", "random_crop")
MODES = ("RGB", "L", "CMYK")


def photo(height: int, width: int, orientation: int = 1, mode: str = "RGB") -> bytes:
    """A smooth JPEG of this size before it is turned."""
    coarse = np.random.default_rng(height).integers(0, 256, (12, 17, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return encoded(image.convert(mode), "JPEG", exif=exif, quality=95)


def both(content: bytes, conversion: PixelConversion, place: float | None = None) -> tuple[int, Bytes, Bytes]:
    """How far a JPEG was reduced, its pixels, and those of all of its pixels."""
    file = read_picture_file(content)
    image, reduced = decode_file(content, file, conversion)
    whole = to_pixels(decode_picture(content, file), conversion, place)
    return (reduced.reduction if reduced else 1), to_pixels(image, conversion, place, reduced), whole


def distance(one: Bytes, other: Bytes) -> float:
    """The mean difference of two images."""
    return float(np.abs(one.astype(int) - other).mean())


@pytest.mark.parametrize(("orientation", "mode"), [*((n, "RGB") for n in range(1, 9)), (7, "L"), (3, "CMYK")])
def test_a_reduced_jpeg_lies_where_the_whole_one_does(orientation: int, mode: str) -> None:
    # Sides that no reduction divides: half a pixel in the wrong place would make a difference of 3 or more.
    content = photo(203, 305, orientation, mode)
    for fit, channels in product(FITS, (1, 3, 4)):
        conversion = PixelConversion((13, 22), channels, fit)  # type: ignore[arg-type]
        reduction, pixels, whole = both(content, conversion, 0.8 if fit == "random_crop" else None)
        assert reduction > 1, fit
        assert distance(pixels, whole) < 1, fit


def test_twice_the_wanted_pixels_are_kept_in_both_directions() -> None:
    rng, found = np.random.default_rng(0), 0
    for fit in FITS:
        for height, width, down, across in rng.integers((8, 8, 1, 1), (200, 200, 40, 40), (40, 4)).tolist():
            content = photo(height, width, int(rng.integers(1, 9)))
            file = read_picture_file(content)
            image, reduced = decode_file(content, file, PixelConversion((down, across), 3, fit))  # type: ignore[arg-type]
            if reduced is None:
                continue
            found += 1
            factor = reduced.reduction
            assert sorted(np.asarray(image).shape[:2]) == sorted(
                -(-side // factor) for side in (height, width)
            )
            kept = np.array(file.upright_size) / factor / (down, across)
            assert (kept.max() if fit == "pad" else kept.min()) >= 2
    assert found > 20


@pytest.mark.parametrize(("side", "reduction"), [(65, 1), (64, 2), (33, 2), (32, 4), (16, 8), (3, 8)])
def test_how_far_a_jpeg_is_reduced_depends_on_the_wanted_size(side: int, reduction: int) -> None:
    content = photo(256, 300)
    found, pixels, whole = both(content, PixelConversion((side, side), 3))
    assert found == reduction
    assert np.array_equal(pixels, whole) == (reduction == 1)


def test_other_files_are_decoded_whole() -> None:
    png = encoded(Image.new("RGB", (256, 256)), "PNG")
    assert decode_file(png, read_picture_file(png), PixelConversion((8, 8), 3)).reduced is None
