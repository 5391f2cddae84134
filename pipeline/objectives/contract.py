"""What every objective is: losses as functions of the critic's scores, and what bounds the critic.

An objective never runs the critic on a batch and never calls `backward`: the caller does. So the same objective
works in one process and in many, on whole batches and on micro-batches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from pipeline.errors import ConfigError

Critic = Callable[..., Tensor]
Metrics = dict[str, Tensor]


class Scores(NamedTuple):
    """The critic's scores, of any sign and size: networks end without a sigmoid."""

    real: Tensor
    """float32 (batch,), of real images; empty in a generator's loss, unless the objective's `generator_sees_real`"""
    fake: Tensor
    """float32 (batch,), of generated images"""


class Penalty(ABC):
    """A term of the critic's loss that needs the images themselves."""

    weight: float
    """What the term is multiplied by."""
    every: int = 1
    """Critic updates from one that has the term to the next, which is then weighted `every` times as much."""
    is_per_sample: ClassVar[bool] = False
    """Whether it differentiates the score of each image alone, which batch norm makes depend on the other images."""

    @abstractmethod
    def __call__(self, critic: Critic, real: Tensor, fake: Tensor, uniform: Tensor) -> Tensor:
        """The weighted term (0-d), differentiable with respect to the critic's weights.

        real, fake: float32 (batch, channels, height, width) in [-1, 1]; uniform: float32 (batch,) in [0, 1), this
        batch's own random numbers. The term must be a mean over the batch, so that micro-batches and ranks add up.
        """


class GeneratorTerm(ABC):
    """A term of the generator's loss that needs the images themselves."""

    @abstractmethod
    def of_generated(self, critic: Critic, fake: Tensor) -> Tensor:
        """The weighted term (0-d), a mean over generated images, float32 (batch, channels, height, width)."""


class Constraint(ABC):
    """What keeps the critic's weights in a set, by changing them after each optimizer step on the critic."""

    @abstractmethod
    def apply(self, critic: nn.Module) -> None:
        """Bring the weights back into the set, in place."""

    def report(self, critic: nn.Module) -> Metrics:
        """Values about the critic for each log point, as 0-d tensors by their TensorBoard tags."""
        return {}

    @property
    def half_width(self) -> float | None:
        """The largest magnitude of a constrained weight, or None if there is no such bound."""
        return None


class Objective(ABC):
    """What critic and generator minimise. Losses are 0-d, and means over the batch."""

    measures_wasserstein: bool = False
    """Whether mean c(real) - mean c(fake) is a Wasserstein estimate, up to the critic's Lipschitz constant."""
    generator_sees_real: bool = False
    """Whether `generator_loss` needs the scores of real images too: those of the step's last critic update."""
    penalties: tuple[Penalty, ...] = ()
    """Further terms of the critic's loss, added to it in this order."""
    generator_terms: tuple[GeneratorTerm, ...] = ()
    """Further terms of the generator's loss."""
    constraint: Constraint | None = None
    """What is done to the critic's weights after each optimizer step on it."""

    @abstractmethod
    def critic_loss(self, scores: Scores) -> Tensor:
        """The critic's loss, without the penalties. Both kinds of scores have the same number of images."""

    @abstractmethod
    def generator_loss(self, scores: Scores) -> Tensor:
        """The generator's loss on the scores of its images, and of real ones if it `generator_sees_real`."""


class Separable(Objective):
    """An objective whose critic's loss is one term of the real scores plus one of the generated scores.

    Only these can be trained in alternating rounds, because each round has one kind of images.
    """

    @abstractmethod
    def real_loss(self, scores: Tensor) -> Tensor:
        """The critic's loss on the scores of real images, float32 (batch,)."""

    @abstractmethod
    def fake_loss(self, scores: Tensor) -> Tensor:
        """The critic's loss on the scores of generated images, float32 (batch,)."""

    def critic_loss(self, scores: Scores) -> Tensor:
        """The sum of both."""
        return self.real_loss(scores.real) + self.fake_loss(scores.fake)


def as_separable(objective: Objective) -> Separable:
    """The objective, for alternating rounds. Raises ConfigError if they are impossible with it."""
    name = type(objective).__name__
    if not isinstance(objective, Separable):
        raise ConfigError(
            f"schedule.critic_rounds: alternating cannot be used with the objective {name}, whose loss compares the "
            "scores of real and generated images, while each round has images of one kind only. Use joint."
        )
    if objective.penalties:
        terms = ", ".join(type(penalty).__name__ for penalty in objective.penalties)
        raise ConfigError(
            f"schedule.critic_rounds: alternating cannot be used with the objective {name}, whose penalty ({terms}) "
            "needs real and generated images together, while each round has images of one kind only. Use joint."
        )
    return objective
