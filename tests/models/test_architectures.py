"""Properties of the networks of all architectures."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from pipeline.models import ARCHITECTURES, build_critic, build_generator
from pipeline.models.norms import BatchNorm2d
from pipeline.models.sides import Resolution, described
from pipeline.option_types import sides_of
from pipeline.options import (
    DcganOptions,
    GanBceOptions,
    MlpOptions,
    ModelOptions,
    R3ganOptions,
    ResnetOptions,
    WganDcganOptions,
    WganMnistOptions,
)
from tests.models.networks import kernels

PAIRS: list[tuple[ModelOptions, Resolution]] = [
    (DcganOptions(latent=5, width=4), 17),
    (MlpOptions(name="mlp", latent=5, width=32), 9),
    (ResnetOptions(name="resnet", latent=5, width=4), 32),
    (ResnetOptions(name="resnet", latent=5, width=4, critic_norm="layer"), 64),
    (R3ganOptions(name="r3gan", latent=5, width=16, max_width=32), 16),
    (WganMnistOptions(name="wgan_mnist", latent=5), 8),
    (WganDcganOptions(name="wgan_dcgan", latent=5), 8),
    (GanBceOptions(name="gan_bce", latent=5), 8),
    (DcganOptions(latent=5, width=4), (17, 45)),
    (MlpOptions(name="mlp", latent=5, width=32), (3, 9)),
    (ResnetOptions(name="resnet", latent=5, width=8, attention=True), (32, 48)),
    (ResnetOptions(name="resnet", latent=5, width=4), (40, 32)),
    (ResnetOptions(name="resnet", latent=5, width=4, critic_norm="layer"), (64, 96)),
    (R3ganOptions(name="r3gan", latent=5, width=16, blocks=1), (28, 56)),
    (WganMnistOptions(name="wgan_mnist", latent=5), (8, 16)),
    (WganDcganOptions(name="wgan_dcgan", latent=5), (12, 8)),
    (GanBceOptions(name="gan_bce", latent=5), (8, 12)),
]
every_pair = pytest.mark.parametrize(
    ("options", "resolution"), PAIRS, ids=[f"{options.name}-{described(size)}" for options, size in PAIRS]
)


def images_of(resolution: Resolution, channels: int = 1) -> Tensor:
    return torch.rand(4, channels, *sides_of(resolution)) * 2 - 1


def test_every_kind_of_options_has_its_architecture() -> None:
    kinds = get_args(get_args(ModelOptions)[0])
    assert list(ARCHITECTURES) == [get_args(kind.model_fields["name"].annotation)[0] for kind in kinds]
    assert {options.name for options, _ in PAIRS} == set(ARCHITECTURES)


@every_pair
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_latents_become_images_that_fill_their_range(
    options: ModelOptions, resolution: Resolution, channels: int
) -> None:
    torch.manual_seed(0)
    generator = build_generator(options, resolution, channels)
    images = generator(torch.randn(4, 5))
    assert images.shape == (4, channels, *sides_of(resolution))
    assert images.dtype == torch.float32
    kernels(generator)[-1].weight.data.mul_(1e4)
    images = generator(torch.randn(4, 5))
    assert images.max() == 1
    assert images.min() == -1


@every_pair
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_become_scores_of_any_size(
    options: ModelOptions, resolution: Resolution, channels: int
) -> None:
    torch.manual_seed(0)
    critic: Any = build_critic(options, resolution, channels)
    critic.score.weight.data.mul_(1e7)
    scores = critic(images_of(resolution, channels))
    assert scores.shape == (4,)
    assert scores.dtype == torch.float32
    assert scores.abs().max() > 10
    assert scores.std() > 0.1


@every_pair
def test_weights_depend_only_on_the_torch_seed(options: ModelOptions, resolution: Resolution) -> None:
    def state(build: Any, seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        found: dict[str, Tensor] = build(options, resolution, 1).state_dict()
        return found

    for build in (build_generator, build_critic):
        first, again, other = state(build, 3), state(build, 3), state(build, 4)
        assert all(torch.equal(value, again[name]) for name, value in first.items())
        assert not all(torch.equal(value, other[name]) for name, value in first.items())


@every_pair
def test_layers_are_listed_in_the_order_in_which_they_run(
    options: ModelOptions, resolution: Resolution
) -> None:
    """Freezing the first layers depends on it."""
    generator, critic = build_generator(options, resolution, 1), build_critic(options, resolution, 1)
    listed, ran = [*kernels(generator), *kernels(critic)], []
    for layer in listed:
        layer.register_forward_hook(lambda layer, *_: ran.append(layer))
    critic(generator(torch.randn(4, 5)))
    assert ran == listed


@every_pair
def test_a_backward_pass_reaches_every_parameter(options: ModelOptions, resolution: Resolution) -> None:
    generator, critic = build_generator(options, resolution, 1), build_critic(options, resolution, 1)
    for kernel in (*kernels(generator), *kernels(critic)):
        if not kernel.weight.any():  # the last of a residual path, behind which nothing would get a gradient
            nn.init.normal_(kernel.weight, 0, 0.1)
    for weight in (*generator.parameters(), *critic.parameters()):
        if weight.ndim == 0:  # of attention, which starts at 0 too
            nn.init.ones_(weight)
    critic(generator(torch.randn(4, 5))).square().sum().backward()
    for network in (generator, critic):
        gradients = {name: weight.grad for name, weight in network.named_parameters()}
        assert all(gradient is not None for gradient in gradients.values())
        assert all(kernel.weight.grad.any() for kernel in kernels(network))


@every_pair
def test_the_options_say_which_norms_there_are(options: ModelOptions, resolution: Resolution) -> None:
    kinds = {"batch": nn.BatchNorm2d, "layer": nn.GroupNorm}
    for build, name in ((build_generator, options.generator_norm), (build_critic, options.critic_norm)):
        layers = list(build(options, resolution, 1).modules())
        for known, kind in kinds.items():
            assert any(isinstance(layer, kind) for layer in layers) == (known == name)
        # Other layers cannot compute statistics over all ranks, or keep them fixed while the other network is trained.
        assert all(type(layer) is BatchNorm2d for layer in layers if isinstance(layer, nn.BatchNorm2d))


@every_pair
def test_float32_scores_ignore_mixed_precision(options: ModelOptions, resolution: Resolution) -> None:
    critic, images = build_critic(options, resolution, 1), images_of(resolution)
    with torch.autocast("cpu", torch.bfloat16):
        assert critic(images).dtype == torch.bfloat16
        exact = critic(images, float32=True)
    assert exact.dtype == torch.float32
    assert torch.equal(exact, critic(images))


@every_pair
def test_mixed_precision_changes_images_and_scores_by_rounding_only(
    options: ModelOptions, resolution: Resolution
) -> None:
    torch.manual_seed(0)
    for build, inputs in ((build_generator, torch.randn(4, 5)), (build_critic, images_of(resolution))):
        network = build(options, resolution, 1)
        exact = network(inputs)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(inputs)
        assert not torch.equal(rounded.float(), exact)
        assert (rounded.float() - exact).abs().max() < 0.1 * exact.abs().max()
