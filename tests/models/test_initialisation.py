"""Initial weights: their spread, and what they do not change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.models import initialisation

LAYERS = [nn.Linear(60, 300), nn.Conv2d(20, 30, 4), nn.ConvTranspose2d(20, 30, 4)]


def fans(layer: Any) -> int:
    """Fan in plus fan out."""
    size: int = layer.weight[0].numel() + layer.weight[:, 0].numel()
    return size


@pytest.mark.parametrize(
    ("initialise", "variance"),
    [
        (initialisation.dcgan, lambda layer: 0.02**2),
        (initialisation.normal, lambda layer: 0.02**2),
        (initialisation.glorot_uniform, lambda layer: 2 / fans(layer)),
        (initialisation.he_uniform, lambda layer: 4 / fans(layer)),
    ],
)
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_weights_have_the_given_spread_and_biases_are_0(
    initialise: Callable[[nn.Module], None], variance: Callable[[nn.Module], float], layer: Any
) -> None:
    torch.manual_seed(0)
    layer.apply(initialise)
    assert layer.weight.var().item() == pytest.approx(variance(layer), rel=0.05)
    assert abs(layer.weight.mean().item()) < 0.05 * variance(layer) ** 0.5
    is_uniform = "uniform" in initialise.__name__
    assert (layer.weight.abs().max() <= (3 * variance(layer)) ** 0.5) == is_uniform
    assert not layer.bias.any()


@pytest.mark.parametrize("layer", LAYERS[:2], ids=lambda layer: type(layer).__name__)
def test_he_normal_keeps_the_variance_behind_a_relu(layer: Any) -> None:
    torch.manual_seed(0)
    layer.apply(initialisation.he_normal)
    shape = (64, 60) if isinstance(layer, nn.Linear) else (64, 20, 4, 4)
    assert layer(torch.randn(shape).relu()).square().mean().item() == pytest.approx(1.0, rel=0.1)
    assert not layer.bias.any()


def test_only_dcgan_changes_the_scale_of_batch_norm() -> None:
    torch.manual_seed(0)
    for initialise in (
        initialisation.dcgan,
        initialisation.normal,
        initialisation.glorot_uniform,
        initialisation.he_uniform,
        initialisation.he_normal,
    ):
        norm, other = nn.BatchNorm2d(2000), nn.GroupNorm(1, 2000)
        nn.Sequential(norm, other).apply(initialise)
        if initialise is initialisation.dcgan:
            assert norm.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert norm.weight.mean().item() == pytest.approx(1.0, abs=0.002)
        else:
            assert (norm.weight == 1).all()
        assert (other.weight == 1).all()
        assert not norm.bias.any()


def test_layers_without_a_bias_get_none() -> None:
    layer = nn.Conv2d(2, 3, 1, bias=False).apply(initialisation.normal)
    assert layer.bias is None
