"""One critic update and one generator update: functions of networks, an objective and tensors.

They know nothing of ranks or files. What differs between one process and many (the backward pass, the
moment when gradients are averaged) comes in as a `Parallel`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.models.norms import BatchNorm2d
from pipeline.objectives import Metrics, Objective


class Parallel(Protocol):
    """How losses become gradients that are equal on all ranks."""

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients, scaled where float16 needs it."""
        ...

    def no_sync(self, module: nn.Module) -> AbstractContextManager[Any]:
        """Within it, backward passes through `module` leave the gradients of this rank alone."""
        ...

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the float16 scale out of the gradients."""
        ...


@dataclass
class Player:
    """A network in training.

    `module` is the network itself; `wrapped` is the same network behind DDP (or `module` again, in one
    process), and every forward pass whose backward trains it must go through that.
    """

    module: nn.Module
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    largest_grad_norm: float | None = None


def critic_update(
    critic: Player,
    generator: nn.Module,
    objective: Objective,
    real: Tensor,
    latents: Tensor,
    uniform: Tensor,
    parallel: Parallel,
    micro_batch: int | None = None,
) -> Metrics:
    """Move the critic towards its optimum on one batch, and constrain it. Returns 0-d tensors.

    real: float32 (batch, channels, height, width) in [-1, 1]; latents: (batch, latent); uniform: (batch,).
    """
    critic.optimizer.zero_grad(set_to_none=True)
    totals: Metrics = {}
    for part, share, is_last in _parts(len(real), micro_batch):
        with nullcontext() if is_last else parallel.no_sync(critic.wrapped):
            with torch.no_grad():
                fake = generator(latents[part])
            loss, metrics = objective.critic_loss(critic.wrapped, real[part], fake, uniform[part])
            parallel.backward(loss * share)
        _add(totals, {**metrics, "critic/loss": loss}, share)
    totals["critic/grad_norm"] = _step(critic, parallel)
    objective.constrain(critic.module)
    totals["wasserstein/estimate"] = totals["critic/real"] - totals["critic/fake"]
    return totals


def generator_update(
    generator: Player,
    critic: nn.Module,
    objective: Objective,
    latents: Tensor,
    parallel: Parallel,
    micro_batch: int | None = None,
) -> Metrics:
    """Move the generator against a critic that stays as it is. Returns 0-d tensors.

    latents: (batch, latent).
    """
    generator.optimizer.zero_grad(set_to_none=True)
    totals: Metrics = {}
    with frozen(critic):
        for part, share, is_last in _parts(len(latents), micro_batch):
            with nullcontext() if is_last else parallel.no_sync(generator.wrapped):
                loss = objective.generator_loss(critic, generator.wrapped(latents[part]))
                parallel.backward(loss * share)
            _add(totals, {"generator/loss": loss}, share)
    totals["generator/grad_norm"] = _step(generator, parallel)
    return totals


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within it no parameter takes a gradient, and no running statistic moves."""
    norms = [layer for layer in module.modules() if isinstance(layer, BatchNorm2d)]
    module.requires_grad_(False)
    for layer in norms:
        layer.updates_statistics = False
    try:
        yield
    finally:
        module.requires_grad_(True)
        for layer in norms:
            layer.updates_statistics = True


def _parts(batch: int, micro_batch: int | None) -> Iterator[tuple[slice, float, bool]]:
    """Nearly equal parts of at most `micro_batch` samples: the slice, its share of the batch, is it last."""
    count = math.ceil(batch / micro_batch) if micro_batch else 1
    bounds = [batch * index // count for index in range(count + 1)]
    for first, end in pairwise(bounds):
        yield slice(first, end), (end - first) / batch, end == batch


def _add(totals: Metrics, metrics: Metrics, share: float) -> None:
    for name, value in metrics.items():
        part = value.detach().float() * share
        totals[name] = totals[name] + part if name in totals else part


def _step(player: Player, parallel: Parallel) -> Tensor:
    """Take the optimizer's step. Returns the gradient's norm as it was before any clipping of it."""
    parallel.unscale(player.optimizer)
    parameters = list(player.module.parameters())
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)
    if player.largest_grad_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, player.largest_grad_norm, norm, foreach=True)
    player.optimizer.step()
    return norm
