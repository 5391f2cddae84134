"""Least squares loss (Mao et al. 2017): scores are pulled to codes instead of being pushed past a border."""

from __future__ import annotations

from torch import Tensor

from pipeline.objectives.contract import Scores, Separable
from pipeline.option_objective import LeastSquaresOptions


class LeastSquares(Separable):
    """Critic: 1/2 E (c(real) - b)^2 + 1/2 E (c(fake) - a)^2. Generator: 1/2 E (c(fake) - c)^2.

    The best critic is (b p_real + a p_fake) / (p_real + p_fake). With b - c = 1 and b - a = 2 the generator
    then minimises half of Pearson's chi^2(p_real + p_fake, 2 p_fake).
    """

    def __init__(self, options: LeastSquaresOptions) -> None:
        self.a, self.b, self.c = options.a, options.b, options.c

    def real_loss(self, scores: Tensor) -> Tensor:
        """1/2 E (c(real) - b)^2."""
        return (scores - self.b).square().mean() / 2

    def fake_loss(self, scores: Tensor) -> Tensor:
        """1/2 E (c(fake) - a)^2."""
        return (scores - self.a).square().mean() / 2

    def generator_loss(self, scores: Scores) -> Tensor:
        """1/2 E (c(fake) - c)^2."""
        return (scores.fake - self.c).square().mean() / 2
