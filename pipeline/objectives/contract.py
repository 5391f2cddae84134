"""What every objective is: losses as functions of the critic's scores, and what holds the critic."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

Critic = Callable[..., Tensor]
Metrics = dict[str, Tensor]


class Objective(ABC):
    """What critic and generator minimise. Whoever calls it runs the critic and the backward pass.

    Scores are float32 (batch,), of any sign and size: networks end without a sigmoid. Losses are 0-d. The
    critic's loss is `real_loss` + `fake_loss` (+ `penalty`), so it can be taken at once or in turn.
    """

    measures_wasserstein = False
    """Whether mean c(real) - mean c(fake) is a Wasserstein estimate, up to the critic's Lipschitz constant."""

    @abstractmethod
    def real_loss(self, scores: Tensor) -> Tensor:
        """The critic's loss on the scores of real images."""

    @abstractmethod
    def fake_loss(self, scores: Tensor) -> Tensor:
        """The critic's loss on the scores of generated images."""

    @abstractmethod
    def generator_loss(self, scores: Tensor) -> Tensor:
        """The generator's loss on the scores of its images."""

    def penalty(self, critic: Critic, real: Tensor, fake: Tensor, uniform: Tensor) -> Tensor | None:
        """A further term of the critic's loss, which needs the images themselves; None where there is none.

        Images are float32 (batch, channels, height, width) in [-1, 1]; `uniform` (batch,) in [0, 1) is this
        batch's own randomness.
        """
        return None

    def constrain(self, critic: nn.Module) -> None:  # noqa: B027 - most have nothing to do
        """Bring the critic's weights back into their set, after each optimizer step on it."""

    def report(self, critic: nn.Module) -> Metrics:
        """Figures about the critic for each log point, as 0-d tensors by their TensorBoard tags."""
        return {}
