"""The networks of wgan-mnist and wgan-digit7, compared with the published code."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.models import build_critic, build_generator
from pipeline.options import WganMnistOptions
from tests.models.networks import count, kernels, kinds

OPTIONS = WganMnistOptions(name="wgan_mnist")


def test_parameters_of_the_28_pixel_pair_counted_by_hand() -> None:
    project, doubling, norm, to_image = 50 * 6272 + 6272, 128 * 128 * 16 + 128, 2 * 128, 128 * 49 + 1
    assert count(build_generator(OPTIONS, 28, 1)) == project + 2 * (doubling + norm) + to_image
    first, second, norm, score = 1 * 64 * 16 + 64, 64 * 64 * 16 + 64, 2 * 64, 64 * 49 + 1
    assert count(build_critic(OPTIONS, 28, 1)) == first + norm + second + norm + score


def test_layers_are_those_of_the_published_code() -> None:
    doubling = ["ConvTranspose2d", "BatchNorm2d", "LeakyReLU"]
    expected = ["Linear", "Unflatten", "LeakyReLU", *doubling, *doubling, "ScatteredConv2d", "Tanh"]
    assert kinds(build_generator(OPTIONS, 28, 1)) == expected
    halving = ["Conv2d", "BatchNorm2d", "LeakyReLU"]
    assert kinds(build_critic(OPTIONS, 28, 1)) == [*halving, *halving, "Score"]


def test_slopes_momenta_and_epsilons_are_as_published() -> None:
    for network in (build_generator(OPTIONS, 8, 1), build_critic(OPTIONS, 8, 1)):
        layers = list(network.modules())
        assert {layer.negative_slope for layer in layers if isinstance(layer, nn.LeakyReLU)} == {0.2}
        norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm2d)]
        assert {(layer.momentum, layer.eps) for layer in norms} == {(0.1, 1e-3)}


def test_kernels_start_normal_biases_at_0_and_gains_at_1() -> None:
    torch.manual_seed(0)
    for network in (build_generator(OPTIONS, 28, 1), build_critic(OPTIONS, 28, 1)):
        for layer in kernels(network):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert layer.weight.abs().max() > 0.05  # a uniform distribution of this spread would end at 0.035
            assert not layer.bias.any()
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                assert (layer.weight == 1).all()
                assert not layer.bias.any()
