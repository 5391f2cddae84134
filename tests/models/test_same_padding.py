"""Convolutions that keep the size of their maps, compared with explicit sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.models.same_padding import SameConv2d, SameConvTranspose2d

every_kernel = pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
Array = np.ndarray[Any, Any]


def convolved(images: Array, kernel: Array, bias: Array) -> Array:
    """y[o, r, c] = b[o] + sum of w[o, i, j, k] x[i, r + j - before, c + k - before]; zeros outside of x."""
    size = kernel.shape[-1]
    before = (size - 1) // 2
    batch, _, height, width = images.shape
    found = np.zeros((batch, len(kernel), height, width))
    for row, column, j, k in np.ndindex(height, width, size, size):
        r, c = row + j - before, column + k - before
        if 0 <= r < height and 0 <= c < width:
            found[:, :, row, column] += images[:, :, r, c] @ kernel[:, :, j, k].T
    return found + bias[:, None, None]


def spread(maps: Array, kernel: Array, bias: Array) -> Array:
    """The adjoint of `convolved`: each pixel adds w[i, o, j, k] x[i, r, c] to y[o, r + j - before, c + k - before]."""
    size = kernel.shape[-1]
    before = (size - 1) // 2
    batch, _, height, width = maps.shape
    found = np.zeros((batch, kernel.shape[1], height, width))
    for row, column, j, k in np.ndindex(height, width, size, size):
        r, c = row + j - before, column + k - before
        if 0 <= r < height and 0 <= c < width:
            found[:, :, r, c] += maps[:, :, row, column] @ kernel[:, :, j, k]
    return found + bias[:, None, None]


@every_kernel
@pytest.mark.filterwarnings("error")
def test_a_convolution_equals_the_explicit_sum(size: int) -> None:
    layer, images = SameConv2d(2, 3, size).double(), torch.randn(2, 2, 5, 7, dtype=torch.float64)
    weights = [weight.detach().numpy() for weight in layer.parameters()]
    assert layer(images).shape == (2, 3, 5, 7)
    np.testing.assert_allclose(layer(images).detach().numpy(), convolved(images.numpy(), *weights))


@every_kernel
def test_a_transposed_convolution_equals_the_explicit_sum(size: int) -> None:
    layer, maps = SameConvTranspose2d(3, 2, size).double(), torch.randn(2, 3, 5, 7, dtype=torch.float64)
    weights = [weight.detach().numpy() for weight in layer.parameters()]
    assert layer(maps).shape == (2, 2, 5, 7)
    np.testing.assert_allclose(layer(maps).detach().numpy(), spread(maps.numpy(), *weights))


@every_kernel
def test_the_transposed_convolution_is_the_gradient_of_the_convolution(size: int) -> None:
    forth, back = SameConv2d(2, 3, size).double(), SameConvTranspose2d(3, 2, size).double()
    back.weight.data.copy_(forth.weight)
    nn.init.zeros_(back.get_parameter("bias"))
    images = torch.randn(2, 2, 5, 7, dtype=torch.float64, requires_grad=True)
    maps = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(forth(images), images, maps)
    torch.testing.assert_close(back(maps), gradient)


def test_a_4_x_4_kernel_covers_one_pixel_before_and_two_after() -> None:
    layer = SameConv2d(1, 1, 4)
    layer.weight.data.fill_(1)
    nn.init.zeros_(layer.get_parameter("bias"))
    point = torch.zeros(1, 1, 7, 7)
    point[0, 0, 3, 3] = 1
    rows, columns = layer(point)[0, 0].nonzero(as_tuple=True)
    assert rows.unique().tolist() == columns.unique().tolist() == [1, 2, 3, 4]
