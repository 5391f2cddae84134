"""The Wasserstein loss (Arjovsky, Chintala, Bottou 2017, algorithm 1)."""

from __future__ import annotations

from torch import Tensor

from pipeline.objectives.contract import Constraint, Penalty, Scores, Separable


class Wasserstein(Separable):
    """max over c of E c(real) - E c(fake), the critic's loss being its negative; min over G of - E c(fake).

    The maximum is the Wasserstein-1 distance for critics of Lipschitz constant 1, so something must bound the critic:
    weight clipping as a `constraint`, as in the paper, or a gradient penalty (Gulrajani et al. 2017, equation 3).
    """

    measures_wasserstein = True

    def __init__(self, penalties: tuple[Penalty, ...] = (), constraint: Constraint | None = None) -> None:
        self.penalties, self.constraint = penalties, constraint

    def real_loss(self, scores: Tensor) -> Tensor:
        """- E c(real)."""
        return -scores.mean()

    def fake_loss(self, scores: Tensor) -> Tensor:
        """E c(fake)."""
        return scores.mean()

    def generator_loss(self, scores: Scores) -> Tensor:
        """- E c(fake)."""
        return -scores.fake.mean()
