"""Conversion: what any image file becomes in a shard."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data.convert import decode_image, encode_png, to_array
from pipeline.errors import DataError


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> io.BytesIO:
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    stream.seek(0)
    return stream


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of_claimed_size(width: int, height: int, depth: int, colour: int, rows: bytes) -> io.BytesIO:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("1", "L"), ("L", "L"), ("LA", "L"), ("P", "RGB"), ("RGB", "RGB"), ("RGBA", "RGB")],
)
def test_every_8_bit_png_mode_becomes_grey_or_colour(mode: str, expected: str) -> None:
    image = Image.fromarray(noise(6, 6, 3)).convert(mode)
    assert decode_image(encoded(image), "x.png").mode == expected


def test_transparent_pixels_become_white_and_opaque_ones_keep_their_colour() -> None:
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    image.putpixel((1, 0), (10, 20, 30, 0))
    plain = decode_image(encoded(image), "x.png")
    assert [plain.getpixel((x, 0)) for x in (0, 1)] == [(10, 20, 30), (255, 255, 255)]


def test_half_transparent_grey_is_blended_with_white_and_stays_grey() -> None:
    plain = decode_image(encoded(Image.new("LA", (1, 1), (0, 128))), "x.png")
    assert plain.mode == "L"
    assert plain.getpixel((0, 0)) == 127


def test_a_transparent_palette_entry_becomes_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    plain = decode_image(encoded(image, transparency=0), "x.png")
    assert [plain.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 255, 0)]


def test_a_cmyk_jpeg_becomes_its_rgb_colours() -> None:
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    pixel = np.asarray(decode_image(encoded(red, "JPEG", quality=100), "x.jpg"))[4, 4]
    assert np.abs(pixel.astype(int) - [255, 0, 0]).max() <= 3


def test_the_rotation_in_exif_is_applied() -> None:
    image = Image.fromarray(np.repeat(np.uint8([[0, 255]]), 8, axis=0).repeat(8, axis=1))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by a quarter
    plain = np.asarray(decode_image(encoded(image, exif=exif), "x.png"))
    assert plain.shape == (16, 8)
    assert (plain[:8] == 0).all()
    assert (plain[8:] == 255).all()


def test_the_first_frame_of_a_gif_counts() -> None:
    frames = [Image.new("L", (4, 4), value) for value in (40, 200)]
    stream = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(decode_image(stream, "x.gif")).max() == 40


def test_16_bit_grey_is_refused_by_name() -> None:
    image = Image.fromarray(np.zeros((4, 4), dtype=np.uint16))
    with pytest.raises(DataError, match=r"deep\.png has .*16.*8 bits a channel.*Convert it"):
        decode_image(encoded(image), "deep.png")


def test_16_bit_colour_is_refused_though_pillow_would_round_it() -> None:
    stream = png_of_claimed_size(1, 1, 16, 2, bytes(7))
    assert Image.open(stream).mode == "RGB"
    stream.seek(0)
    with pytest.raises(DataError, match=r"deep\.png has 16 bits a channel"):
        decode_image(stream, "deep.png")


@pytest.mark.parametrize(("side", "size"), [(8_001, "8001 x 8001"), (30_000, "far more")])
def test_an_image_of_over_64_megapixels_is_refused_before_it_is_decoded(side: int, size: str) -> None:
    stream = png_of_claimed_size(side, side, 8, 0, b"")
    with pytest.raises(DataError, match=rf"bomb\.png has {size} pixels, and over 64,000,000 are not decoded"):
        decode_image(stream, "bomb.png")


def test_a_text_file_is_no_image() -> None:
    with pytest.raises(DataError, match=r"a\.png is not an image that can be read"):
        decode_image(io.BytesIO(b"hello"), "a.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP"])
def test_half_a_file_is_broken(kind: str) -> None:
    whole = encoded(Image.fromarray(noise(64, 64, 3)), kind).getvalue()
    with pytest.raises(DataError, match=r"half\.x "):
        decode_image(io.BytesIO(whole[: len(whole) // 2]), "half.x")


def test_a_fitting_array_keeps_its_pixels() -> None:
    for shape in ((5, 5), (5, 5, 3)):
        array = noise(*shape)
        converted = to_array(array, 5, 1 if len(shape) == 2 else 3)
        assert np.array_equal(converted.reshape(shape), array)


def test_the_centre_square_of_a_wide_and_of_a_tall_image_is_kept() -> None:
    wide = noise(4, 10)
    assert np.array_equal(to_array(wide, 4, 1)[:, :, 0], wide[:, 3:7])
    assert np.array_equal(to_array(wide.T.copy(), 4, 1)[:, :, 0], wide.T[3:7])


def test_shrinking_averages_instead_of_skipping_pixels() -> None:
    checkers = np.indices((64, 64)).sum(axis=0).astype(np.uint8) % 2 * 255
    small = to_array(checkers, 8, 1)
    assert small.shape == (8, 8, 1)
    assert np.abs(small.astype(int) - 127).max() <= 2


def test_growing_keeps_a_flat_image_flat() -> None:
    large = to_array(np.full((8, 8), 77, dtype=np.uint8), 16, 3)
    assert large.shape == (16, 16, 3)
    assert (large == 77).all()


def test_colour_becomes_grey_by_luma() -> None:
    green = np.zeros((2, 2, 3), dtype=np.uint8)
    green[:, :, 1] = 255
    assert (to_array(green, 2, 1) == round(0.587 * 255)).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_png_encoding_is_lossless_and_repeatable(channels: int) -> None:
    array = noise(9, 9, channels)
    png = encode_png(array)
    assert png == encode_png(array)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))).reshape(9, 9, channels), array)
