"""Batch norm over ranks by the kernels that exist on GPUs only, with stand-ins for these kernels on the CPU.

The stand-ins are written from what the kernels compute, and check what the kernels demand of their arguments.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from pipeline.models import gpu_batch_norm
from pipeline.models.norms import BatchNorm2d, grouped
from tests.models.test_norms import alone, assert_equal_over_ranks, assert_same_state, batch

OVER_PIXELS = (0, 2, 3)


def column(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


def check_layout(*images: Tensor) -> None:
    formats = (torch.contiguous_format, torch.channels_last)
    assert any(all(image.is_contiguous(memory_format=found) for image in images) for found in formats)


def stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    check_layout(x)
    return x.mean(OVER_PIXELS), (x.var(OVER_PIXELS, unbiased=False) + eps).rsqrt()


def gather_stats(
    x: Tensor,
    means: Tensor,
    inverse_deviations: Tensor,
    running_mean: Tensor | None,
    running_variance: Tensor | None,
    momentum: float,
    eps: float,
    counts: Tensor,
) -> tuple[Tensor, Tensor]:
    assert means.is_contiguous()
    assert inverse_deviations.is_contiguous()
    assert counts.is_contiguous()
    assert counts.dtype == means.dtype == (x if running_mean is None else running_mean).dtype
    assert means.shape == inverse_deviations.shape
    assert len(means) == len(counts)
    shares = (counts / counts.sum())[:, None]
    mean = (means * shares).sum(0)
    squares = inverse_deviations**-2 - eps + (means - mean) ** 2
    variance = (squares * shares).sum(0)
    if running_mean is not None and running_variance is not None:
        running_mean.lerp_(mean, momentum)
        running_variance.lerp_(variance * counts.sum() / (counts.sum() - 1), momentum)
    return mean, (variance + eps).rsqrt()


def normalise(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse_deviation: Tensor, eps: float
) -> Tensor:
    check_layout(x)
    return (x - column(mean)) * column(inverse_deviation * weight) + column(bias)


def reduce_gradient(
    gradient: Tensor, x: Tensor, mean: Tensor, inverse_deviation: Tensor, weight: Tensor, *wanted: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    assert wanted == (True, True, True)
    check_layout(gradient, x)
    total = gradient.sum(OVER_PIXELS)
    product = (gradient * (x - column(mean))).sum(OVER_PIXELS)
    return total, product, product * inverse_deviation, total.clone()


def input_gradient(
    gradient: Tensor,
    x: Tensor,
    mean: Tensor,
    inverse_deviation: Tensor,
    weight: Tensor,
    of_sum: Tensor,
    of_product: Tensor,
    counts: Tensor,
) -> Tensor:
    assert counts.dtype == torch.int32
    check_layout(gradient, x)
    along = column(of_product / counts.sum() * inverse_deviation**2) * (x - column(mean))
    return (gradient - column(of_sum / counts.sum()) - along) * column(inverse_deviation * weight)


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    library = torch.library.Library("aten", "IMPL")
    for name, function in {
        "batch_norm_stats": stats,
        "batch_norm_gather_stats_with_counts": gather_stats,
        "batch_norm_elemt": normalise,
        "batch_norm_backward_reduce": reduce_gradient,
        "batch_norm_backward_elemt": input_gradient,
    }.items():
        library.impl(name, function, "CPU")
    monkeypatch.setattr(gpu_batch_norm, "has_kernels", lambda _: True)
    yield
    library._destroy()


def layer() -> BatchNorm2d:
    found = BatchNorm2d(3).double()
    nn.init.normal_(found.weight, 1, generator=torch.Generator().manual_seed(1))
    nn.init.normal_(found.bias, generator=torch.Generator().manual_seed(2))
    return found


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_two_ranks_equal_one_rank_with_the_whole_batch(memory_format: torch.memory_format) -> None:
    x, whole = batch().double().to(memory_format=memory_format), layer()
    layers = [layer() for _ in range(2)]
    assert_equal_over_ranks(layers, whole, x)
    for one in layers:
        assert_same_state(one, whole)


def test_a_gradient_in_neither_memory_format_is_made_dense() -> None:
    """As that of a mean over pixels, which is one number shown to all of them."""
    x = batch().double().requires_grad_()
    ours, theirs = layer(), layer()
    ours.gather_over_ranks = alone
    found, expected = (
        torch.autograd.grad(one(x).mean(), [x, one.weight, one.bias]) for one in (ours, theirs)
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_grouped_batches_are_normalised_as_separate_passes() -> None:
    first, second = batch(0).double(), batch(1).double()
    together, apart = layer(), layer()
    together.gather_over_ranks = apart.gather_over_ranks = alone
    with torch.no_grad(), grouped(together, 2):
        found = together(torch.cat([first, second]))
    with torch.no_grad():
        expected = torch.cat([apart(first), apart(second)])
    torch.testing.assert_close(found, expected)
    assert_same_state(together, apart)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_statistics_that_are_not_to_change_stay(dtype: torch.dtype) -> None:
    exact = torch.promote_types(dtype, torch.float32)
    ours, theirs, before = (layer().to(exact) for _ in range(3))
    ours.gather_over_ranks, ours.updates_statistics = alone, False
    x = batch().to(dtype)
    torch.testing.assert_close(ours(x).to(exact), theirs(x.to(exact)), rtol=0.05, atol=0.05)
    assert_same_state(ours, before, rtol=0, atol=0)
