"""Self-attention: its start, its formula, and where `resnet` has it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pipeline.models import build_critic, build_generator
from pipeline.models.attention import SelfAttention
from pipeline.options import ResnetOptions


def test_it_starts_as_the_identity_and_its_weight_learns_at_once() -> None:
    torch.manual_seed(0)
    layer, maps = SelfAttention(16), torch.randn(2, 16, 4, 6)
    assert torch.equal(layer(maps), maps)
    layer(maps).square().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs() > 0


def test_each_place_gets_the_mean_of_what_matches_it() -> None:
    torch.manual_seed(0)
    layer, maps = SelfAttention(8), torch.randn(1, 8, 2, 4)
    nn.init.constant_(layer.weight, 0.5)
    query, key, value = (getattr(layer, name)(maps)[0].detach() for name in ("query", "key", "value"))
    expected = torch.empty(8, 2, 4)
    halves = [slice(0, 2), slice(2, 4)]
    keys = [key[:, :, half].mean((1, 2)) for half in halves]
    values = [value[:, :, half].mean((1, 2)) for half in halves]
    for y in range(2):
        for x in range(4):
            shares = torch.softmax(torch.stack([query[:, y, x] @ one for one in keys]), 0)
            mean = shares[0] * values[0] + shares[1] * values[1]
            expected[:, y, x] = maps[0, :, y, x] + 0.5 * layer.out.weight[:, :, 0, 0].detach() @ mean
    torch.testing.assert_close(layer(maps)[0].detach(), expected)


@pytest.mark.parametrize(("side", "attended"), [(32, 16), (64, 32), (128, 32)])
def test_resnet_attends_on_maps_of_16_or_32(side: int, attended: int) -> None:
    options = ResnetOptions(name="resnet", latent=5, width=8, attention=True)
    generator: Any = build_generator(options, side, 1)
    critic: Any = build_critic(options, side, 1)
    seen: list[int] = []
    for network in (generator, critic):
        (layer,) = [part for part in network.modules() if isinstance(part, SelfAttention)]
        layer.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0].shape[2]))
    critic(generator(torch.randn(2, 5)))
    assert seen == [attended, attended]
