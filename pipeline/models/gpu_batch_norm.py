"""Batch norm over ranks on GPUs: the kernels behind PyTorch's SyncBatchNorm, one exchange in each direction.

SyncBatchNorm itself looks for ranks without samples, and reads from the GPU for it in every pass. Here all ranks have
samples, and the step never waits for the GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Gather = Callable[[Tensor], Tensor]
"""Gathers a tensor from all ranks, which must have the same shape, into one stacked by rank; without a gradient."""


class Running(NamedTuple):
    """The running statistics that a forward pass updates, (channels,) each, or None and None to leave them alone."""

    mean: Tensor | None
    variance: Tensor | None
    momentum: float


class OverRanks(NamedTuple):
    """Statistics of a batch over all ranks: the mean and 1 / sqrt(variance + eps), (channels,) each."""

    mean: Tensor
    inverse_deviation: Tensor
    counts: Tensor
    """How many values of a channel each rank has: (world_size,)"""
    eps: float
    gather: Gather


def has_kernels(x: Tensor) -> bool:
    """Whether these kernels exist for the tensor's device."""
    return x.is_cuda


@torch.no_grad()
def statistics_over_ranks(
    parts: Sequence[Tensor], running: Running, eps: float, gather: Gather
) -> list[OverRanks]:
    """The statistics of each of several batches (batch, channels, height, width), by one exchange for all of them."""
    channels = parts[0].shape[1]
    own = [statistic for part in parts for statistic in torch.batch_norm_stats(part, eps)]
    # Filled on the device: a number from the host would have to be copied.
    count = own[0].new_full((1,), parts[0].numel() // channels)
    rows = gather(torch.cat([*own, count]))
    counts = rows[:, -1].contiguous()
    columns = rows[:, :-1].view(len(rows), len(parts), 2, channels).permute(1, 2, 0, 3).contiguous()
    found = []
    for means, inverse_deviations in columns:
        mean, inverse_deviation = torch.batch_norm_gather_stats_with_counts(
            # Of its input the kernel takes the dtype only, and in half precision it would refuse the counts.
            means,
            means,
            inverse_deviations,
            running.mean,
            running.variance,
            running.momentum,
            eps,
            counts,
        )
        found.append(OverRanks(mean, inverse_deviation, counts, eps, gather))
    return found


class Normalise(torch.autograd.Function):
    """Batch norm with statistics over all ranks, through which the gradient reaches the batches of all ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, over: OverRanks) -> Tensor:
        counts = over.counts.to(torch.int32)
        ctx.save_for_backward(x, weight, over.mean, over.inverse_deviation, counts)
        ctx.gather = over.gather
        return torch.batch_norm_elemt(x, weight, bias, over.mean, over.inverse_deviation, over.eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight, mean, inverse_deviation, counts = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=_dense_format(x))
        of_sum, of_product, of_weight, of_bias = torch.batch_norm_backward_reduce(
            gradient, x, mean, inverse_deviation, weight, True, True, True
        )
        of_sum, of_product = ctx.gather(torch.stack([of_sum, of_product])).sum(0)
        of_x = torch.batch_norm_backward_elemt(
            gradient, x, mean, inverse_deviation, weight, of_sum, of_product, counts
        )
        return of_x, of_weight, of_bias, None


def dense(x: Tensor) -> Tensor:
    """The tensor in one of the two memory formats that the kernels take."""
    return x.contiguous(memory_format=_dense_format(x))


def _dense_format(x: Tensor) -> torch.memory_format:
    is_channels_last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_channels_last else torch.contiguous_format
