"""A generator as one file: every network makes the same images outside, and a file that does not is not written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline import load_generator
from pipeline.cli import main
from pipeline.commands.export import choose_format
from pipeline.errors import CheckpointError, ConfigError
from pipeline.models.sides import Resolution
from pipeline.option_types import sides_of
from pipeline.options import (
    DcganOptions,
    GanBceOptions,
    MlpOptions,
    ModelOptions,
    ResnetOptions,
    WganDcganOptions,
    WganMnistOptions,
)
from pipeline.run import export_formats
from pipeline.run.export_formats import check_same_images
from tests.trained import write_run

NETWORKS: list[tuple[ModelOptions, Resolution]] = [
    *(
        (DcganOptions(latent=8, width=4, generator_norm=norm), 9)
        for norm in ("batch", "none", "layer", "instance")
    ),
    (MlpOptions(name="mlp", latent=8, width=8, layers=1), 3),
    *((ResnetOptions(name="resnet", latent=8, width=4), side) for side in (32, 128)),
    (WganMnistOptions(name="wgan_mnist", latent=8), 8),
    (WganDcganOptions(name="wgan_dcgan", latent=8), 8),
    (GanBceOptions(name="gan_bce", latent=8), 8),
    (DcganOptions(latent=8, width=4), (9, 30)),
    (GanBceOptions(name="gan_bce", latent=8), (8, 12)),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


def write(run: Path, kind: str, *words: str) -> Path:
    path = run.parent / "out" / f"generator.{kind}"
    assert main(["export", str(run), "--format", kind, "--out", str(path), *words]) == 0
    return path


def normal(count: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(count).normal(size=(count, 8)).astype(np.float32))


def onnx_images(path: Path, latents: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return torch.from_numpy(session.run(None, {"latents": latents.numpy()})[0])


@pytest.mark.parametrize(("model", "side"), NETWORKS)
@pytest.mark.parametrize(
    "kind",
    ["safetensors", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("onnx", "program"))],
)
def test_every_network_makes_the_same_images_after_export(
    model: ModelOptions, side: Resolution, kind: str, tmp_path: Path
) -> None:
    run = write_run(tmp_path, model, side, channels=3 if isinstance(side, int) else 4)
    path = write(run, kind)
    for count in (1, 5):
        latents = normal(count)
        expected = load_generator(run).cpu().draw(latents)
        match kind:
            case "safetensors":
                found = load_generator(path).cpu().draw(latents)
            case "onnx":
                found = onnx_images(path, latents)
            case _:
                found = torch.export.load(path).module()(latents).detach()
        assert found.shape == (count, 3 if isinstance(side, int) else 4, *sides_of(side))
        assert found.std() > 0.05
        torch.testing.assert_close(found, expected, rtol=0, atol=0 if kind == "safetensors" else 1e-4)


def test_the_ending_of_the_file_names_the_format(run: Path, tmp_path: Path) -> None:
    assert main(["export", str(run), "--out", str(tmp_path / "a.SAFETENSORS")]) == 0
    assert load_generator(tmp_path / "a.SAFETENSORS").card.step == 4
    assert choose_format(None, Path("a.onnx")) == "onnx"
    assert choose_format(None, Path("a.pt2")) == "program"
    assert choose_format("program", Path("a.v2")) == "program"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--out", "a"],
            "in which format the generator is written, and this name has no ending. Name a file that",
        ),
        (
            ["--out", "a.pt"],
            "and this name ends in .pt. Name a file that ends in .safetensors, .onnx, .pt2, or add",
        ),
        (
            ["--format", "safetensors", "--out", "a.onnx"],
            "--format safetensors contradicts --out a.onnx, which is named like the format onnx. Leave --format out",
        ),
    ],
)
def test_a_format_that_is_unknown_or_contradicts_the_ending_is_refused(
    run: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), *words]) == 2
    assert message in capsys.readouterr().err


def test_exports_take_the_moving_average_last_weights_or_an_earlier_step(run: Path) -> None:
    made = [load_generator(write(run, "safetensors", *words)).card for words in ([], ["--no-ema"])]
    made.append(load_generator(write(run, "safetensors", "--checkpoint", "2")).card)
    assert [(card.weights, card.step) for card in made] == [("ema", 4), ("generator", 4), ("ema", 2)]


def test_an_exported_file_can_be_exported_again_with_the_same_card(run: Path) -> None:
    """To ONNX and to a program, which name their ends, take any batch, and carry the card too."""
    import onnx

    card = load_generator(run).card.model_dump(mode="json")
    file = write(run, "safetensors")
    model = onnx.load(write(file, "onnx"))
    (latents,), (images,) = model.graph.input, model.graph.output
    assert (latents.name, images.name) == ("latents", "images")
    assert latents.type.tensor_type.elem_type == images.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [size.dim_value for size in latents.type.tensor_type.shape.dim] == [0, 8]
    assert [size.dim_value for size in images.type.tensor_type.shape.dim] == [0, 1, 8, 8]
    inside = {entry.key: entry.value for entry in model.metadata_props}
    assert (inside["format"], json.loads(inside["card"])) == ("wgan-generator/1", card)
    extra = {"card.json": ""}
    torch.export.load(write(file, "program"), extra_files=extra)
    assert json.loads(extra["card.json"]) == card
    beside = [file.with_name(f"{file.name}.json"), *(file.parent / "out").glob("*.json")]
    assert [json.loads(path.read_text()) for path in beside] == [card] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda images: images + 3e-4,
            r"largest difference is 0\.0003 in a batch of 1, and 0\.0001 is allowed",
        ),
        (lambda images: images * torch.nan, "largest difference is nan"),
        (lambda images: images[:1], r"shape \(1, 1, 8, 8\), not \(7, 1, 8, 8\)"),
    ],
)
def test_images_that_differ_from_pytorchs_are_an_error(
    run: Path, change: export_formats.Run, message: str
) -> None:
    generator = load_generator(run).cpu()
    check_same_images(generator, lambda latents: generator(latents) + 5e-5, "It")
    with pytest.raises(ConfigError, match=rf"^It makes .*{message}.*Nothing was written"):
        check_same_images(generator, lambda latents: change(generator(latents)), "It")


@pytest.mark.parametrize("kind", ["onnx", "program"])
def test_a_file_whose_images_differ_is_not_written(
    run: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out" / f"generator.{kind}"
    path.parent.mkdir()
    path.write_text("before")
    monkeypatch.setattr(export_formats, "TOLERANCE", -1.0)
    assert main(["export", str(run), "--format", kind, "--out", str(path)]) == 2
    assert "makes other images: the largest difference is" in capsys.readouterr().err
    assert path.read_text() == "before"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "onnxscript"])
def test_without_the_packages_of_onnx_it_says_what_to_install(
    run: Path, missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["export", str(run), "--format", "onnx", "--out", str(run / "x.onnx")]) == 2
    assert f"needs {missing}, which is not installed. Install" in (message := capsys.readouterr().err)
    assert "pip install 'wgan-pipeline[onnx]'" in message


def test_weights_too_large_for_onnx_are_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export_formats, "MOST_BYTES", 1000)
    assert main(["export", str(run), "--format", "onnx", "--out", str(run / "x.onnx")]) == 2
    assert "an ONNX file holds at most 1,000. Choose --format safetensors" in capsys.readouterr().err


def test_a_path_that_cannot_be_written_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", str(run), "--format", "safetensors", "--out"]
    assert main([*words, str(run)]) == 2
    assert "is a directory, and a generator is one file" in capsys.readouterr().err
    assert main([*words, str(run / "config.yaml" / "x")]) == 7
    assert "Move away what is there" in capsys.readouterr().err


def test_an_onnx_file_is_not_loaded_here_and_the_message_says_what_is(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(run, "onnx")
    with pytest.raises(CheckpointError, match=r"onnx is named like an ONNX model, which onnxruntime runs"):
        load_generator(path)
    assert main(["sample", str(path)]) == 4
    message = capsys.readouterr().err
    assert "this package cannot load. Name the run directory, or a .safetensors file" in message
