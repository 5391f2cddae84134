"""Conversion: the form of any image in a shard."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data.format.codecs import decode_into, encode, read_png_header
from pipeline.data.format.conversion import to_pixels
from pipeline.data.format.picture_files import read_picture_file
from pipeline.data.making.convert import Conversion, convert_image, parse_colour
from pipeline.data.sources import Picture
from pipeline.errors import ConfigError, DataError


def convert(picture: Picture, conversion: Conversion) -> bytes:
    """The converted file."""
    return convert_image(picture, conversion).content


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()


def shrunk(array: np.ndarray, height: int, width: int, channels: int = 1, **options: Any) -> np.ndarray:
    pixels: np.ndarray = to_pixels(array, Conversion((height, width), channels, **options))
    assert pixels.shape == (height, width, channels)
    return pixels


def test_an_array_of_the_wanted_shape_keeps_its_pixels() -> None:
    for shape in ((5, 5), (5, 5, 3)):
        array = noise(*shape)
        assert np.array_equal(shrunk(array, 5, 5, 1 if len(shape) == 2 else 3).reshape(shape), array)


def test_crop_keeps_the_centre_of_wide_and_of_tall_images() -> None:
    wide = noise(4, 10)
    assert np.array_equal(shrunk(wide, 4, 4)[:, :, 0], wide[:, 3:7])
    assert np.array_equal(shrunk(wide.T.copy(), 4, 4)[:, :, 0], wide.T[3:7])


def test_a_crop_has_the_wanted_aspect_ratio() -> None:
    wide = noise(40, 100)
    assert np.array_equal(shrunk(wide, 40, 50)[:, :, 0], wide[:, 25:75])
    assert np.array_equal(shrunk(wide, 20, 100)[:, :, 0], wide[10:30])


def test_pad_puts_the_whole_image_on_black() -> None:
    padded = shrunk(np.full((10, 20), 200, dtype=np.uint8), 20, 20, fit="pad")[:, :, 0]
    assert (padded[5:15] == 200).all()
    assert (padded[:5] == 0).all()
    assert (padded[15:] == 0).all()


@pytest.mark.parametrize(("channels", "padding"), [(3, [0, 0, 255]), (1, [29])])
def test_the_background_lies_around_and_behind_an_image(channels: int, padding: list[int]) -> None:
    clear = Image.new("RGBA", (4, 2), (200, 100, 50, 0))
    conversion = Conversion((4, 4), channels, "pad", background=parse_colour("blue"))
    pixels = convert_image(encoded(clear), conversion).pixels
    assert (pixels == padding).all()
    without = convert_image(encoded(clear), Conversion((4, 4), channels, "pad")).pixels
    assert [without[0].max(), without[1].min()] == [0, 255]


def test_colours_that_cannot_be_a_background_are_refused() -> None:
    assert parse_colour("#8080ff") == (128, 128, 255)
    for text in ("blu", "#12345", "#00000000"):
        with pytest.raises(ConfigError, match=f"--background {text} is"):
            parse_colour(text)


def test_fit_stretches_the_whole_image() -> None:
    halves = np.repeat(np.array([[0, 255]], dtype=np.uint8), 20, axis=0).repeat(20, axis=1)
    squeezed = shrunk(halves, 20, 20, fit="fit")[:, :, 0]
    assert (squeezed[:, :7] == 0).all()
    assert (squeezed[:, 13:] == 255).all()


@pytest.mark.parametrize("fit", ["crop", "fit", "pad"])
@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (3, 2)])
def test_any_aspect_ratio_becomes_the_wanted_size(fit: str, size: tuple[int, int]) -> None:
    shrunk(np.full(size, 9, dtype=np.uint8), 8, 12, fit=fit)


def test_shrinking_averages_instead_of_skipping_pixels() -> None:
    checkers = np.indices((64, 64)).sum(axis=0).astype(np.uint8) % 2 * 255
    assert np.abs(shrunk(checkers, 8, 8).astype(int) - 127).max() <= 2


def test_growing_keeps_a_flat_image_flat() -> None:
    assert (shrunk(np.full((8, 8), 77, dtype=np.uint8), 16, 16, 3) == 77).all()


def test_colour_becomes_grey_by_luma() -> None:
    green = np.zeros((2, 2, 3), dtype=np.uint8)
    green[:, :, 1] = 255
    assert (shrunk(green, 2, 2) == round(0.587 * 255)).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_png_encoding_is_lossless_and_repeatable(channels: int) -> None:
    array = noise(9, 9, channels)
    png = encode(array, "png", 95)
    assert png == encode(array, "png", 95)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))).reshape(9, 9, channels), array)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(32, 32, 3), (1, 7, 1), (1000, 4, 3)])
def test_raw_encoding_is_the_npy_file_that_numpy_writes_of_the_rows(
    shape: tuple[int, int, int], order: Any
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    stream = io.BytesIO()
    np.save(stream, pixels)
    assert encode(np.asarray(pixels, order=order), "raw", 95) == stream.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_files_of_the_wanted_form_are_kept_byte_for_byte(kind: str, channels: int) -> None:
    image = Image.fromarray(noise(9, 7, channels).squeeze())
    # This program would write neither file in this way.
    content = encoded(image, kind, quality=31) if kind == "JPEG" else encoded(image, compress_level=9)
    encoding = kind.lower()
    assert convert(content, Conversion((9, 7), channels, encoding=encoding)) == content  # type: ignore[arg-type]
    other = "png" if kind == "JPEG" else "jpeg"
    assert convert(content, Conversion((9, 7), channels, encoding=other)) != content  # type: ignore[arg-type]
    assert convert(content, Conversion((9, 9), channels, encoding=encoding)) != content  # type: ignore[arg-type]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_fast_decoders_give_the_same_pixels_as_pillow(kind: str, channels: int) -> None:
    content = encoded(Image.fromarray(noise(17, 13, channels).squeeze()), kind)
    pixels = np.empty((17, 13, channels), dtype=np.uint8)
    decode_into(pixels, np.frombuffer(content, dtype=np.uint8), kind.lower())  # type: ignore[arg-type]
    assert np.array_equal(pixels.squeeze(), np.asarray(Image.open(io.BytesIO(content))))


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 3
    return exif


@pytest.mark.parametrize(
    ("image", "kind", "options"),
    [
        (Image.new("RGB", (8, 8)), "JPEG", {"exif": turned()}),
        (Image.new("RGB", (8, 8)), "PNG", {"exif": turned()}),
        (Image.new("CMYK", (8, 8)), "JPEG", {}),
        (Image.new("RGBA", (8, 8)), "PNG", {}),
        (Image.new("P", (8, 8)), "PNG", {}),
        (Image.new("L", (8, 8)), "PNG", {"transparency": 0}),
        (Image.new("1", (8, 8)), "PNG", {}),
        (Image.new("I;16", (8, 8)), "PNG", {}),
        (Image.new("RGB", (8, 8)), "BMP", {}),
    ],
)
def test_files_with_more_than_pixels_are_written_again(
    image: Image.Image, kind: str, options: dict[str, Any]
) -> None:
    content = encoded(image, kind, **options)
    for channels in (1, 3):
        assert convert(content, Conversion((8, 8), channels)) != content


def test_both_ways_of_conversion_give_the_same_pixels() -> None:
    image = Image.fromarray(noise(8, 8, 3))
    plain, with_exif = encoded(image, "JPEG"), encoded(image, "JPEG", exif=Image.Exif())
    conversion = Conversion((8, 8), 3)
    marked = plain[:2] + b"\xff\xe1\x00\x08Exif\0\0" + plain[2:]
    assert read_picture_file(plain).is_plain
    assert not read_picture_file(marked).is_plain
    assert convert(plain, conversion) == convert(with_exif, conversion) == convert(marked, conversion)


FILES = {
    "PNG": encoded(Image.fromarray(noise(32, 32, 3)), "PNG"),
    "JPEG": encoded(Image.fromarray(noise(32, 32, 3)), "JPEG"),
    "GIF": encoded(Image.fromarray(noise(32, 32)), "GIF"),
    "WEBP": encoded(Image.fromarray(noise(32, 32, 3)), "WEBP"),
    "BMP": encoded(Image.fromarray(noise(32, 32, 3)), "BMP"),
    "TIFF": encoded(Image.fromarray(noise(32, 32, 3)), "TIFF", compression="tiff_lzw"),
}


SIZES = (
    *(Conversion((side, side), 3) for side in (32, 16, 8, 2)),
    Conversion((32, 32), 1),
    Conversion((4, 4), 1),
)
"""The files' own size, others, at some of which JPEGs are decoded to fewer pixels, and grey"""


