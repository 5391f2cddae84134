"""Commands on a generator that makes images of classes: what they draw, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import load_generator
from pipeline.cli import main
from pipeline.options import DcganOptions
from tests.trained import write_run

CLASSES = ("cat", "dog", "0", "fox")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = DcganOptions(latent=8, width=4, conditional=True)
    return write_run(tmp_path_factory.mktemp("runs"), model, classes=CLASSES)


def labels(run: Path, out: Path, *words: str) -> list[int]:
    """The labels of images that the command draws, which are those of the API."""
    assert main(["sample", str(run), "--npz", "--count", "6", "--out", str(out), *words]) == 0
    with np.load(out, allow_pickle=False) as content:
        generator = load_generator(run)
        expected = generator.draw(torch.from_numpy(content["latents"]), torch.from_numpy(content["labels"]))
        found = content["images"].transpose(0, 3, 1, 2) / 127.5 - 1
        np.testing.assert_allclose(found, expected, atol=1 / 127)
        return content["labels"].tolist()


def test_images_are_of_the_classes_in_turn(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.npz"
    assert labels(run, out) == [0, 1, 2, 3, 0, 1]
    assert labels(run, out, "--class", "fox", "--class", "cat") == [3, 0] * 3
    # A name comes before a number.
    assert labels(run, out, "--class", "0") == [2] * 6
    assert labels(run, out, "--class", "1") == [1] * 6


def test_a_grid_has_a_column_for_each_class(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.png"
    for words, columns, rows in (([], 4, 5), (["--class", "fox"], 5, 4)):
        assert main(["sample", str(run), "--count", "20", "--out", str(out), *words]) == 0
        assert Image.open(out).size == (columns * 34 + 2, rows * 34 + 2)
    assert main(["sample", str(run), "--class", "fox", "--class", "cat", "--count", "4"]) == 0
    assert (run / "samples" / "step_00000004-ema-seed0-class3,0.png").is_file()


def test_unknown_classes_are_answered_with_the_known_ones(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", str(run), "--class", "wolf"]) == 2
    assert "class wolf: the generator knows no such class. It knows cat, dog, 0, fox, or 0 to 3" in (
        capsys.readouterr().err
    )
    assert main(["sample", str(write_run(tmp_path)), "--class", "4"]) == 2
    assert (
        "The generator has no classes: it was not trained with model.conditional" in capsys.readouterr().err
    )


def test_an_exported_file_keeps_the_classes(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    assert main(["export", str(run), "--out", str(out)]) == 0
    ours, theirs = load_generator(run), load_generator(out)
    assert theirs.classes == list(CLASSES)
    assert torch.equal(ours.sample(3, classes=["fox"]), theirs.sample(3, classes=["fox"]))


@pytest.mark.parametrize(
    ("words", "name", "message"),
    [
        (["interpolate"], "x.png", "Draw images of a class with `wgan sample RUN --class NAME`"),
        (["export", "--format", "program"], "x.pt2", "Choose --format safetensors"),
    ],
)
def test_what_draws_from_latents_alone_refuses_classes(
    words: list[str], name: str, message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *others = words
    assert main([command, str(run), *others, "--out", str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
