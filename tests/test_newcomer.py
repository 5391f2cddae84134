"""The walk of a new user: a messy folder, the commands of the README in their order, and each error's own advice."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pipeline.cli import main
from tests.image_files import encoded, noise

Walk = Callable[..., list[str]]

SMALL = (
    "model.width=8",
    "schedule.global_batch=16",
    "runtime.device=cpu",
    "runtime.threads=1",
    "checkpoint.every=6",
)
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 12345\n"


def fill(photos: Path) -> None:
    """Photos of many sizes and formats, with what else lies in such folders, and three that cannot be used."""
    for name, red in (("Cats & kittens", 0), ("dogs", 200)):
        (photos / name).mkdir(parents=True)
        for number in range(30):
            kind, ending = (("JPEG", "jpg"), ("JPEG", "JPEG"), ("PNG", "png"), ("WEBP", "webp"))[number % 4]
            pixels = noise(40 + number, 64 - number, 3)
            pixels[..., 0] = red
            path = photos / name / f"IMG_{number:03}.edit.{ending}"
            path.write_bytes(encoded(Image.fromarray(pixels), kind))
    (photos / "README.md").write_text("mine")
    (photos / ".DS_Store").write_bytes(b"\0")
    (photos / "dogs/Thumbs.db").write_bytes(b"\0")
    whole = (photos / "dogs/IMG_000.edit.jpg").read_bytes()
    (photos / "dogs/broken.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "dogs/empty.png").write_bytes(b"")
    (photos / "dogs/not fetched.png").write_text(POINTER)


@pytest.fixture
def walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Walk:
    """Runs a command in an empty directory, expects an exit code, and returns the lines on the console."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str, code: int = 0) -> list[str]:
        found = main(list(words))
        printed = capfd.readouterr()
        console = printed.out + printed.err
        assert found == code, console
        assert "Traceback" not in console
        assert "\x1b" not in console
        lines = console.splitlines()
        if code == 0:
            assert not printed.err, "what works has nothing to say on standard error"
        else:
            assert [line.startswith(f"error (exit {code}): ") for line in lines].count(True) == 1
        return lines

    return run


@pytest.mark.slow
def test_a_messy_folder_becomes_a_trained_generator_and_a_report(walk: Walk, tmp_path: Path) -> None:
    fill(tmp_path / "my photos")
    make = ("shards", "make", "my photos", "data/photos")

    refused = walk(*make, code=2)
    assert "have different sizes" in refused[-1]
    assert "for example --resolution 64" in refused[-1]
    refused = walk(*make, "--resolution", "32", code=3)
    assert re.search(r"dogs/(broken\.jpg|empty\.png|not fetched\.png) cannot be used", refused[-1])
    assert "--skip-bad all" in refused[-1]
    assert not (tmp_path / "data/photos/manifest.json").exists()
    made = walk(*make, "--resolution", "32", "--skip-bad", "all")
    assert made[0].startswith("made data/photos: 60 images of 32 x 32 in colour, 2 classes, 1 shard")
    assert made[1:] == [
        "next: wgan shards show data/photos",
        "labels: from the folders Cats & kittens, dogs",
        "left out: 3 images that cannot be used (see data/photos/bad-images.txt); "
        "2 files of other kinds (1 .md, 1 .db), for example README.md; 1 hidden file (.DS_Store)",
    ]
    listed = (tmp_path / "data/photos/bad-images.txt").read_text()
    assert {line.split("\t")[0] for line in listed.splitlines()} == {
        f"dogs/{name}" for name in ("broken.jpg", "empty.png", "not fetched.png")
    }
    assert "empty.png\tit is empty" in listed
    assert "not fetched.png\tit is a Git LFS pointer" in listed
    assert walk("shards", "check", "data/photos")[0].startswith("data/photos is valid: 60 images")
    assert walk("shards", "show", "data/photos")[0].startswith("drew photos.png: ")

    (again,) = (
        line for line in walk(*make, "--resolution", "32", "--skip-bad", "all") if "nothing to do" in line
    )
    assert again == "data/photos is already complete: nothing to do (--overwrite makes it again)"

    assert "unknown option" in walk("train", "photos", "schedule.epochs=3", code=2)[-1]
    # The bar and lines of training go to standard error, where a terminal or a log file shows them.
    assert main(["train", "photos", "schedule.steps=12", "monitor.sample_every=6", *SMALL]) == 0
    assert main(["train", "runs/photos", "schedule.steps=14"]) == 0

    assert "Did you mean runs/photos?" in walk("sample", "photos", code=2)[-1]
    (sampled,) = walk("sample", "runs/photos", "--count", "9")
    evaluated = walk("evaluate", "runs/photos", "--samples", "128")
    assert evaluated[-1] == "recorded in runs/photos/evaluations.jsonl"
    drawn = walk("plot", "runs/photos")
    (exported,) = walk("export", "runs/photos", "--out", "photos.safetensors")
    (reported,) = walk("report", "runs/photos")
    for line in (sampled, *drawn, exported, reported):
        name = re.sub(r" \(\d+ kB\)$", "", line).split(": ")[-1]
        assert os.path.getsize(name) > 1000, line  # noqa: PTH202
    assert "other options, so it cannot be resumed" in " ".join(
        walk("train", "photos", *SMALL, "model.width=16", code=4)
    )
