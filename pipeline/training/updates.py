"""One critic update and one generator update: functions of networks, an objective and tensors.

They know nothing of ranks or files. What differs between one process and many (the backward pass, and when gradients
are averaged) is passed in as a `Parallel`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial, reduce
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from pipeline.models.class_inputs import given
from pipeline.models.norms import RunningStatistics, grouped
from pipeline.objectives import Metrics, Objective, Penalty, Scores, Separable, as_separable
from pipeline.options import Rounds
from pipeline.phases import phase


class Parallel(Protocol):
    """How losses become gradients that are the same on all ranks."""

    def backward(self, loss: Tensor, weights: Sequence[Tensor]) -> None:
        """Add the loss's gradients to those of these weights only, scaled if float16 needs it."""
        ...

    def no_sync(self, module: nn.Module) -> AbstractContextManager[Any]:
        """A context in which backward passes through `module` do not average gradients over ranks."""
        ...

    def average_gradients(self, wrapped: nn.Module, weights: Sequence[Tensor]) -> None:
        """Average the weights' gradients over the ranks, unless the last backward pass through `wrapped` has."""
        ...

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients by the float16 scale."""
        ...


@dataclass
class Player:
    """A network in training.

    `module` is the network itself. `wrapped` is the same network inside DDP (in one process, `module` again); every
    forward pass whose backward pass trains the network must call `wrapped`. A gradient with a norm above
    `largest_grad_norm` is scaled down to it.
    """

    module: nn.Module
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    largest_grad_norm: float | None = None


EVERYTHING = slice(None)


class Change(Protocol):
    """Images of a part of a batch to what the critic sees in their place, of the same shape."""

    def __call__(self, images: Tensor, part: slice = EVERYTHING) -> Tensor: ...


def as_they_are(images: Tensor, part: slice = EVERYTHING) -> Tensor:
    """A `Change` that changes nothing."""
    return images


class GeneratorBatch(NamedTuple):
    """What one generator update of this rank works on."""

    latents: Tensor
    """float32 (batch, latent)"""
    real: Tensor
    """The real images of the step's last critic update, as the critic sees them, float32 (batch, channels, height,
    width). They are scored only if the objective's `generator_sees_real`; then they have the same labels."""
    seen_as: Change = as_they_are
    """How the critic sees generated images of a part of the batch"""
    labels: Tensor | None = None
    """int64 (batch,): the classes of the images to generate; None if the networks know of no labels"""


class CriticBatch(NamedTuple):
    """The images of one critic update of this rank."""

    real: Tensor
    """float32 (batch, channels, height, width) in [-1, 1]"""
    fake: Tensor
    """the same, without a graph"""
    uniform: Tensor
    """float32 (batch,) in [0, 1)"""
    labels: Tensor | None = None
    """int64 (batch,), of the real image and of the generated one beside it; None if the networks know of no labels"""

    def part(self, part: slice) -> CriticBatch:
        """These images of the batch."""
        labels = of_part(self.labels, part)
        return CriticBatch(self.real[part], self.fake[part], self.uniform[part], labels)


@dataclass(frozen=True)
class UpdatePlan:
    """How every update of a run is made."""

    parallel: Parallel
    micro_batch: int | None = None
    """The largest number of images in a forward pass, or None for the whole batch at once."""
    rounds: Rounds = "joint"
    """Whether a critic update is one optimizer step, or one on the real and then one on the generated images."""
    compares_pairs: bool = False
    """Whether critic updates report in which share of pairs the real image scores higher."""


@torch.no_grad()
def draw_fakes(
    generator: nn.Module,
    latents: Tensor,
    labels: Tensor | None = None,
    micro_batch: int | None = None,
    batches: int = 1,
) -> Tensor:
    """Generated images for critic updates, without a graph: float32 (batch, channels, height, width).

    latents: float32 (batch, latent), of one batch or of several that are independent of each other. In training, batch
    norm uses the statistics of each batch, or of each of its parts. labels: int64 (batch,), if there are classes.
    """
    with grouped(generator, batches):
        return torch.cat(
            [
                given(generator, of_part(labels, part))(latents[part])
                for part, _, _ in parts(len(latents), micro_batch)
            ]
        )


