"""The fully connected networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.models import build_critic, build_generator
from pipeline.options import MlpOptions
from tests.models.networks import count, kernels, kinds

PAPER = MlpOptions(name="mlp")


def test_parameters_counted_by_hand() -> None:
    hidden, pixels = 512 * 512 + 512, 28 * 28
    found = count(build_generator(PAPER, 28, 1))
    assert found == (100 * 512 + 512) + 3 * hidden + (512 * pixels + pixels)
    assert count(build_critic(PAPER, 28, 1)) == (pixels * 512 + 512) + 3 * hidden + (512 + 1)


def test_every_hidden_layer_has_a_relu_and_the_last_layer_none() -> None:
    options = MlpOptions(name="mlp", width=8, layers=3)
    hidden = ["Linear", "ReLU"] * 3
    assert kinds(build_generator(options, 5, 1)) == ["ClassLatents", *hidden, "Linear", "Tanh", "Unflatten"]
    assert kinds(build_critic(options, 5, 1)) == ["Flatten", *hidden, "Score"]


@pytest.mark.parametrize("channels", [1, 2])
def test_images_of_one_pixel_are_points(channels: int) -> None:
    options = MlpOptions(name="mlp", latent=3, width=8, layers=1)
    samples = build_generator(options, 1, channels)(torch.randn(6, 3))
    assert samples.shape == (6, channels, 1, 1)
    assert build_critic(options, 1, channels)(samples).shape == (6,)


def test_only_hidden_weights_are_initialised_for_relus() -> None:
    torch.manual_seed(0)
    for network in (build_generator(PAPER, 28, 1), build_critic(PAPER, 28, 1)):
        *hidden, last = kernels(network)
        for layer in hidden:
            deviation = (2 / layer.in_features) ** 0.5
            assert layer.weight.std().item() == pytest.approx(deviation, rel=0.05)
            assert layer.weight.abs().max() > 3 * deviation
        bound = (6 / (last.in_features + last.out_features)) ** 0.5
        assert 0.95 * bound < last.weight.abs().max() <= bound
        assert not any(layer.bias.any() for layer in kernels(network))


def test_activations_keep_their_scale_through_all_layers() -> None:
    torch.manual_seed(0)
    critic: Any = build_critic(MlpOptions(name="mlp", layers=16), 28, 1)
    features = critic.layers(torch.randn(16, 1, 28, 28))
    assert 0.3 < features.square().mean() < 3
