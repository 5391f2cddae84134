"""Decoding any image file: the table of modes, and files that are not images."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.data.format.pictures import decode_picture
from pipeline.errors import DataError
from tests.image_files import (
    damaged_in_the_middle,
    encoded,
    noise,
    png_of_claimed_size,
    with_subsampling,
)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("1", "L"), ("L", "L"), ("LA", "L"), ("P", "RGB"), ("RGB", "RGB"), ("RGBA", "RGB")],
)
def test_every_8_bit_png_mode_becomes_grey_or_colour(mode: str, expected: str) -> None:
    image = Image.fromarray(noise(6, 6, 3)).convert(mode)
    assert decode_picture(encoded(image)).mode == expected


def test_transparent_pixels_become_white_and_opaque_ones_keep_their_colour() -> None:
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    image.putpixel((1, 0), (10, 20, 30, 0))
    plain = decode_picture(encoded(image))
    assert [plain.getpixel((x, 0)) for x in (0, 1)] == [(10, 20, 30), (255, 255, 255)]


def test_half_transparent_grey_is_blended_with_white_and_stays_grey() -> None:
    plain = decode_picture(encoded(Image.new("LA", (1, 1), (0, 128))))
    assert plain.mode == "L"
    assert plain.getpixel((0, 0)) == 127


def test_a_transparent_palette_entry_becomes_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    plain = decode_picture(encoded(image, transparency=0))
    assert [plain.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 255, 0)]


def test_a_cmyk_jpeg_becomes_its_rgb_colours() -> None:
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    pixel = np.asarray(decode_picture(encoded(red, "JPEG", quality=100)))[4, 4]
    assert np.abs(pixel.astype(int) - [255, 0, 0]).max() <= 3


def test_a_jpeg_of_plain_rgb_keeps_its_colours() -> None:
    content = encoded(Image.new("RGB", (8, 8), (200, 100, 50)), "JPEG", quality=100, keep_rgb=True)
    pixel = np.asarray(decode_picture(content))[4, 4]
    assert np.abs(pixel.astype(int) - [200, 100, 50]).max() <= 1


@pytest.mark.parametrize(
    ("mode", "options"),
    [("RGB", {}), ("L", {}), ("CMYK", {}), ("CMYK", {"progressive": True}), ("RGB", {"keep_rgb": True})],
)
def test_a_jpeg_damaged_in_the_middle_is_refused_in_any_colours(mode: str, options: dict[str, bool]) -> None:
    image = Image.fromarray(noise(64, 64, len(Image.new(mode, (1, 1)).getbands())).squeeze(), mode)
    with pytest.raises(DataError, match=r"it is (a )?damaged"):
        decode_picture(damaged_in_the_middle(encoded(image, "JPEG", **options)))


def test_a_jpeg_whose_damage_no_decoder_would_tell_is_refused() -> None:
    content = encoded(Image.fromarray(noise(32, 32, 3)), "JPEG", subsampling=0)
    with pytest.raises(DataError, match=r"colours are stored in an unusual size .* convert it"):
        decode_picture(with_subsampling(content, 0x31, 0x11, 0x11))


def test_the_rotation_in_exif_is_applied() -> None:
    image = Image.fromarray(np.repeat(np.array([[0, 255]], dtype=np.uint8), 8, axis=0).repeat(8, axis=1))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate clockwise by 90 degrees
    plain = np.asarray(decode_picture(encoded(image, exif=exif)))
    assert plain.shape == (16, 8)
    assert (plain[:8] == 0).all()
    assert (plain[8:] == 255).all()


def test_the_first_frame_of_a_gif_is_used() -> None:
    frames = [Image.new("L", (4, 4), value) for value in (40, 200)]
    stream = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(decode_picture(stream)).max() == 40


def test_16_bit_grey_of_a_png_is_divided_by_257_and_rounded() -> None:
    values = np.array([[0, 128, 129, 257, 32_896, 65_535]], dtype=np.uint16)
    assert np.asarray(decode_picture(encoded(Image.fromarray(values)))).tolist() == [[0, 0, 1, 1, 128, 255]]


def test_16_bit_colour_of_a_png_keeps_the_high_bytes() -> None:
    content = png_of_claimed_size(1, 1, 16, 2, bytes([0, 10, 99, 20, 99, 30, 99]))
    assert np.asarray(decode_picture(content)).tolist() == [[[10, 20, 30]]]


@pytest.mark.parametrize("mode", ["I;16", "I", "F", "LAB"])
def test_modes_without_a_standard_range_are_refused_by_name(mode: str) -> None:
    content = encoded(Image.new(mode, (4, 4)), "TIFF")
    with pytest.raises(
        DataError, match=rf"TIFF file in Pillow's mode {mode}, .*convert it to 8 bits per channel"
    ):
        decode_picture(content)


@pytest.mark.parametrize(("side", "size"), [(8_001, "8001 x 8001"), (30_000, "30000 x 30000")])
def test_an_image_of_over_64_megapixels_is_refused_before_it_is_decoded(side: int, size: str) -> None:
    stream = png_of_claimed_size(side, side, 8, 0, b"")
    with pytest.raises(DataError, match=rf"it has {size}.* pixels, .*the limit for decoding"):
        decode_picture(stream)


def test_a_text_file_is_not_an_image() -> None:
    with pytest.raises(DataError, match="it is not an image in a supported format"):
        decode_picture(b"hello")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
def test_half_a_file_is_damaged(kind: str) -> None:
    whole = encoded(Image.fromarray(noise(64, 64, 3)), kind)
    with pytest.raises(DataError, match=r"^it is (a )?damaged"):
        decode_picture(whole[: len(whole) // 2])