Loss = Callable[[slice], tuple[Tensor, Metrics]]
"""The loss (0-d, with a graph) and the metrics of a part of the batch."""


def critic_update(
    critic: Player,
    objective: Objective,
    batch: CriticBatch,
    plan: UpdatePlan,
    is_measured: bool = True,
    penalties: Sequence[Penalty] | None = None,
) -> Metrics:
    """Move the critic towards its optimum on one batch, and constrain it. Returns 0-d tensors if `is_measured`.

    `penalties` are those of the objective's that this update has; None means all.

    Joint, an update is one optimizer step on real and generated images; alternating, it is one step on the real and
    then one on the generated images, each constrained. Metrics are of the critic before their round's step, and the
    estimate is of the critic before the last round's step: alternating, that takes another pass over the real images.
    Raises ConfigError if the objective has no alternating rounds.
    """
    has_estimate = is_measured and objective.measures_wasserstein
    rounds: list[Loss]
    if plan.rounds == "joint":
        terms = objective.penalties if penalties is None else penalties
        asked = Asked(has_estimate, is_measured and plan.compares_pairs)
        rounds = [partial(on_both, critic, objective, terms, batch, asked)]
    else:
        separable = as_separable(objective)
        rounds = [
            partial(on_real, critic, separable, batch),
            partial(on_fake, critic, separable, batch, has_estimate),
        ]
    totals: Metrics = {}
    for loss in rounds:
        found = _descend(critic, "critic", loss, len(batch.real), plan, is_measured)
        if objective.constraint is not None:
            with phase("clip"):
                objective.constraint.apply(critic.module)
        add_share(totals, found)
    if is_measured:
        totals["critic/grad_norm"] /= len(rounds)
    return totals


def on_real(critic: Player, objective: Separable, batch: CriticBatch, part: slice) -> tuple[Tensor, Metrics]:
    """The first alternating round: the loss of real images, and their mean score."""
    scores = given(critic.wrapped, of_part(batch.labels, part))(batch.real[part])
    return objective.real_loss(scores), {"critic/real": scores.mean()}


def on_fake(
    critic: Player, objective: Separable, batch: CriticBatch, has_estimate: bool, part: slice
) -> tuple[Tensor, Metrics]:
    """The second alternating round: the loss of generated images, their mean score, and the estimate."""
    metrics, labels = {}, of_part(batch.labels, part)
    if has_estimate:
        # Both means must come from one critic, and the first round has changed it: score the real images again.
        with frozen(critic.module), torch.no_grad():
            real_score = given(critic.module, labels)(batch.real[part]).mean()
    scores = given(critic.wrapped, labels)(batch.fake[part])
    metrics["critic/fake"] = scores.mean()
    if has_estimate:
        metrics["wasserstein/estimate"] = real_score - metrics["critic/fake"]
    return objective.fake_loss(scores), metrics


class Asked(NamedTuple):
    """Which further metrics a joint update reports."""

    estimate: bool
    pairs: bool


def on_both(
    critic: Player,
    objective: Objective,
    penalties: Sequence[Penalty],
    batch: CriticBatch,
    asked: Asked,
    part: slice,
) -> tuple[Tensor, Metrics]:
    """A joint update: the loss of real and generated images, with these penalties, mean scores and what is asked."""
    images = batch.part(part)
    score = given(critic.wrapped, images.labels)
    # Two passes, not one over both: batch norm needs separate statistics of each kind, and the gradient of the score's
    # bias is exactly 0 only if two equal sums cancel; RMSprop would make full steps from a rounding error.
    scores = Scores(score(images.real), score(images.fake))
    loss = objective.critic_loss(scores)
    metrics = {"critic/real": scores.real.mean(), "critic/fake": scores.fake.mean()}
    if asked.estimate:
        metrics["wasserstein/estimate"] = metrics["critic/real"] - metrics["critic/fake"]
    if asked.pairs:
        metrics["critic/real_higher"] = (scores.real > scores.fake).float().mean()
    if penalties:
        penalty = reduce(
            torch.add, (term(score, images.real, images.fake, images.uniform) for term in penalties)
        )
        loss, metrics["critic/penalty"] = loss + penalty, penalty
    elif objective.penalties:
        # Lazy ones are not due: what is logged is the mean over all updates.
        metrics["critic/penalty"] = loss.new_zeros(())
    return loss, metrics


