"""Originals of any size and kind at training time: the pixels of the documented conversion, for each image."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pipeline
from pipeline.data.format.open_shards import open_shards
from pipeline.data.making.convert import Conversion, convert_image
from pipeline.data.originals.index_set import Wanted, index_originals
from pipeline.data.reading.reader import ShardReader
from pipeline.errors import ConfigError
from pipeline.option_data import DataOptions
from tests.configs import SMALL, mistakes
from tests.data.originals.corpus import Members, pack
from tests.image_files import encoded


def image(number: int, mode: str, kind: str, size: tuple[int, int] | None = None, **options: Any) -> bytes:
    height, width = size or (30 + 17 * (number % 3), 70 - 23 * (number % 2))
    coarse = np.random.default_rng(number).integers(0, 256, (6, 7, 4), dtype=np.uint8)
    return encoded(Image.fromarray(coarse, "RGBA").resize((width, height)).convert(mode), kind, **options)


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


MEMBERS: Members = [
    ("a.jpg", image(0, "RGB", "JPEG")),
    ("b.jpeg", image(1, "L", "JPEG", exif=turned())),
    ("c.png", image(2, "RGBA", "PNG")),
    ("d.png", image(3, "P", "PNG")),
    ("e.webp", image(4, "RGBA", "WEBP", lossless=True)),
    ("f.webp", image(5, "RGB", "WEBP")),
    ("g.jpg", image(6, "CMYK", "JPEG")),
    ("h.png", image(7, "LA", "PNG")),
    ("k.png", encoded(Image.fromarray(np.arange(60 * 50, dtype=np.uint16).reshape(60, 50) * 21), "PNG")),
    ("i.jpg", image(8, "RGB", "JPEG", size=(211, 330), exif=turned())),
]


@pytest.fixture
def originals(tmp_path: Path) -> Path:
    (tmp_path / "some.tar").write_bytes(pack(MEMBERS))
    index_originals([str(tmp_path / "some.tar")], tmp_path / "set", Wanted())
    return tmp_path


@pytest.mark.parametrize("size", [32, 64, [24, 40]])
def test_originals_have_the_pixels_that_make_would_store(originals: Path, size: Any) -> None:
    for fit, channels in product(("crop", "fit", "pad"), (1, 3, 4)):
        form = {"resolution": size, "fit": fit, "channels": channels}
        options = DataOptions.model_validate({"shards": str(originals / "set"), **form})
        height, width = size if isinstance(size, list) else (size, size)
        conversion = Conversion((height, width), channels, fit)  # type: ignore[arg-type]
        expected = np.stack([convert_image(content, conversion).pixels for _, content in MEMBERS])
        found = ShardReader(open_shards(options)).read(np.arange(len(MEMBERS)))
        assert np.array_equal(found.permute(0, 2, 3, 1).numpy(), expected), (fit, channels)


def test_originals_need_a_size_and_are_in_colour(originals: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set data\.resolution"):
        ShardReader(open_shards(DataOptions(shards=str(originals / "set"))))
    assert open_shards(DataOptions(shards=str(originals / "set"), resolution=8)).image_shape == (3, 8, 8)
    found = mistakes(tmp_path, SMALL, f"data.shards={originals}/*.tar")
    assert any("data.resolution: is required for tar files of other programs" in line for line in found)


@pytest.mark.slow
def test_a_run_trains_on_tar_files_as_they_lie(originals: Path) -> None:
    result = pipeline.train(
        {
            "name": "run",
            "run_root": str(originals),
            "data": {
                "shards": str(originals / "*.tar"),
                "resolution": [8, 12],
                "fit": "random_crop",
                "remote": {"directory": str(originals / "kept")},
            },
            "model": {"name": "mlp", "latent": 4, "width": 8},
            "schedule": {"steps": 2, "global_batch": 4, "critic_updates": 1},
            "monitor": {"plots": False},
            "runtime": {"device": "cpu"},
        }
    )
    assert result.steps == 2
    assert pipeline.load_generator(result.path).sample(1).shape == (1, 3, 8, 12)
