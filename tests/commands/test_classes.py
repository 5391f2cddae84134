"""Commands on a generator that makes images of classes: what they draw, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import load_generator
from pipeline.cli import main
from pipeline.models import class_inputs
from pipeline.options import DcganOptions, MlpOptions, ModelOptions, R3ganOptions, ResnetOptions
from pipeline.pixels import to_uint8
from pipeline.run.generator import Card
from pipeline.run.latents import class_shares_at, latents_at, latents_of_seeds, strip_places
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


@pytest.mark.parametrize("kind", ["onnx", "program"])
@pytest.mark.parametrize(
    "model",
    [
        DcganOptions(latent=8, width=4, conditional=True),
        MlpOptions(name="mlp", latent=8, width=8, layers=1, conditional=True),
        pytest.param(
            ResnetOptions(name="resnet", latent=8, width=4, conditional=True), marks=pytest.mark.slow
        ),
        pytest.param(
            R3ganOptions(name="r3gan", latent=8, width=16, conditional=True), marks=pytest.mark.slow
        ),
    ],
    ids=lambda model: model.name,
)
def test_other_runtimes_take_latents_and_labels(model: ModelOptions, kind: str, tmp_path: Path) -> None:
    side = 32 if model.name in ("resnet", "r3gan") else 8
    run, out = write_run(tmp_path, model, side, classes=CLASSES), tmp_path / f"x.{kind}"
    assert main(["export", str(run), "--format", kind, "--out", str(out)]) == 0
    card = json.loads((tmp_path / f"x.{kind}.json").read_text())
    assert (card["inputs"], card["classes"]) == (["latents", "labels"], list(CLASSES))
    latents, labels = torch.randn(5, 8, generator=torch.Generator().manual_seed(1)), torch.arange(5) % 4
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(out)
        inputs = {"latents": latents.numpy(), "labels": labels.numpy()}
        found = torch.from_numpy(session.run(["images"], inputs)[0])
    else:
        found = torch.export.load(out).module()(latents, labels).detach()
    expected = load_generator(run).cpu().draw(latents, labels)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    others = load_generator(run).cpu().draw(latents, labels.roll(1))
    assert (found - others).abs().max() > 0.01


def test_a_card_says_what_the_generator_takes(run: Path) -> None:
    card = load_generator(run).card
    without = card.model_dump(exclude={"inputs"})
    assert Card.model_validate(without) == card
    with pytest.raises(ValueError, match="4 classes, but inputs latents"):
        Card.model_validate({**without, "inputs": ["latents"]})


def strip(run: Path, out: Path, *words: str) -> np.ndarray:
    """The images of an interpolation: uint8 (rows, positions, 32, 32)."""
    assert main(["interpolate", str(run), "--positions", "5", "--out", str(out), *words]) == 0
    grid = np.asarray(Image.open(out))[2:, 2:].reshape(-1, 34, 5, 34, 3)
    return grid.swapaxes(1, 2)[..., :32, :32, 0]


def as_drawn(images: torch.Tensor) -> np.ndarray:
    return to_uint8(images).cpu().numpy()[:, 0].repeat(4, 1).repeat(4, 2)


def test_a_way_within_a_class_keeps_its_label(run: Path, tmp_path: Path) -> None:
    found = strip(run, tmp_path / "x.png", "--class", "fox", "--seeds", "0-2")
    generator = load_generator(run)
    stops = torch.cat(list(latents_of_seeds(8, [0, 1, 2])))
    expected = generator.draw(latents_at(stops, strip_places(3, 5)), torch.full((15,), 3))
    np.testing.assert_array_equal(found.reshape(15, 32, 32), as_drawn(expected))
    assert main(["interpolate", str(run), "--class", "fox", "--class", "cat"]) == 0
    assert (run / "samples" / "step_00000004-ema-interpolation-seeds0-7-class3,0.png").is_file()


@pytest.mark.parametrize("name", ["dcgan", "mlp"])
def test_a_way_between_classes_starts_and_ends_at_them(name: str, tmp_path: Path) -> None:
    models: dict[str, ModelOptions] = {
        "dcgan": DcganOptions(latent=8, width=4, conditional=True),
        "mlp": MlpOptions(name="mlp", latent=8, width=8, layers=1, conditional=True),
    }
    run = write_run(tmp_path, models[name], classes=CLASSES)
    words = ["--class", "cat", "--class", "fox", "--seeds", "4,5"]
    found = strip(run, tmp_path / "x.png", *words)
    generator = load_generator(run)
    ends = generator.draw(torch.cat(list(latents_of_seeds(8, [4, 5]))), torch.tensor([0, 3]))
    for row, first in enumerate((0, 1)):
        pair = as_drawn(ends)[[first, 1 - first]].astype(int)
        # Sums of a matrix product may be rounded otherwise than a lookup.
        assert abs(found[row][[0, 4]] - pair).max() <= 1
    film = tmp_path / "x.gif"
    words = [*words, "--animation", str(film), "--seconds", "0.4", "--out", str(tmp_path / "y.png")]
    assert main(["interpolate", str(run), *words]) == 0
    assert film.is_file()


def test_between_classes_their_shares_change_linearly(run: Path) -> None:
    shares = class_shares_at(torch.tensor([0, 3]), 4, torch.tensor([0, 0.25, 1, 1.5, 2]).double())
    expected = [[1, 0, 0, 0], [0.75, 0, 0, 0.25], [0, 0, 0, 1], [0.5, 0, 0, 0.5], [1, 0, 0, 0]]
    assert shares.tolist() == expected
    generator = load_generator(run)
    latents = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(4)
    torch.testing.assert_close(
        generator.draw(latents, torch.eye(4)), generator.draw(latents, labels), rtol=0, atol=1e-5
    )


def test_a_network_without_vectors_of_classes_has_no_way_between_them(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(class_inputs, "can_mix_classes", lambda _: False)
    assert main(["interpolate", str(run), "--seeds", "0,1"]) == 2
    assert "nothing between two classes. Name one of them with --class" in capsys.readouterr().err
    assert main(["interpolate", str(run), "--seeds", "0,1", "--class", "cat"]) == 0
