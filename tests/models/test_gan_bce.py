"""The networks of gan-bce, compared with the published code."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.models import build_critic, build_generator
from pipeline.options import GanBceOptions
from tests.models.networks import count, kernels, kinds

OPTIONS = GanBceOptions(name="gan_bce")


def test_parameters_of_the_28_pixel_pair_counted_by_hand() -> None:
    project, to_128, to_64, to_image = 100 * 12544 + 12544, 256 * 128 * 9, 128 * 64 * 9, 64 * 1 + 1
    norms = 2 * 128 + 2 * 64
    assert count(build_generator(OPTIONS, 28, 1)) == project + to_128 + to_64 + to_image + norms
    to_16, to_32, to_64, score = 1 * 16 * 9, 16 * 32 * 9, 32 * 64 * 9, 64 * 49 + 1
    norms = 2 * 16 + 2 * 32 + 2 * 64
    assert count(build_critic(OPTIONS, 28, 1)) == to_16 + to_32 + to_64 + score + norms


def test_layers_are_those_of_the_published_code() -> None:
    convolution = ["Conv2d", "BatchNorm2d", "ReLU"]
    up = ["AlignedUpsample", *convolution]
    assert kinds(build_generator(OPTIONS, 28, 1)) == ["Linear", "Unflatten", *up, *up, "Conv2d"]
    halving = [*convolution, "MaxPool2d"]
    assert kinds(build_critic(OPTIONS, 28, 1)) == ["ToUnitRange", *halving, *halving, *convolution, "Score"]


def test_only_convolutions_before_a_norm_lack_a_bias() -> None:
    def has_bias(network: torch.nn.Module) -> list[bool]:
        return [layer.bias is not None for layer in kernels(network)]

    assert has_bias(build_generator(OPTIONS, 28, 1)) == [True, False, False, True]
    assert has_bias(build_critic(OPTIONS, 28, 1)) == [False, False, False, True]


def test_images_from_0_to_1_are_rescaled_to_minus_1_to_1() -> None:
    generator: Any = build_generator(OPTIONS, 8, 1)
    latents = torch.randn(3, 100)
    torch.testing.assert_close((generator(latents) + 1) / 2, generator.layers(latents).sigmoid())


def test_the_critic_rescales_its_images_to_0_to_1() -> None:
    critic, seen = build_critic(OPTIONS, 8, 1), []
    kernels(critic)[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    images = torch.linspace(-1, 1, 128).view(2, 1, 8, 8)
    critic(images)
    torch.testing.assert_close(seen[0], torch.linspace(0, 1, 128).view(2, 1, 8, 8))


def test_initial_weights_are_those_of_pytorch() -> None:
    torch.manual_seed(0)
    for network in (build_generator(OPTIONS, 28, 1), build_critic(OPTIONS, 28, 1)):
        for layer in kernels(network):
            bound = layer.weight[0].numel() ** -0.5
            assert 0.9 * bound < layer.weight.abs().max() <= bound
            assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.15)
            assert layer.bias is None or layer.bias.any()
