"""A real browser, and a real run to look at with it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.trained import train

NAMES = ("chromium", "chromium-browser", "google-chrome")
# TensorBoard's page takes seconds to start on a busy machine.
expect.set_options(timeout=20_000)

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium without a window. It ends before the tests of other directories, whose event loops it would bar."""
    executable = next((found for name in NAMES if (found := shutil.which(name))), None)
    if executable is None:
        pytest.skip("no Chromium on this machine: install it (on Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="package")
def trained(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 steps with grids at steps 10 and 20."""
    return train(tmp_path_factory.mktemp("runs"), digits, ["monitor.sample_every=10"])
