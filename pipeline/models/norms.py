"""Normalisation layers by name, and batch norm whose statistics can span all ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.options import Norm

Sum = Callable[[Tensor], Tensor]
"""Sums a tensor over all ranks, differentiably."""


class RunningStatistics:
    """A layer that notes something at each training pass, beside its weights.

    `updates_statistics = False` keeps what it noted as it is while training goes on.
    """

    updates_statistics = True


class BatchNorm2d(RunningStatistics, nn.BatchNorm2d):
    """Batch norm with statistics over all ranks where `sum_over_ranks` is set, else over this rank's batch.

    PyTorch's own SyncBatchNorm takes GPU tensors only; this one works wherever the ranks can sum.
    """

    sum_over_ranks: Sum | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to the same shape."""
        if not self.training:
            return super().forward(x)
        if self.sum_over_ranks is None:
            return self._forward_alone(x)
        assert self.weight is not None
        assert self.bias is not None
        # Two rounds, mean first: E[x^2] - E[x]^2 would lose the digits of a small variance.
        count = torch.full((1,), x.numel() / x.shape[1], dtype=torch.float32, device=x.device)
        values = x.float()
        sums = self.sum_over_ranks(torch.cat([values.sum((0, 2, 3)), count]))
        total = sums[-1].detach()
        mean = sums[:-1] / total
        centred = values - mean[None, :, None, None]
        variance = self.sum_over_ranks(centred.square().sum((0, 2, 3))) / total
        if self.updates_statistics:
            self._update(mean.detach(), variance.detach() * (total / (total - 1)))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale[None, :, None, None] + self.bias[None, :, None, None]).to(x.dtype)

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


def has_running_statistics(network: nn.Module) -> bool:
    """Whether a training pass leaves a trace in the network, and what it gives depends on the whole batch."""
    return any(isinstance(layer, RunningStatistics) for layer in network.modules())


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
