"""What a resumed run may change of the shape of its images: how it comes about, and not the shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.data.format.open_shards import open_shards
from pipeline.options import Config
from pipeline.training.identity import identity_of
from tests import shards


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    shards.write(shards.noise(8, 16), tmp_path, 16)
    return tmp_path


def identity(photos: Path, **form: Any) -> dict[str, Any]:
    config = Config.model_validate(
        {"name": "run", "data": {"shards": str(photos), **form}, "schedule": {"steps": 1}}
    )
    return identity_of(config, open_shards(config.data), "float32")


def test_the_shape_is_compared_however_it_comes_about(photos: Path) -> None:
    stored = identity(photos)
    assert stored["images"] == [3, 16, 16]
    assert identity(photos, resolution=16, channels=3) == identity(photos, resolution=[16, 16]) == stored
    small = identity(photos, resolution=[8, 12], channels=4)
    assert small == {**stored, "images": [4, 8, 12]}
    assert identity(photos, resolution=[8, 12], channels=4, fit="pad") == {**small, "data.fit": "pad"}
