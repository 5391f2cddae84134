"""Wasserstein loss with weight clipping (Arjovsky, Chintala, Bottou 2017, algorithm 1)."""

from __future__ import annotations

from torch import Tensor, nn

from pipeline.objectives.clipping import clip_weights, clipped_fraction, weights_in_scope
from pipeline.objectives.contract import Metrics, Objective
from pipeline.options import WassersteinOptions


class WassersteinLoss(Objective):
    """max over c of E c(real) - E c(fake), the critic's loss being its negative; min over G of - E c(fake)."""

    measures_wasserstein = True

    def real_loss(self, scores: Tensor) -> Tensor:
        """- E c(real)."""
        return -scores.mean()

    def fake_loss(self, scores: Tensor) -> Tensor:
        """E c(fake)."""
        return scores.mean()

    def generator_loss(self, scores: Tensor) -> Tensor:
        """- E c(fake)."""
        return -scores.mean()


class ClippedWasserstein(WassersteinLoss):
    """The Wasserstein loss for a critic whose weights in scope stay in [-clip, clip]."""

    def __init__(self, options: WassersteinOptions) -> None:
        self.clip, self.scope = options.clip, options.scope

    def constrain(self, critic: nn.Module) -> None:
        """Clip every weight in scope."""
        clip_weights(weights_in_scope(critic, self.scope), self.clip)

    def report(self, critic: nn.Module) -> Metrics:
        """critic/clipped_fraction: the share of the weights in scope that lie on the walls of the box."""
        weights = weights_in_scope(critic, self.scope)
        return {"critic/clipped_fraction": clipped_fraction(weights, self.clip)}