def verdict(content: bytes) -> str:
    """Why a file is refused, "" if it is not; it must be the same at every size."""
    verdicts = set()
    for conversion in SIZES:
        try:
            header = read_png_header(convert(content, conversion))
            assert header is not None
            assert header.shape == conversion.shape
            verdicts.add("")
        except DataError as error:
            verdicts.add(str(error))
    assert len(verdicts) == 1, verdicts
    return verdicts.pop()


@pytest.mark.parametrize("kind", list(FILES))
def test_a_truncated_file_is_refused_at_every_size(kind: str) -> None:
    whole = FILES[kind]
    for length in range(0, len(whole) - 16, 151):
        assert verdict(whole[:length]).startswith("it is ")


@pytest.mark.parametrize("kind", list(FILES))
def test_a_flipped_byte_has_the_same_verdict_at_every_size(kind: str) -> None:
    whole = FILES[kind]
    refused, places = 0, range(0, len(whole), 31)
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        refused += verdict(bytes(damaged)).startswith("it ")
    # Formats without checksums cannot detect every change.
    assert refused > len(places) * 0.9 if kind == "PNG" else refused > 0


def test_a_jpeg_damaged_in_the_middle_is_refused_at_every_size() -> None:
    smooth = Image.fromarray(noise(32, 32, 3)).resize((256, 256), Image.Resampling.BICUBIC)
    damaged = bytearray(encoded(smooth, "JPEG", quality=90))
    middle = len(damaged) // 2
    damaged[middle : middle + 2000] = bytes(2000)
    assert verdict(bytes(damaged)).startswith("it is a damaged JPEG: ")


@pytest.mark.parametrize("size", [(1, 1), (20_000, 3), (3, 20_000)])
def test_extreme_sizes_become_the_wanted_size(size: tuple[int, int]) -> None:
    content = encoded(Image.new("RGB", size, "red"))
    pixels = np.asarray(Image.open(io.BytesIO(convert(content, Conversion((8, 8), 3)))))
    assert (pixels == [255, 0, 0]).all()
