"""Normalisation layers by name, and batch norm whose statistics can span all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from pipeline.options import Norm

Gather = Callable[[Tensor], Tensor]
"""From a tensor to those of all ranks, of the same shape and stacked by rank, on the device and without a gradient."""


class RunningStatistics:
    """A layer that notes something at each training pass, beside its weights.

    `updates_statistics = False` keeps what it noted as it is while training goes on.
    """

    updates_statistics = True


class BatchNorm2d(RunningStatistics, nn.BatchNorm2d):
    """Batch norm with statistics over all ranks where `gather_over_ranks` is set, else over this rank's batch.

    PyTorch's own SyncBatchNorm takes GPU tensors only; this one works wherever the ranks can meet. They do so once
    forward and once backward. Its gradient has none of its own.
    """

    gather_over_ranks: Gather | None = None
    groups = 1
    """Equal parts of a rank's batch that are normalised apart, as if each came alone. More than one need
    `gather_over_ranks`, and have no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to the same shape."""
        if not self.training:
            return super().forward(x)
        if self.gather_over_ranks is None:
            return self._forward_alone(x)
        assert self.groups == 1 or not torch.is_grad_enabled()
        parts = x.chunk(self.groups)
        means, variances, count = _statistics(parts, self.gather_over_ranks)
        if self.updates_statistics:
            for mean, variance in zip(means, variances, strict=True):
                self._update(mean, variance * (count / (count - 1)))
        if self.groups == 1:
            normalised: Tensor = _Normalise.apply(
                x, self.weight, self.bias, means[0], variances[0], count, self.eps, self.gather_over_ranks
            )
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
    """Over all ranks, of each part: means and variances (parts, channels), and how many values each is of (0-d).

    Variances are of deviations from each rank's own mean, and put together by the parallel algorithm of Chan, Golub and
    LeVeque 1979: E[x^2] - E[x]^2 would lose the digits of a small one.
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
    """Mean and variance of each channel in one fast pass, in float32 or better."""
    nowhere = torch.zeros(2, x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    mean, variance = torch.batch_norm_update_stats(x, nowhere[0], nowhere[1], 0.0)
    return mean, variance


class _Normalise(torch.autograd.Function):
    """Batch norm by statistics over all ranks, on which the gradient goes back to every rank's batch."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        eps: float,
        gather: Gather,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps, ctx.gather = eps, gather
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight, mean, variance, count = ctx.saved_tensors
        # What is taken off below may be most of it, and half precision would round both.
        half, precision = x.dtype, torch.promote_types(x.dtype, torch.float32)
        x, gradient = x.to(precision), gradient.to(precision)
        # As if the statistics were constants; then what they pass back, which is an affine map of x again.
        of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        shared = ctx.gather(torch.stack([of_weight, of_bias])).sum(0) / count
        shared = shared * (weight * torch.rsqrt(variance + ctx.eps))
        of_x -= F.batch_norm(x, mean, variance, shared[0], shared[1], eps=ctx.eps)
        return of_x.to(half), of_weight, of_bias, None, None, None, None, None


@contextmanager
def grouped(network: nn.Module, groups: int) -> Iterator[None]:
    """Within it batch norm over ranks takes a batch as so many equal parts, one after the other."""
    layers = [layer for layer in network.modules() if isinstance(layer, BatchNorm2d)]
    for layer in layers:
        layer.groups = groups
    try:
        yield
    finally:
        for layer in layers:
            layer.groups = 1


def can_be_grouped(network: nn.Module) -> bool:
    """Whether several batches can pass through the network at once, in training, as if one after the other."""
    return all(
        getattr(layer, "gather_over_ranks", None) is not None
        for layer in network.modules()
        if isinstance(layer, RunningStatistics)
    )


def norm(name: Norm, channels: int) -> nn.Module:
    """The layer by its name; `layer` normalises each sample over channels and pixels together."""
    layers: dict[str, Callable[[], Any]] = {
        "none": nn.Identity,
        "batch": lambda: BatchNorm2d(channels),
        "layer": lambda: nn.GroupNorm(1, channels),
        "instance": lambda: nn.InstanceNorm2d(channels, affine=True),
    }
    module: nn.Module = layers[name]()
    return module
