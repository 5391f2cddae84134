"""The networks of wgan-dcgan, compared with the published code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pipeline.models import build_critic, build_generator
from pipeline.options import WganDcganOptions
from tests.models.networks import count, kernels, kinds

OPTIONS = WganDcganOptions(name="wgan_dcgan")


def test_parameters_of_the_28_pixel_pair_counted_by_hand() -> None:
    project = 100 * 32 * 49 + 32 * 49
    to_128, to_256, to_image = 32 * 128 * 16 + 128, 128 * 256 * 16 + 256, 256 * 1 * 16 + 1
    norms = 2 * (32 + 128 + 256)
    assert count(build_generator(OPTIONS, 28, 1)) == project + to_128 + to_256 + to_image + norms
    to_256, to_128, to_64 = 1 * 256 * 16 + 256, 256 * 128 * 16 + 128, 128 * 64 * 16 + 64
    assert count(build_critic(OPTIONS, 28, 1)) == to_256 + to_128 + to_64 + 64 * 49 + 1


def test_layers_are_as_published_with_norms_only_in_the_generator() -> None:
    up = ["ConvTranspose2d", "BatchNorm2d", "ReLU"]
    expected = ["Linear", "Unflatten", "BatchNorm2d", "ReLU", *up, *up, "SameConvTranspose2d", "Tanh"]
    assert kinds(build_generator(OPTIONS, 28, 1)) == expected
    expected = ["Conv2d", "LeakyReLU", "Conv2d", "LeakyReLU", "SameConv2d", "LeakyReLU", "Score"]
    assert kinds(build_critic(OPTIONS, 28, 1)) == expected


def test_running_statistics_take_a_fifth_of_each_batch() -> None:
    generator: Any = build_generator(OPTIONS, 8, 1)
    norms = [layer for layer in generator.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert [(layer.num_features, layer.momentum) for layer in norms] == [(32, 0.2), (128, 0.2), (256, 0.2)]
    latents = torch.randn(6, 100)
    generator(latents)
    maps = generator.layers[1](generator.layers[0](latents))
    torch.testing.assert_close(norms[0].running_mean, 0.2 * maps.mean((0, 2, 3)))


def test_leaky_relus_have_the_slope_0_2() -> None:
    critic = build_critic(OPTIONS, 8, 1)
    slopes = [layer.negative_slope for layer in critic.modules() if isinstance(layer, nn.LeakyReLU)]
    assert slopes == [0.2] * 3


def test_kernels_start_uniform_in_glorot_bounds_and_biases_at_0() -> None:
    torch.manual_seed(0)
    for network in (build_generator(OPTIONS, 28, 1), build_critic(OPTIONS, 28, 1)):
        for layer in kernels(network):
            area = layer.weight[0, 0].numel()
            bound = (6 / (area * sum(layer.weight.shape[:2]))) ** 0.5
            assert 0.99 * bound < layer.weight.abs().max() <= bound
            assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
            assert not layer.bias.any()
