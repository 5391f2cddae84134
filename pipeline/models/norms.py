"""Normalization layers by name, and a batch norm whose statistics can be computed over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from pipeline.models import gpu_batch_norm
from pipeline.models.gpu_batch_norm import Gather
from pipeline.options import Norm


class RunningStatistics:
    """A layer that updates statistics in each forward pass in training mode, in addition to its weights.

    With `updates_statistics = False` it does not change them.
    """

    updates_statistics = True


class BatchNorm2d(RunningStatistics, nn.BatchNorm2d):
    """Batch norm with statistics over all ranks if `gather_over_ranks` is set, else over this rank's batch.

    PyTorch's SyncBatchNorm only works with GPU tensors; this one works with any backend. The ranks communicate once in
    the forward and once in the backward pass. It has no second derivative over ranks.
    """

    gather_over_ranks: Gather | None = None
    groups = 1
    """The number of equal parts of a rank's batch that are normalized separately, as if each were a batch of its own.
    More than 1 needs `gather_over_ranks` and has no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to the same shape."""
        if not self.training:
            return super().forward(x)
        if self.gather_over_ranks is None:
            return self._forward_alone(x)
        assert self.groups == 1 or not torch.is_grad_enabled()
        if gpu_batch_norm.has_kernels(x):
            return self._forward_on_gpu(gpu_batch_norm.dense(x), self.gather_over_ranks)
        parts = x.chunk(self.groups)
        means, variances, count = _statistics(parts, self.gather_over_ranks)
        if self.updates_statistics:
            for mean, variance in zip(means, variances, strict=True):
                self._update(mean, variance * (count / (count - 1)))
        if self.groups == 1:
            over = _OverRanks(means[0], variances[0], count, self.eps, self.gather_over_ranks)
            normalised: Tensor = _Normalise.apply(x, self.weight, self.bias, over)
            return normalised
        return torch.cat(
            [
                F.batch_norm(part, mean, variance, self.weight, self.bias, eps=self.eps)
                for part, mean, variance in zip(parts, means, variances, strict=True)
            ]
        )

    def _forward_alone(self, x: Tensor) -> Tensor:
        assert self.momentum is not None
        running = (self.running_mean, self.running_var) if self.updates_statistics else (None, None)
        if self.updates_statistics and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return F.batch_norm(x, *running, self.weight, self.bias, True, self.momentum, self.eps)

    def _forward_on_gpu(self, x: Tensor, gather: Gather) -> Tensor:
        assert self.momentum is not None
        running = gpu_batch_norm.Running(None, None, self.momentum)
        if self.updates_statistics and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(self.groups)
            running = gpu_batch_norm.Running(self.running_mean, self.running_var, self.momentum)
        parts = x.chunk(self.groups)
        over = gpu_batch_norm.statistics_over_ranks(parts, running, self.eps, gather)
        if self.groups == 1:
            normalised: Tensor = gpu_batch_norm.Normalise.apply(x, self.weight, self.bias, over[0])
            return normalised
        return torch.cat(
            [
                torch.batch_norm_elemt(
                    part, self.weight, self.bias, found.mean, found.inverse_deviation, self.eps
                )
                for part, found in zip(parts, over, strict=True)
            ]
        )

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


@torch.no_grad()
def _statistics(parts: tuple[Tensor, ...], gather: Gather) -> tuple[Tensor, Tensor, Tensor]:
    """The mean and variance over all ranks of each part, (parts, channels), and the number of values behind each (0-d).

    The variances of the ranks, each around the rank's own mean, are combined with the parallel algorithm of Chan, Golub
    and LeVeque 1979: E[x^2] - E[x]^2 would be inaccurate for a small variance around a large mean.
    """
    own = torch.stack([torch.stack(_moments(part)) for part in parts])
    count = own.new_full((1,), parts[0].numel() / parts[0].shape[1])
    rows = gather(torch.cat([own.flatten(), count]))
    counts = rows[:, -1].view(-1, 1, 1)
    means, variances = rows[:, :-1].view(len(rows), *own.shape).unbind(2)
    shares = counts / counts.sum()
    mean = (means * shares).sum(0)
    return mean, ((variances + (means - mean).square()) * shares).sum(0), counts.sum()


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and variance of each channel, computed in one pass, in float32 or float64."""
    nowhere = torch.zeros(2, x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    mean, variance = torch.batch_norm_update_stats(x, nowhere[0], nowhere[1], 0.0)
    return mean, variance


@dataclass(frozen=True)
class _OverRanks:
    """The statistics of a batch over all ranks, mean and variance (channels,), and how the ranks exchange gradients."""

    mean: Tensor
    variance: Tensor
    count: Tensor
    eps: float
    gather: Gather


class _Normalise(torch.autograd.Function):
    """Batch norm with statistics over all ranks, through which the gradient reaches the batches of all ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, over: _OverRanks) -> Tensor:
        ctx.save_for_backward(x, weight, over.mean, over.variance, over.count)
        ctx.eps, ctx.gather = over.eps, over.gather
        return F.batch_norm(x, over.mean, over.variance, weight, bias, eps=over.eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight, mean, variance, count = ctx.saved_tensors
        # The difference below can be small compared with both terms, so they must not be rounded to half precision.
        half, precision = x.dtype, torch.promote_types(x.dtype, torch.float32)
        x, gradient = x.to(precision), gradient.to(precision)
        # First the gradient as if the statistics were constants, then the part through the statistics, which is an
        # affine function of x.
        # The statistics of the forward pass are not used here, but CUDA's kernel for channels last refuses None.
        unused = x.new_empty(0)
        of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, unused, unused, False, ctx.eps, [True, True, True]
        )
        shared = ctx.gather(torch.stack([of_weight, of_bias])).sum(0) / count
        shared = shared * (weight * torch.rsqrt(variance + ctx.eps))
        of_x -= F.batch_norm(x, mean, variance, shared[0], shared[1], eps=ctx.eps)
        return of_x.to(half), of_weight, of_bias, None


@contextmanager
def grouped(network: nn.Module, groups: int) -> Iterator[None]:
    """Inside this context, batch norm over ranks treats a batch as `groups` equal batches, one after the other."""
    layers = [layer for layer in network.modules() if isinstance(layer, BatchNorm2d)]
    for layer in layers:
        layer.groups = groups
    try:
        yield
    finally:
        for layer in layers:
            layer.groups = 1


def can_be_grouped(network: nn.Module) -> bool:
    """Whether a training pass can process several batches at once with the result of separate passes."""
    return all(
        getattr(layer, "gather_over_ranks", None) is not None
        for layer in network.modules()
        if isinstance(layer, RunningStatistics)
    )


def norm(name: Norm, channels: int) -> nn.Module:
    """The normalization layer of this name; `layer` normalizes each sample over all channels and pixels."""
    layers: dict[str, Callable[[], Any]] = {
        "none": nn.Identity,
        "batch": lambda: BatchNorm2d(channels),
        "layer": lambda: nn.GroupNorm(1, channels),
        "instance": lambda: nn.InstanceNorm2d(channels, affine=True),
    }
    module: nn.Module = layers[name]()
    return module
