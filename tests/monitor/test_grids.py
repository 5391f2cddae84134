"""Images side by side in one picture."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pipeline.errors import StorageError
from pipeline.monitor.grids import encode_png, image_grid, save_png
from pipeline.pixels import to_float, to_uint8
from tests.limits import no_file_over


def levels(count: int, channels: int, side: int) -> Tensor:
    """Images of one level each: image n is at level n / (count - 1)."""
    values = torch.linspace(-1, 1, count).view(-1, 1, 1, 1)
    return values.expand(count, channels, side, side).contiguous()


@pytest.mark.parametrize(
    ("count", "columns", "side", "shape"),
    [
        (6, 3, 32, (2, 3, 32)),
        (7, 3, 32, (3, 3, 32)),
        (2, 3, 32, (1, 2, 32)),
        (4, 2, 64, (2, 2, 64)),
        (4, 2, 16, (2, 2, 32)),
        (4, 2, 28, (2, 2, 56)),
        (4, 2, 10, (2, 2, 40)),
        (4, 2, 8, (2, 2, 32)),
        (4, 2, 33, (2, 2, 33)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_stand_in_rows_with_a_grey_frame(
    count: int, columns: int, side: int, shape: tuple[int, int, int], channels: int
) -> None:
    rows, width, size = shape
    grid = image_grid(levels(count, channels, side), columns)
    assert grid.dtype == torch.uint8
    assert grid.shape == (3, rows * (size + 2) + 2, width * (size + 2) + 2)
    expected = to_uint8(torch.linspace(-1, 1, count)).tolist()
    for number in range(count):
        top, left = (2 + place * (size + 2) for place in divmod(number, columns))
        assert (grid[:, top : top + size, left : left + size] == expected[number]).all()
    for place in range(rows + 1):
        assert (grid[:, place * (size + 2) : place * (size + 2) + 2] == 128).all()


def test_small_images_are_enlarged_each_pixel_to_a_square() -> None:
    images = torch.rand(2, 1, 8, 8) * 2 - 1
    picture = image_grid(images, 2)[0, 2:34, 2:34]
    assert torch.equal(picture, to_uint8(images)[0, 0].kron(torch.ones(4, 4, dtype=torch.uint8)))


def test_the_cells_without_an_image_are_grey() -> None:
    assert (image_grid(levels(7, 1, 32), 3)[:, 2 * 34 :, 34 + 2 :] == 128).all()


def test_a_single_image_has_no_frame() -> None:
    image = torch.randint(0, 256, (1, 3, 33, 40), dtype=torch.uint8)
    assert torch.equal(image_grid(image, 4), image[0])


def test_colours_keep_their_channels() -> None:
    image = torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    assert image_grid(image, 1)[:, 10, 10].tolist() == [255, 0, 128]


def test_levels_are_rounded_and_held_in_range() -> None:
    values = torch.tensor([-1.5, -1.0, -0.998, 0.0, 0.999, 1.0, 7.0])
    assert to_uint8(values).tolist() == [0, 0, 0, 128, 255, 255, 255]


@pytest.mark.parametrize("side", [8, 33])
def test_uint8_and_float_images_give_the_same_picture(side: int) -> None:
    images = torch.randint(0, 256, (5, 3, side, side), dtype=torch.uint8)
    before = images.clone()
    assert torch.equal(image_grid(images, 2), image_grid(to_float(images), 2))
    assert torch.equal(images, before)


def test_all_256_levels_survive_the_way_to_float_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(levels)), levels)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_encoded_picture_knows_its_size(channels: int) -> None:
    png = encode_png(torch.randint(0, 256, (channels, 5, 7), dtype=torch.uint8))
    with Image.open(BytesIO(png.content)) as image:
        assert image.size == (png.width, png.height) == (7, 5)


def test_making_a_picture_leaves_the_images_alone() -> None:
    images = levels(4, 1, 16)
    before = images.clone()
    image_grid(images, 2)
    assert torch.equal(images, before)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_picture_is_saved_as_it_is(tmp_path: Path, channels: int, mode: str) -> None:
    picture = torch.randint(0, 256, (channels, 5, 7), dtype=torch.uint8)
    save_png(picture, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as image:
        assert (image.mode, image.size) == (mode, (7, 5))
        assert np.array_equal(np.asarray(image), picture.permute(1, 2, 0).squeeze(2).numpy())


def test_a_picture_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    save_png(torch.zeros(3, 5, 7, dtype=torch.uint8), path)
    before = path.read_bytes()
    noise = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    too_large = pytest.raises(StorageError, match=r"picture\.png cannot be written: File too large")
    with no_file_over(100), too_large:
        save_png(noise, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
