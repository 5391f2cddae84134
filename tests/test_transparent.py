"""Transparent sprites through everything: shards, training, figures, samples and exports keep or show their alpha."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pipeline
from pipeline.cli import main
from pipeline.commands.film import write_animation
from pipeline.monitor.grids import encode_png, image_grid
from pipeline.pixels import CHECKS, on_checkerboard, on_white
from tests import shards


def sprites(folder: Path, count: int = 24) -> Path:
    """Discs of one colour on nothing, under which the files hold white."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:20, :28]
    for number in range(count):
        pixels = np.full((20, 28, 4), (255, 255, 255, 0), np.uint8)
        disc = (rows - rng.integers(6, 14)) ** 2 + (columns - rng.integers(8, 20)) ** 2 < 30
        pixels[disc] = (*rng.integers(0, 256, 3), 255)
        Image.fromarray(pixels, "RGBA").save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("transparent")
    words = ["shards", "make", str(sprites(place / "sprites")), str(place / "data")]
    assert main([*words, "--channels", "4", "--resolution", "10x14", "--workers", "1"]) == 0
    return place / "data"


def test_shards_hold_alpha_and_are_checked_shown_and_counted(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = shards.reader(made).read(np.arange(24))
    assert images.shape == (24, 4, 10, 14)
    alpha = images[:, 3:]
    assert ((alpha == 0) | (alpha == 255)).float().mean() > 0.5
    assert (images[:, :3] * (alpha == 0)).sum() == 0
    for words in (
        ["check", str(made)],
        ["show", str(made), "--out", str(tmp_path / "sheet.png")],
        ["stats", str(made)],
    ):
        assert main(["shards", *words]) == 0
    output = capsys.readouterr().out
    assert "24 images of 10 x 14 in colour with alpha" in output
    assert "alpha" in output.split("blue")[-1]


@pytest.mark.slow
def test_a_run_on_sprites_is_measured_on_white_and_draws_sprites(made: Path, tmp_path: Path) -> None:
    result = pipeline.train(
        {
            "name": "run",
            "run_root": str(tmp_path),
            "data": {"shards": str(made), "channels": 4},
            "model": {"name": "dcgan", "latent": 4, "width": 4},
            "schedule": {"steps": 2, "global_batch": 4, "critic_updates": 1},
            "monitor": {"sample_every": 1, "log_every": 1, "plots": False},
            "quality": {"every": 2, "metrics": ["fid", "swd"], "samples": 128},
            "runtime": {"device": "cpu"},
        }
    )
    assert result.metrics["quality/fid_pixels2"] > 0
    (grid, *_) = (result.path / "samples").glob("*.png")
    assert Image.open(grid).mode == "RGB"
    out = tmp_path / "out"
    assert main(["sample", str(result.path), "--files", "--count", "3", "--out", str(out)]) == 0
    assert {Image.open(path).mode for path in out.iterdir()} == {"RGBA"}
    assert main(["sample", str(result.path), "--npz", "--count", "3", "--out", str(tmp_path / "a.npz")]) == 0
    with np.load(tmp_path / "a.npz") as arrays:
        assert arrays["images"].shape == (3, 10, 14, 4)
    assert main(["evaluate", str(result.path), "--samples", "128", "--metrics", "fid"]) == 0
    (line,) = (result.path / "evaluations.jsonl").read_text().splitlines()
    assert json.loads(line)["metrics"]["fid"] == pytest.approx(
        result.metrics["quality/fid_pixels2"], rel=1e-4
    )


def test_pictures_without_alpha_stay_and_others_get_a_background() -> None:
    plain = torch.randint(0, 256, (2, 3, 8, 9), dtype=torch.uint8)
    assert on_white(plain) is plain
    assert on_checkerboard(plain) is plain
    clear = torch.cat([plain, torch.zeros(2, 1, 8, 9, dtype=torch.uint8)], 1)
    opaque = torch.cat([plain, torch.full((2, 1, 8, 9), 255, dtype=torch.uint8)], 1)
    half = torch.cat([plain, torch.full((2, 1, 8, 9), 51, dtype=torch.uint8)], 1)
    assert (on_white(clear) == 255).all()
    assert torch.equal(on_white(opaque), plain)
    assert torch.equal(on_white(half), (plain.float() * 0.2 + 255 * 0.8).add(0.498).floor().byte())
    checks = on_checkerboard(clear)
    assert set(checks.unique().tolist()) == set(CHECKS)
    assert (checks[..., :8, :8] == CHECKS[0]).all()


def test_grids_and_animations_show_alpha_as_a_checkerboard(tmp_path: Path) -> None:
    clear = torch.full((4, 4, 32, 40), -1.0)
    grid = image_grid(clear, 2)
    assert grid.shape == (3, 2 * 34 + 2, 2 * 42 + 2)
    assert set(grid.unique().tolist()) == {128, *CHECKS}
    assert Image.open(BytesIO(encode_png(grid[:1].expand(4, -1, -1)).content)).mode == "RGBA"
    write_animation(torch.zeros(3, 4, 8, 8, dtype=torch.uint8), tmp_path / "a.gif")
    frame = Image.open(tmp_path / "a.gif").convert("L")
    assert abs(frame.getpixel((0, 0)) - CHECKS[0]) < 4  # type: ignore[operator]
