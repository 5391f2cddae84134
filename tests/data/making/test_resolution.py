"""A source without its own resolution asks for one, and says which sizes its images have."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.data.making.resolution import choose_resolution
from pipeline.errors import ConfigError
from tests.shards import Given, digits


def photo(height: int, width: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, format="JPEG")
    return stream.getvalue()


def test_the_given_resolution_wins_over_the_sources_own() -> None:
    assert choose_resolution(digits(), (8, 12)) == (8, 12)


def test_the_sources_own_resolution_is_the_default() -> None:
    assert choose_resolution(digits(), None) == (16, 16)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(32, 32)] * 3, r"the first 3 images of given are 32 x 32 pixels, .* give --resolution 32;"),
        (
            [(218, 178)] * 2,
            r"the first 2 images of given are 218 x 178 pixels, .* give --resolution 218x178;",
        ),
        ([(20, 30)], r"the first image of given is 20 x 30 pixels"),
        (
            [(20, 30), (40, 50), (20, 30)],
            r"the first 3 images of given have different sizes \(20 x 30, 40 x 50\)",
        ),
        (
            [(9, side) for side in range(10, 40)],
            r"first 16 images .* \(9 x 10, 9 x 11, 9 x 12, 9 x 13, \.\.\.\)",
        ),
    ],
)
def test_a_missing_resolution_is_asked_for_with_the_sizes_found(
    sizes: list[tuple[int, int]], expected: str
) -> None:
    with pytest.raises(ConfigError, match=r"--resolution is missing: .*" + expected):
        choose_resolution(Given([photo(*size) for size in sizes]), None)


def test_pixels_without_a_file_have_a_size_too() -> None:
    with pytest.raises(ConfigError, match="the first image of given is 5 x 7 pixels"):
        choose_resolution(Given(np.zeros((1, 5, 7, 3), dtype=np.uint8)), None)


def test_unreadable_images_are_not_counted() -> None:
    with pytest.raises(ConfigError, match="the first image of given is 20 x 30 pixels"):
        choose_resolution(Given([b"no image", photo(20, 30)]), None)
    with pytest.raises(ConfigError, match=r"given has images of any size, .* for example --resolution 64"):
        choose_resolution(Given([b"no image"]), None)
