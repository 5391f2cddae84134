"""A run on labels that starts from the weights of one without: what is taken, what is new, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.errors import CheckpointError, ConfigError
from pipeline.models import build_critic, build_generator
from pipeline.options import (
    DcganOptions,
    InitOptions,
    MlpOptions,
    ModelOptions,
    R3ganOptions,
    ResnetOptions,
)
from pipeline.run.initial_weights import load_initial_weights
from tests.trained import lively

CLASSES = 3
NETWORKS: list[tuple[ModelOptions, int]] = [
    (DcganOptions(latent=8, width=4), 8),
    (DcganOptions(latent=8, width=4, generator_norm="none", critic_norm="layer", spectral_norm=True), 8),
    (MlpOptions(name="mlp", latent=8, width=8, layers=2), 8),
    (ResnetOptions(name="resnet", latent=8, width=4), 32),
    (R3ganOptions(name="r3gan", latent=8, width=16), 32),
]


def save(root: Path, network: nn.Module, name: str) -> str:
    path = root / f"{name}.safetensors"
    safetensors.torch.save_file(
        {key: value.contiguous() for key, value in network.state_dict().items()}, path
    )
    return str(path)


def start(
    root: Path, model: ModelOptions, side: int, **changes: object
) -> tuple[nn.Module, nn.Module, list[str]]:
    """Conditional networks that start from others of these options, saved in `root`."""
    before = [lively(build(model, side, 1)) for build in (build_generator, build_critic)]
    paths = [save(root, network, name) for network, name in zip(before, ("g", "c"), strict=True)]
    generator, critic = (build(model, side, 1, CLASSES) for build in (build_generator, build_critic))
    options = InitOptions.model_validate({"generator": paths[0], "critic": paths[1], **changes})
    return generator, critic, load_initial_weights(options, generator, critic, (1, side, side))


@pytest.mark.parametrize(("model", "side"), NETWORKS, ids=lambda value: getattr(value, "name", str(value)))
def test_at_the_start_every_class_gives_the_images_of_the_run_before(
    model: ModelOptions, side: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    generator, critic, lines = start(tmp_path, model, side)
    before = build_generator(model, side, 1)
    before.load_state_dict(safetensors.torch.load_file(tmp_path / "g.safetensors"))
    latents, labels = torch.randn(6, 8), torch.arange(6) % CLASSES
    expected: Tensor = before.eval()(latents)
    torch.testing.assert_close(generator.eval()(latents, labels), expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.05
    saved, kept = safetensors.torch.load_file(tmp_path / "c.safetensors"), critic.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in saved.items())
    assert kept.keys() - saved.keys()
    assert all("they know no classes, so these start anew: " in line for line in lines)
    numbers = sum(value.numel() for value in before.state_dict().values())
    assert f"generator: {len(before.state_dict())} tensors ({numbers:,} numbers) from " in lines[0]
    assert "inputs.vectors.weight" in lines[0]
    assert "the vectors of classes count 0" in lines[0]
    assert "score.of_class" in lines[1]


def test_classes_are_learned_from_there(tmp_path: Path) -> None:
    """The first layer takes no part of a class at first, and its gradient is not 0."""
    generator, _, _ = start(tmp_path, MlpOptions(name="mlp", latent=8, width=8, layers=1), 8)
    torch.autograd.backward(generator(torch.randn(6, 8), torch.arange(6) % CLASSES).square().sum())
    weight = dict(generator.named_parameters())["hidden.0.weight"]
    assert weight[:, 8:].abs().max() == 0
    assert weight.grad is not None
    assert weight.grad[:, 8:].abs().max() > 0


def test_other_differences_stay_refused(tmp_path: Path) -> None:
    path = save(tmp_path, build_generator(DcganOptions(latent=8, width=8), 8, 1), "g")
    other = DcganOptions(latent=8, width=4)
    networks = build_generator(other, 8, 1, CLASSES), build_critic(other, 8, 1, CLASSES)
    with pytest.raises(CheckpointError, match="belongs to other networks"):
        load_initial_weights(InitOptions(generator=path), *networks, (1, 8, 8))
    more = save(tmp_path, build_generator(other, 8, 1, CLASSES + 1), "more")
    with pytest.raises(CheckpointError, match="belongs to other networks"):
        load_initial_weights(InitOptions(generator=more), *networks, (1, 8, 8))
    without = build_generator(other, 8, 1), build_critic(other, 8, 1)
    with pytest.raises(CheckpointError, match="belongs to other networks"):
        load_initial_weights(InitOptions(generator=more), *without, (1, 8, 8))


def test_layers_that_classes_enter_are_not_frozen_before_they_know_any(tmp_path: Path) -> None:
    model = MlpOptions(name="mlp", latent=8, width=8, layers=2)
    with pytest.raises(
        ConfigError, match=r"freeze_generator: hidden\.0\.weight of the first 1 layer would be"
    ):
        start(tmp_path, model, 8, freeze_generator=1)
    start(tmp_path, model, 8, freeze_critic=1)


def test_tensors_that_fit_are_loaded_beside_new_classes(tmp_path: Path) -> None:
    path = save(tmp_path, build_generator(DcganOptions(latent=8, width=4), 8, 1), "g")
    wide = DcganOptions(latent=8, width=8)
    networks = build_generator(wide, 8, 1, CLASSES), build_critic(wide, 8, 1, CLASSES)
    (line,) = load_initial_weights(InitOptions(generator=path, strict=False), *networks, (1, 8, 8))
    assert "the others start at random: inputs.vectors.weight, project.weight" in line
