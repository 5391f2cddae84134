"""One critic update and one generator update: functions of networks, an objective and tensors.

They know nothing of ranks or files. What differs between one process and many (the backward pass, the
moment when gradients are averaged) comes in as a `Parallel`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from pipeline.models.norms import RunningStatistics, grouped
from pipeline.objectives import Metrics, Objective
from pipeline.options import Rounds
from pipeline.phases import phase


class Parallel(Protocol):
    """How losses become gradients that are equal on all ranks."""

    def backward(self, loss: Tensor, weights: Sequence[Tensor]) -> None:
        """Add the loss's gradients to those of the weights, and to nothing else's, scaled where float16 needs it."""
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


class CriticBatch(NamedTuple):
    """What a critic update has seen."""

    real: Tensor
    """float32 (batch, channels, height, width) in [-1, 1]"""
    fake: Tensor
    """the same, without a graph"""
    uniform: Tensor
    """float32 (batch,) in [0, 1)"""


@torch.no_grad()
def draw_fakes(
    generator: nn.Module, latents: Tensor, micro_batch: int | None = None, batches: int = 1
) -> Tensor:
    """Images for the critic to tell from real ones, without a graph: float32 (batch, channels, height, width).

    latents: (batch, latent), of one batch or of several that do not see one another. In training batch norm takes the
    statistics of each batch, or of each of its parts.
    """
    with grouped(generator, batches):
        return torch.cat([generator(latents[part]) for part, _, _ in parts(len(latents), micro_batch)])


def critic_update(
    critic: Player,
    objective: Objective,
    real: Tensor,
    fake: Tensor,
    uniform: Tensor,
    parallel: Parallel,
    micro_batch: int | None = None,
    rounds: Rounds = "joint",
    is_measured: bool = True,
) -> Metrics:
    """Move the critic towards its optimum on one batch, and constrain it. Returns 0-d tensors where `is_measured`.

    real, fake: float32 (batch, channels, height, width) in [-1, 1], `fake` without a graph; uniform: (batch,).
    Joint, it is one optimizer step on real and generated images; alternating, one step on the real and then
    one on the generated, each constrained. Metrics are of the critic as their round finds it, the estimate of
    the critic as the last round finds it: alternating, that takes another pass over the real images.
    """
    has_estimate = is_measured and objective.measures_wasserstein

    def on_real(part: slice) -> tuple[Tensor, Metrics]:
        scores = critic.wrapped(real[part])
        return objective.real_loss(scores), {"critic/real": scores.mean()}

    def on_fake(part: slice) -> tuple[Tensor, Metrics]:
        metrics = {}
        if has_estimate:
            # An estimate is of one critic, and the round before has moved this one.
            with frozen(critic.module), torch.no_grad():
                real_score = critic.module(real[part]).mean()
        scores = critic.wrapped(fake[part])
        metrics["critic/fake"] = scores.mean()
        if has_estimate:
            metrics["wasserstein/estimate"] = real_score - metrics["critic/fake"]
        return objective.fake_loss(scores), metrics

    def on_both(part: slice) -> tuple[Tensor, Metrics]:
        # Two passes and not one over both: batch norm takes statistics of each kind apart, and the score's bias has a
        # gradient of exactly 0 only where two equal sums cancel; of its rounding RMSprop would make full steps.
        real_scores, fake_scores = critic.wrapped(real[part]), critic.wrapped(fake[part])
        loss = objective.real_loss(real_scores) + objective.fake_loss(fake_scores)
        metrics = {"critic/real": real_scores.mean(), "critic/fake": fake_scores.mean()}
        if has_estimate:
            metrics["wasserstein/estimate"] = metrics["critic/real"] - metrics["critic/fake"]
        penalty = objective.penalty(critic.wrapped, real[part], fake[part], uniform[part])
        if penalty is not None:
            loss, metrics["critic/penalty"] = loss + penalty, penalty
        return loss, metrics

    totals: Metrics = {}
    losses = [on_both] if rounds == "joint" else [on_real, on_fake]
    for loss in losses:
        found = _descend(critic, "critic", loss, len(real), parallel, micro_batch, is_measured)
        with phase("clip"):
            objective.constrain(critic.module)
        add_share(totals, found)
    if is_measured:
        totals["critic/grad_norm"] /= len(losses)
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

    def loss(part: slice) -> tuple[Tensor, Metrics]:
        return objective.generator_loss(critic(generator.wrapped(latents[part]))), {}

    with frozen(critic):
        return _descend(generator, "generator", loss, len(latents), parallel, micro_batch)


def _descend(
    player: Player,
    name: str,
    loss_of: Callable[[slice], tuple[Tensor, Metrics]],
    batch: int,
    parallel: Parallel,
    micro_batch: int | None,
    is_measured: bool = True,
) -> Metrics:
    """One optimizer step on the mean of a loss over the batch, taken in parts. Returns metrics where `is_measured`."""
    player.optimizer.zero_grad(set_to_none=True)
    # Named, for a gradient penalty's images would get a gradient too, which nobody reads.
    weights = [parameter for parameter in player.module.parameters() if parameter.requires_grad]
    totals: Metrics = {}
    for part, share, is_last in parts(batch, micro_batch):
        with nullcontext() if is_last else parallel.no_sync(player.wrapped):
            with phase("forward"):
                loss, metrics = loss_of(part)
            with phase("backward"):
                parallel.backward(loss * share, weights)
        if is_measured:
            add_share(totals, {**metrics, f"{name}/loss": loss}, share)
    with phase("optimizer"):
        parallel.unscale(player.optimizer)
        if is_measured or player.largest_grad_norm is not None:
            totals[f"{name}/grad_norm"] = _limit_gradient(player)
        player.optimizer.step()
    return totals if is_measured else {}


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within it no parameter takes a gradient, and no running statistic moves."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    layers = [
        layer
        for layer in module.modules()
        if isinstance(layer, RunningStatistics) and layer.updates_statistics
    ]
    for parameter in trained:
        parameter.requires_grad_(False)
    for layer in layers:
        layer.updates_statistics = False
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for layer in layers:
            layer.updates_statistics = True


def parts(batch: int, micro_batch: int | None) -> Iterator[tuple[slice, float, bool]]:
    """Nearly equal parts of at most `micro_batch` samples: the slice, its share of the batch, is it last."""
    count = math.ceil(batch / micro_batch) if micro_batch else 1
    bounds = [batch * index // count for index in range(count + 1)]
    for first, end in pairwise(bounds):
        yield slice(first, end), (end - first) / batch, end == batch


def add_share(totals: Metrics, metrics: Metrics, share: float = 1.0) -> None:
    """Add a part's metrics to those of the whole, in place, by the part's share of it."""
    for name, value in metrics.items():
        weighted = value.detach().float() * share
        totals[name] = totals[name] + weighted if name in totals else weighted


def _limit_gradient(player: Player) -> Tensor:
    """Hold the gradient's norm to the player's limit, if it has one. Returns the norm as it was before."""
    parameters = list(player.module.parameters())
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)
    if player.largest_grad_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, player.largest_grad_norm, norm, foreach=True)
    return norm
