"""Weight clipping: the same as torch's clamp, and an honest count of what lies on the walls."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pipeline.clipping import clip_weights, clipped_fraction

CLIPS = [0.01, 0.1, 1 / 3, 1.0, 1e-6]


def parameters(*values: torch.Tensor) -> list[nn.Parameter]:
    return [nn.Parameter(value) for value in values]


@pytest.mark.parametrize("clip", CLIPS)
def test_weights_are_clamped_to_the_box_to_the_bit(clip: float) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(), (1,), (3, 4), (2, 3, 4, 4), (1000,)]
    weights = parameters(*(torch.randn(shape, generator=generator) * 2 * clip for shape in shapes))
    expected = [weight.detach().clamp(-clip, clip) for weight in weights]
    places = [weight.data_ptr() for weight in weights]
    clip_weights(weights, clip)
    for weight, clamped in zip(weights, expected, strict=True):
        assert torch.equal(weight, clamped)
        assert weight.abs().max() <= torch.tensor(clip)
    assert [weight.data_ptr() for weight in weights] == places
    assert all(weight.requires_grad and weight.is_leaf for weight in weights)


def test_clipping_twice_is_clipping_once() -> None:
    (weight,) = parameters(torch.linspace(-1, 1, 101))
    clip_weights([weight], 0.1)
    once = weight.detach().clone()
    clip_weights([weight], 0.1)
    assert torch.equal(weight, once)


def test_weights_inside_the_box_keep_their_bits() -> None:
    inside = torch.tensor([0.0, -0.0, 0.009, -0.009, 1e-45])
    (weight,) = parameters(inside.clone())
    clip_weights([weight], 0.01)
    assert torch.equal(weight.detach().view(torch.int32), inside.view(torch.int32))


def test_infinities_come_back_to_the_walls_and_nan_stays() -> None:
    (weight,) = parameters(torch.tensor([math.inf, -math.inf, math.nan, 0.5]))
    clip_weights([weight], 0.25)
    assert weight[:2].tolist() == [0.25, -0.25]
    assert weight[2].isnan()
    assert weight[3] == 0.25


def test_a_generator_of_parameters_will_do() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm2d(2))
    clip_weights(network.parameters(), 0.05)
    assert all(weight.abs().max() <= 0.05 for weight in network.parameters())
    assert clipped_fraction(network.parameters(), 0.05) > 0


@pytest.mark.parametrize("clip", CLIPS)
def test_a_weight_on_the_wall_counts_though_float32_cannot_hold_the_clip(clip: float) -> None:
    wall = torch.tensor(clip)
    inside = torch.nextafter(wall, torch.tensor(0.0))
    weights = parameters(torch.stack([wall, -wall, inside, -inside]), torch.zeros(4))
    assert clipped_fraction(weights, clip).item() == 2 / 8


@pytest.mark.parametrize("clip", CLIPS)
def test_the_fraction_is_that_of_all_weights_together(clip: float) -> None:
    weights = parameters(torch.full((3, 5), 2 * clip), torch.full((85,), clip / 2))
    before = clipped_fraction(weights, clip)
    clip_weights(weights, clip)
    after = clipped_fraction(weights, clip)
    assert before.item() == after.item() == pytest.approx(0.15)
    assert after.shape == ()
