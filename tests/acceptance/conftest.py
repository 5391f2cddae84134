"""Here nothing uses a GPU, also where there is one: `wgan accept` itself is the test of it."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
