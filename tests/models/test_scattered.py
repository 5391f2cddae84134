"""Convolutions to few channels give the same results as PyTorch's convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pipeline.models.same_padding import SameConvTranspose2d
from pipeline.models.scattered import ScatteredConv2d, ScatteredConvTranspose2d

LAYERS = {
    "7x7": (ScatteredConv2d(5, 1, 7), nn.Conv2d(5, 1, 7, padding=3)),
    "3x3 to three channels": (ScatteredConv2d(5, 3, 3), nn.Conv2d(5, 3, 3, padding=1)),
    "doubling": (
        ScatteredConvTranspose2d(5, 3, 4, stride=2, padding=1),
        nn.ConvTranspose2d(5, 3, 4, stride=2, padding=1),
    ),
    "doubling to an odd side": (
        ScatteredConvTranspose2d(5, 1, 4, stride=2, padding=1, output_padding=1, bias=False),
        nn.ConvTranspose2d(5, 1, 4, stride=2, padding=1, output_padding=1, bias=False),
    ),
    "an even kernel": (SameConvTranspose2d(5, 1, 4), nn.ConvTranspose2d(5, 1, 4, padding=1)),
}
EACH = pytest.mark.parametrize("name", LAYERS)
LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])


def pair(name: str, layout: torch.memory_format) -> tuple[nn.Module, nn.Module, Tensor]:
    """A layer, PyTorch's layer with the same weights, and maps that are taller than wide."""
    layer, plain = (each.to(memory_format=layout) for each in LAYERS[name])
    plain.load_state_dict(layer.state_dict())
    torch.manual_seed(0)
    return layer, plain, torch.randn(3, 5, 9, 6).to(memory_format=layout)


@EACH
@LAYOUTS
def test_images_and_gradients_are_those_of_the_convolution(name: str, layout: torch.memory_format) -> None:
    layer, plain, x = pair(name, layout)
    found, expected = layer(x.requires_grad_()), plain(x)[..., : layer(x).shape[2], : layer(x).shape[3]]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn_like(found)
    ours = torch.autograd.grad((found * weights).sum(), [x, *layer.parameters()])
    theirs = torch.autograd.grad((expected * weights).sum(), [x, *plain.parameters()])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@EACH
def test_sums_of_patches_are_computed_in_float32(name: str) -> None:
    layer, plain, x = pair(name, torch.contiguous_format)
    expected = plain(x)[..., : layer(x).shape[2], : layer(x).shape[3]]
    with torch.autocast("cpu", torch.bfloat16):
        found, rounded = layer(x), plain(x)[..., : expected.shape[2], : expected.shape[3]]
    assert found.dtype == torch.float32
    error, plain_error = ((images - expected).square().mean().sqrt() for images in (found, rounded))
    assert error < 1.2 * plain_error


def test_the_cpu_uses_the_other_implementation() -> None:
    layer, _, x = pair("7x7", torch.contiguous_format)
    nodes, seen = [layer(x).grad_fn], set()
    while nodes:
        node = nodes.pop()
        seen.add(type(node).__name__)
        nodes += [parent for parent, _ in node.next_functions if parent is not None]
    assert "Col2ImBackward0" in seen
