"""Trained generators in two lines: from a run, a checkpoint or a file; and what is never read."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline import load_generator
from pipeline.cli import main
from pipeline.errors import CheckpointError, ConfigError, PipelineError
from pipeline.exact_arithmetic import arithmetic_given_back
from pipeline.run.generator import generate
from pipeline.run.initial_weights import read_weights
from tests.trained import MANIFEST, newest, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


@pytest.fixture
def exported(run: Path, tmp_path: Path) -> Path:
    """The moving average of the run's newest checkpoint."""
    path = tmp_path / "generator.safetensors"
    assert main(["export", str(run), "--format", "safetensors", "--out", str(path)]) == 0
    return path


def with_metadata(source: Path, target: Path, **changes: str) -> Path:
    """A copy of an exported file whose metadata says something else."""
    with safetensors.safe_open(source, "pt") as file:
        metadata = {**file.metadata(), **changes}
    safetensors.torch.save_file(safetensors.torch.load_file(source), target, metadata)
    return target


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, pipeline; print(callable(pipeline.load_generator), 'torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "True False\n"


def test_a_run_a_checkpoint_a_moved_one_and_a_file_draw_the_same_images(
    run: Path, exported: Path, tmp_path: Path
) -> None:
    expected = load_generator(str(run)).sample(3, seed=5)
    assert (expected.shape, expected.dtype) == ((3, 1, 8, 8), torch.float32)
    assert expected.abs().max() <= 1
    assert expected.std() > 0.05
    assert torch.equal(load_generator(newest(run)).sample(3, seed=5), expected)
    assert torch.equal(load_generator(exported).sample(3, seed=5), expected)
    assert torch.equal(
        load_generator(newest(run).rename(tmp_path / "step_00000004")).sample(3, seed=5), expected
    )


def test_steps_and_kinds_of_weights_are_told_apart(run: Path) -> None:
    chosen = [load_generator(run), load_generator(run, 2), load_generator(run, use_ema=False)]
    assert [(g.card.step, g.card.weights) for g in chosen] == [(4, "ema"), (2, "ema"), (4, "generator")]
    assert len({generator.sample(1).sum().item() for generator in chosen}) == 3


def test_a_generator_is_called_on_latents_and_gives_them_gradients(run: Path) -> None:
    generator = load_generator(run)
    latents = torch.zeros(2, generator.latent, requires_grad=True)
    images = generator(latents)
    assert images.shape == (2, 1, 8, 8)
    images.square().sum().backward()
    assert latents.grad is not None
    assert latents.grad.abs().sum() > 0


def test_samples_need_no_gradient_and_truncation_changes_them(run: Path) -> None:
    generator = load_generator(run)
    assert not generator.sample(1).requires_grad
    assert not torch.equal(generator.sample(4, truncation=0.5), generator.sample(4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "at least one image"),
        ({"count": 1, "seed": -1}, "seed -1: a seed is a whole number"),
        ({"count": 1, "truncation": 0.0}, "truncation 0.0: expected a number from 0.000001 to 1,000"),
        ({"count": "3"}, "count '3': at least one image must be drawn. Give a whole number, 1 or more"),
        ({"count": 2.5}, "count 2.5: at least one image must be drawn"),
        ({"count": 1, "seed": "x"}, "seed 'x': a seed is a whole number"),
        ({"count": 1, "truncation": "x"}, "truncation 'x': expected a number from 0.000001 to 1,000"),
    ],
)
def test_samples_that_cannot_be_drawn_are_refused(run: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_generator(run).sample(**arguments)


def test_the_card_says_where_a_generator_comes_from_and_is_a_file_too(exported: Path) -> None:
    card = load_generator(exported).card
    assert (card.format, card.run, card.step, card.weights) == ("wgan-generator/1", "run", 4, "ema")
    assert (card.latent, card.image_shape, card.value_range) == (8, (1, 8, 8), (-1.0, 1.0))
    assert (card.manifest, card.training, card.model.name) == (MANIFEST, {"seed": 0}, "dcgan")
    beside = json.loads(exported.with_name("generator.safetensors.json").read_text())
    assert beside == card.model_dump(mode="json")


def test_the_card_of_a_checkpoint_is_that_of_its_run(run: Path) -> None:
    assert load_generator(newest(run)).card == load_generator(run).card


class Payload:
    """What a stranger may put into a pickle: reading it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt", "x.pth", "x.pkl", "x.pt2"])
@pytest.mark.parametrize("is_zip", [False, True])
def test_a_pickle_is_never_run_whatever_its_name(tmp_path: Path, name: str, is_zip: bool) -> None:
    path, mark = tmp_path / name, tmp_path / "mark"
    if is_zip:
        torch.save(Payload(mark), path)
        torch.load(io.BytesIO(path.read_bytes()), weights_only=False)
    else:
        path.write_bytes(pickle.dumps(Payload(mark)))
        pickle.loads(path.read_bytes())
    assert mark.exists(), "the payload is live"
    mark.unlink()
    with pytest.raises(CheckpointError, match=r"cannot be read as safetensors .* can run code when they are"):
        load_generator(path)
    for words in (
        ["sample"],
        ["interpolate"],
        ["export", "--format", "onnx", "--out", str(tmp_path / "out")],
    ):
        assert main([words[0], str(path), *words[1:]]) == 4
    with pytest.raises(CheckpointError, match=r"init_from\.generator: .*cannot be read as safetensors"):
        read_weights(path, "generator")
    assert list(tmp_path.iterdir()) == [path]


def test_tensors_without_a_card_are_refused(run: Path) -> None:
    with pytest.raises(CheckpointError, match=r"its format is None, not 'wgan-generator/1'\. Name the run"):
        load_generator(newest(run) / "generator.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent": -1, "model": 3}, "damaged card: latent|damaged card: model"),
        (
            {"image_shape": [1, 100000, 100000]},
            r"damaged card: image_shape\[1\] is 100000: .* less than or equal to 4096",
        ),
        ({"run": None}, "damaged card: run is None: input should be"),
        ({"surprise": 1}, "damaged card: surprise is 1: extra"),
        ({"image_shape": [1, 16, 16]}, r"belongs to other networks.*\n.*ema/layers"),
        ({"latent": 9}, r"damaged card: .*latent 9.*8"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(
    exported: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    card = json.loads(exported.with_name("generator.safetensors.json").read_text())
    changed = with_metadata(exported, tmp_path / "x.safetensors", card=json.dumps({**card, **change}))
    with pytest.raises(CheckpointError, match=message):
        load_generator(changed)


def test_a_huge_network_is_refused_before_it_takes_memory(exported: Path, tmp_path: Path) -> None:
    """128 hidden layers of 2^28 weights each would be 64 GB."""
    card = json.loads(exported.with_name("generator.safetensors.json").read_text())
    card["model"] = {"name": "mlp", "width": 16384, "layers": 64, "latent": 8}
    changed = with_metadata(exported, tmp_path / "x.safetensors", card=json.dumps(card))
    with pytest.raises(CheckpointError, match="belongs to other networks"):
        load_generator(changed)


@pytest.mark.parametrize("content", [b"", b"{}", b"\x08\0\0\0\0\0\0\0{}      ", b"\xff" * 64])
def test_a_file_that_is_cut_or_damaged_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        load_generator(path)


@pytest.mark.parametrize(
    ("path", "arguments", "message"),
    [
        ("absent", {}, r"absent is not a run directory: it has no config\.yaml.*or a \.safetensors file"),
        ("run/checkpoints", {}, r"checkpoints is not a run directory: it has no config\.yaml"),
        ("run", {"checkpoint": 3}, "has no checkpoint of step 3; it has 2, 4"),
        ("run", {"checkpoint": "best"}, r"run has no best checkpoint\. Train with quality\.every and"),
        (
            "run/checkpoints/step_00000004",
            {"checkpoint": 2},
            "is not a run directory, so there is no checkpoint 2",
        ),
        ("generator.safetensors", {"checkpoint": "best"}, "so there is no checkpoint best to choose"),
        ("generator.safetensors", {"use_ema": False}, "has only the moving average of the weights, and not"),
    ],
)
def test_what_cannot_be_loaded_is_reported(
    run: Path, exported: Path, path: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(PipelineError, match=message) as caught:
        load_generator(run.parent / path, **arguments)
    # A caller from Python has no flags; those of a command to run are meant.
    assert "--" not in re.sub("`wgan [^`]*`", "", str(caught.value))


@pytest.mark.parametrize("path", [5, None, b"run"])
def test_a_path_of_a_wrong_type_is_refused_with_what_it_may_be(path: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"of type \w+\. Give the path of a run's directory, of a checkpoint or"
    ):
        load_generator(path)


def test_a_damaged_checkpoint_is_skipped_in_a_run_and_refused_by_name(run: Path) -> None:
    file = newest(run) / "ema.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    assert load_generator(run).card.step == 2
    with pytest.raises(CheckpointError, match=r"ema\.safetensors has changed.*Choose another checkpoint"):
        load_generator(newest(run))


def test_training_can_start_from_an_exported_generator(exported: Path) -> None:
    path, tensors, images = read_weights(exported, "generator")
    assert images == (1, 8, 8)
    expected = load_generator(exported).network.state_dict()
    assert path == exported
    assert tensors.keys() == expected.keys()
    assert all(np.array_equal(tensors[name], expected[name].cpu()) for name in expected)
    with pytest.raises(
        CheckpointError, match=r"init_from\.critic: .* is an exported generator, which has no critic"
    ):
        read_weights(exported, "critic")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.width", 1, "width is 1"),
        ("model." + "a." * 5000, 1, "extra inputs are not permitted"),
    ],
    ids=["too narrow", "very deep"],
)
def test_a_checkpoint_of_a_network_that_cannot_be_is_refused(
    run: Path, key: str, value: object, message: str
) -> None:
    state = json.loads((newest(run) / "state.json").read_text())
    state["identity"][key] = value
    content = json.dumps(state).encode()
    (newest(run) / "state.json").write_bytes(content)
    manifest = json.loads((newest(run) / "manifest.json").read_text())
    manifest["files"]["state.json"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (newest(run) / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=rf"describes a network that this version.*{message}"):
        load_generator(newest(run))


def test_samples_are_never_computed_in_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Network(nn.Module):
        def forward(self, latents: Tensor) -> Tensor:
            cudnn = torch.backends.cudnn
            seen.append((cudnn.allow_tf32, cudnn.deterministic, torch.get_float32_matmul_precision()))
            return latents

    def settings() -> tuple[bool, bool, str]:
        cudnn = torch.backends.cudnn
        return cudnn.allow_tf32, cudnn.deterministic, torch.get_float32_matmul_precision()

    with arithmetic_given_back():
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("high")
        before = settings()
        generate(Network(), torch.zeros(3, 2))
        assert settings() == before
    assert seen == [(False, True, "highest")]
