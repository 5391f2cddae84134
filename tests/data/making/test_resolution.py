"""A source without its own resolution: all images have one size, or the user is asked for one."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.making.convert import Conversion
from pipeline.data.making.plan import plan_shards
from pipeline.data.making.resolution import ChosenSize, choose_resolution
from pipeline.data.making.writer import make_shards
from pipeline.errors import ConfigError, DataError
from tests.shards import Given, digits


def photo(height: int, width: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, format="JPEG")
    return stream.getvalue()


def test_the_given_resolution_wins_over_the_sources_own() -> None:
    assert choose_resolution(digits(), (8, 12)) == ChosenSize((8, 12))


def test_the_sources_own_resolution_is_the_default() -> None:
    assert choose_resolution(digits(), None) == ChosenSize((16, 16))


def test_images_of_one_size_keep_it_and_others_are_refused(tmp_path: Path) -> None:
    source = Given([*[photo(20, 30)] * 20, photo(20, 31)])
    size = choose_resolution(source, None)
    assert size == ChosenSize((20, 30), resizes=False)
    plan = plan_shards(source, Conversion(size.resolution, 3, resizes=size.resizes), samples_per_shard=8)
    with pytest.raises(
        DataError,
        match=r"\.\./20 cannot be used: it has 20 x 31 pixels, but the first images have 20 x 30; .*20x30",
    ):
        make_shards(plan, tmp_path)
    resized = plan_shards(source, Conversion(size.resolution, 3), samples_per_shard=8)
    assert resized.facts == plan.facts  # so that the finished shards are kept
    made = make_shards(resized, tmp_path)
    assert made is not None
    assert made.count == 21


def test_the_size_of_rotated_images_is_that_of_the_upright_ones() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    stream = io.BytesIO()
    Image.new("RGB", (30, 20)).save(stream, format="JPEG", exif=exif)
    assert choose_resolution(Given([stream.getvalue()]), None).resolution == (30, 20)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(20, 30), (40, 50), (20, 30)], r"images of given have different sizes \(20 x 30, 40 x 50\)"),
        ([(9, side) for side in range(10, 40)], r"images .* \(9 x 10, 9 x 11, 9 x 12, 9 x 13, \.\.\.\)"),
    ],
)
def test_a_missing_resolution_is_asked_for_with_the_sizes_found(
    sizes: list[tuple[int, int]], expected: str
) -> None:
    with pytest.raises(ConfigError, match=r"--resolution is missing: .*" + expected):
        choose_resolution(Given([photo(*size) for size in sizes]), None)


def test_pixels_without_a_file_have_a_size_too() -> None:
    assert choose_resolution(Given(np.zeros((1, 5, 7, 3), dtype=np.uint8)), None).resolution == (5, 7)


def test_unreadable_images_are_not_measured() -> None:
    assert choose_resolution(Given([b"no image", photo(20, 30)]), None).resolution == (20, 30)
    with pytest.raises(
        DataError,
        match=r"None of the images of given that were tried \(1\) can be used, .* \.\./0: it is not",
    ):
        choose_resolution(Given([b"no image"]), None)
