"""Hinge loss (Lim, Ye 2017): scores past the margin of 1 cost the critic nothing."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import relu

from pipeline.objectives.contract import Scores, Separable


class Hinge(Separable):
    """Critic: E max(0, 1 - c(real)) + E max(0, 1 + c(fake)). Generator: - E c(fake)."""

    def real_loss(self, scores: Tensor) -> Tensor:
        """E max(0, 1 - c(real))."""
        return relu(1 - scores).mean()

    def fake_loss(self, scores: Tensor) -> Tensor:
        """E max(0, 1 + c(fake))."""
        return relu(1 + scores).mean()

    def generator_loss(self, scores: Scores) -> Tensor:
        """- E c(fake)."""
        return -scores.fake.mean()
