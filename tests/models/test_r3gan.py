"""The residual networks after R3GAN: their plan, their start as identities, and the scale of their signals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.models import build_critic, build_generator
from pipeline.models.r3gan import GAIN, Block, drawn, plan
from pipeline.models.sides import Resolution
from pipeline.options import R3ganOptions

SMALL = R3ganOptions(name="r3gan", width=16, max_width=64)


@pytest.mark.parametrize(
    ("resolution", "widths", "base"),
    [
        (32, [16, 32, 64, 64], (4, 4)),
        (28, [16, 32, 64], (7, 7)),
        (256, [16, 32, 64, 64, 64, 64, 64], (4, 4)),
        ((96, 64), [16, 32, 64, 64, 64], (6, 4)),
        (6, [16], (6, 6)),
    ],
)
def test_the_sides_are_halved_as_often_as_they_can(
    resolution: Resolution, widths: list[int], base: tuple[int, int]
) -> None:
    assert plan(SMALL, resolution) == (widths, base)


@pytest.mark.parametrize(
    ("resolution", "remedy"),
    [(90, "data.resolution: 96"), ((90, 160), r"data.resolution: \[96, 160\]"), (3, "data.resolution: 4")],
)
def test_other_sizes_are_refused_with_one_that_works(resolution: Resolution, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        plan(SMALL, resolution)


def test_every_block_starts_as_the_identity_and_learns_at_once() -> None:
    torch.manual_seed(0)
    block, maps = Block(16, depth=8), torch.randn(2, 16, 5, 5)
    assert torch.equal(block(maps), maps)
    (block(maps).square().sum()).backward()
    gradients = {name: weight.grad for name, weight in block.named_parameters()}
    assert gradients["path.4.weight"] is not None
    assert gradients["path.4.weight"].abs().max() > 0
    assert block.path[2].groups == 2, "groups of 16 of the 32 inner channels"


def test_a_leaky_relus_gain_keeps_the_size_of_signals() -> None:
    torch.manual_seed(0)
    size = torch.randn(4000, 256)
    for _ in range(4):
        size = nn.functional.leaky_relu(drawn(nn.Linear(256, 256), GAIN)(size), 0.2)
    assert size.square().mean().item() == pytest.approx(1.0, rel=0.1)


def test_scores_and_images_start_at_a_sound_scale() -> None:
    torch.manual_seed(0)
    generator, critic = build_generator(SMALL, 32, 3), build_critic(SMALL, 32, 3)
    images = generator(torch.randn(64, 64))
    assert 0.1 < images.std().item() < 0.9
    assert 0.01 < critic(torch.rand(64, 3, 32, 32) * 2 - 1).std().item() < 10