def generator_update(
    generator: Player,
    critic: nn.Module,
    objective: Objective,
    batch: GeneratorBatch,
    plan: UpdatePlan,
) -> Metrics:
    """Move the generator, with the critic unchanged. Returns 0-d tensors."""

    def loss(part: slice) -> tuple[Tensor, Metrics]:
        labels = of_part(batch.labels, part)
        score = given(critic, labels)
        images = batch.seen_as(given(generator.wrapped, labels)(batch.latents[part]), part)
        fake = score(images)
        # Empty rather than absent: an objective that reads it without saying so fails at once.
        seen = score(batch.real[part]) if objective.generator_sees_real else fake.new_empty(0)
        terms = [term.of_generated(score, images) for term in objective.generator_terms]
        return reduce(torch.add, terms, objective.generator_loss(Scores(seen, fake))), {}

    with frozen(critic):
        return _descend(generator, "generator", loss, len(batch.latents), plan)


def _descend(
    player: Player, name: str, loss_of: Loss, batch: int, plan: UpdatePlan, is_measured: bool = True
) -> Metrics:
    """One optimizer step on the mean of a loss over the batch, taken in parts. Returns metrics if `is_measured`."""
    player.optimizer.zero_grad(set_to_none=True)
    # Listed, because the images of a gradient penalty would get gradients too, which nobody reads.
    weights = [parameter for parameter in player.module.parameters() if parameter.requires_grad]
    totals: Metrics = {}
    for part, share, is_last in parts(batch, plan.micro_batch):
        with nullcontext() if is_last else plan.parallel.no_sync(player.wrapped):
            with phase("forward"):
                loss, metrics = loss_of(part)
            with phase("backward"):
                plan.parallel.backward(loss * share, weights)
                if is_last:
                    plan.parallel.average_gradients(player.wrapped, weights)
        if is_measured:
            add_share(totals, {**metrics, f"{name}/loss": loss}, share)
    with phase("optimizer"):
        plan.parallel.unscale(player.optimizer)
        if is_measured or player.largest_grad_norm is not None:
            totals[f"{name}/grad_norm"] = _limit_gradient(player)
        player.optimizer.step()
    return totals if is_measured else {}


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """A context in which no parameter takes a gradient, and no running statistic changes."""
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
    """Nearly equal parts of at most `micro_batch` images: the slice, its share of the batch, whether it is last."""
    count = math.ceil(batch / micro_batch) if micro_batch else 1
    bounds = [batch * index // count for index in range(count + 1)]
    for first, end in pairwise(bounds):
        yield slice(first, end), (end - first) / batch, end == batch


def of_part(labels: Tensor | None, part: slice) -> Tensor | None:
    """The labels of a part of the batch, if there are any."""
    return None if labels is None else labels[part]


def add_share(totals: Metrics, metrics: Metrics, share: float = 1.0) -> None:
    """Add the metrics of a part of the batch, weighted by the part's share of it, to `totals`, in place."""
    for name, value in metrics.items():
        weighted = value.detach().float() * share
        totals[name] = totals[name] + weighted if name in totals else weighted


def _limit_gradient(player: Player) -> Tensor:
    """Scale the gradient down to the player's limit, if it has one. Returns the norm before that."""
    parameters = list(player.module.parameters())
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], foreach=True)
    if player.largest_grad_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, player.largest_grad_norm, norm, foreach=True)
    return norm
