"""What is minimised: one file an objective.

An objective maps a critic and images to losses; whoever calls it runs the backward pass. Real images
always score high: the Wasserstein estimate is mean c(real) - mean c(fake).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn

from pipeline.objectives.gradient_penalty import GradientPenalty
from pipeline.objectives.wasserstein import Wasserstein
from pipeline.options import ObjectiveOptions

Critic = Callable[..., Tensor]
Metrics = dict[str, Tensor]


class Objective(Protocol):
    """The contract. Images are float32 (batch, channels, height, width) in [-1, 1]; losses are 0-d."""

    def critic_loss(
        self, critic: Critic, real: Tensor, fake: Tensor, uniform: Tensor
    ) -> tuple[Tensor, Metrics]:
        """The loss that the critic minimises; `uniform` (batch,) in [0, 1) is this batch's own randomness."""
        ...

    def generator_loss(self, critic: Critic, fake: Tensor) -> Tensor:
        """The loss that the generator minimises."""
        ...

    def constrain(self, critic: nn.Module) -> None:
        """Bring the critic's weights back into their set, after each of its updates."""
        ...

    def report(self, critic: nn.Module) -> Metrics:
        """Figures about the critic for each log point, as 0-d tensors by their TensorBoard tags."""
        ...


def build_objective(options: ObjectiveOptions) -> Objective:
    """The objective that the options name."""
    if options.name == "wasserstein":
        return Wasserstein(options)
    return GradientPenalty(options)
