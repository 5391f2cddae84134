"""Bilinear interpolation with aligned corners, compared with values by hand and with PyTorch's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pipeline.models.upsampling import AlignedUpsample


def test_upsampling_keeps_the_four_pixels_as_corners() -> None:
    maps = torch.tensor([[[[0.0, 3.0], [6.0, 9.0]]]])
    expected = [[0.0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7], [6, 7, 8, 9]]
    torch.testing.assert_close(AlignedUpsample()(maps), torch.tensor([[expected]]))


@pytest.mark.parametrize("side", [1, 2, 7, 14, 25])
def test_values_and_gradients_equal_those_of_pytorch(side: int) -> None:
    maps = torch.randn(2, 3, side, side, requires_grad=True)
    upstream = torch.randn(2, 3, 2 * side, 2 * side)
    ours, theirs = AlignedUpsample()(maps), F.interpolate(maps, None, 2, "bilinear", align_corners=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    for one, other in zip(*(torch.autograd.grad(y, maps, upstream) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_in_mixed_precision_only_the_result_is_rounded() -> None:
    maps = torch.randn(2, 3, 7, 7).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = AlignedUpsample()(maps)
    assert torch.equal(found, AlignedUpsample()(maps.float()).bfloat16())
