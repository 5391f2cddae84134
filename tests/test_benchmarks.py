"""The benchmarks of the data path run to their end on small sets, and print what they say. Nothing is timed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.shards import digits, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """300 JPEG files of 32 x 32 in two class folders."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        file = tmp_path / "images" / ("odd" if number % 2 else "even") / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return tmp_path / "images"


def run(*words: object) -> str:
    command = [sys.executable, *map(str, words)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_readers_are_measured_on_three_sets(folder: Path, tmp_path: Path) -> None:
    write(digits(), tmp_path / "mnist", 28, 1, 500)
    sets = ("--cifar", folder, "--mnist", tmp_path / "mnist", "--work", tmp_path)
    printed = run("benchmarks/loader.py", *sets, "--rounds", 1, "--seconds", 0.01)
    assert re.findall(r"^### (.*): ", printed, re.MULTILINE) == ["MNIST", "CIFAR-10", "256 pixels"]
    assert len(re.findall(r"^\| plain webdataset.* \| [\d,]+ \| 1\.0 \|$", printed, re.MULTILINE)) == 3
    assert printed.count("first batch at 90% of an epoch") == 6


def test_conversion_is_measured_beside_a_loop(folder: Path) -> None:
    printed = run("benchmarks/conversion.py", "--folder", folder, "--count", 100, "--rounds", 1)
    assert len(re.findall(r"^\| .* \| [\d,]+ \| [\d.]+ \| [\d.]+ \|$", printed, re.MULTILINE)) == 4


def test_the_memory_of_a_shared_cache_does_not_grow_with_the_ranks(tmp_path: Path) -> None:
    write(digits(), tmp_path / "set", 64, 3, 500)
    printed = run("benchmarks/shared_cache.py", "--shards", tmp_path / "set", "--ranks", 1, 2)
    sizes = [float(size) for size in re.findall(r"^\| \d \| ([\d.]+) \|", printed, re.MULTILINE)]
    decoded = 1797 * 64 * 64 * 3 / 2**20
    assert sizes[1] == pytest.approx(decoded, rel=0.1)
    assert sizes[0] >= 0.9 * decoded


def test_the_images_that_runs_are_judged_by_are_those_of_the_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend("benchmarks")
    from image_sets import read_shards

    write(digits(), tmp_path / "set", 8, 1, 500)
    images, labels, classes = read_shards(tmp_path / "set")
    source = digits()
    assert (images.shape, images.is_contiguous(), len(classes)) == ((1797, 1, 8, 8), True, 10)
    assert labels.tolist() == [source.label(position) for position in range(1797)]
