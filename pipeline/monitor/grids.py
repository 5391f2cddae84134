"""Images in rows as one picture, and pictures as PNG."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pipeline.durable import replacing
from pipeline.pixels import on_checkerboard, to_uint8

SMALLEST_SIDE = 32
FRAME, GREY = 2, 128
MOST_CLASSES_SHOWN = 20


class Png(NamedTuple):
    """A picture as the content of a PNG file, with its size in pixels."""

    content: bytes
    width: int
    height: int


def class_columns(classes: int) -> list[int]:
    """The class of each column of a grid, from the left: all of them, or 20 that are evenly chosen."""
    columns = min(classes, MOST_CLASSES_SHOWN)
    return [column * classes // columns for column in range(columns)]


def image_grid(images: Tensor, columns: int) -> Tensor:
    """Images in rows of `columns`, as one picture: uint8 (3, height, width) on the host.

    `images` are uint8, or float32 in [-1, 1], (count, channels, height, width) with 1, 3 or 4 channels, on any device.
    Those with alpha are on a checkerboard of grey squares.
    Small images are enlarged by a whole factor to at least 32 pixels, so that a person can see them. Between images and
    around them is a grey frame; a single image has none.
    """
    pixels = on_checkerboard(images if images.dtype == torch.uint8 else to_uint8(images))
    factor = max(1, -(-SMALLEST_SIDE // min(images.shape[-2:])))
    pixels = pixels.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    count, channels, height, width = pixels.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    frame = FRAME if count > 1 else 0
    # Not with torchvision, whose import takes seconds. Each image has its frame above and to its left.
    cells = F.pad(pixels, (frame, 0, frame, 0, 0, 0, 0, rows * columns - count), value=GREY)
    grid = cells.view(rows, columns, *cells.shape[1:]).permute(2, 0, 3, 1, 4)
    grid = grid.reshape(channels, rows * (frame + height), columns * (frame + width))
    return F.pad(grid, (0, frame, 0, frame), value=GREY).expand(3, -1, -1).cpu()


def encode_png(picture: Tensor) -> Png:
    """A uint8 (channels, height, width) picture on the host as PNG: grey if it has 1 channel, RGB if 3, RGBA if 4."""
    _, height, width = picture.shape
    pixels = picture.permute(1, 2, 0).numpy()
    image, file = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels), BytesIO()
    # Half the time of the usual level, and a tenth more bytes.
    image.save(file, format="PNG", compress_level=2)
    return Png(file.getvalue(), width, height)


def save_png(picture: Tensor, path: Path) -> None:
    """Write a uint8 (channels, height, width) picture as PNG, also if `path` has another ending.

    A write that fails leaves the file that was there before. Raises StorageError.
    """
    with replacing(path) as file:
        file.write(encode_png(picture).content)
