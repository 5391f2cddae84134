"""Checks before training, each by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.training.checks import square_resolution
from tests.shards import noise, write


def test_rectangles_are_refused_with_their_height_first(tmp_path: Path) -> None:
    manifest = write(noise(1), tmp_path, (10, 12))
    with pytest.raises(ConfigError, match=r"images of 10 x 12 pixels \(height x width\).*--resolution 10`"):
        square_resolution(manifest)
