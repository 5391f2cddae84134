"""Wasserstein loss with gradient penalty (Gulrajani et al. 2017, equation 3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.options import GradientPenaltyOptions


class GradientPenalty:
    """E c(fake) - E c(real) + weight E (|grad c(x)| - 1)^2, x uniform on the lines from real to fake."""

    def __init__(self, options: GradientPenaltyOptions) -> None:
        self.weight = options.weight

    def critic_loss(
        self, critic: Callable[..., Tensor], real: Tensor, fake: Tensor, uniform: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Minus the Wasserstein estimate, plus the penalty. All three passes share one backward."""
        real_score, fake_score = critic(real).mean(), critic(fake).mean()
        share = uniform.view(-1, 1, 1, 1)
        between = (share * real + (1 - share) * fake).requires_grad_()
        # A norm's rounding error is doubled by the square, and float16 overflows in it: stay in float32.
        scores = critic(between, float32=True)
        (gradient,) = torch.autograd.grad(scores.sum(), between, create_graph=True)
        penalty = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
        metrics = {"critic/real": real_score, "critic/fake": fake_score, "critic/penalty": penalty}
        return fake_score - real_score + self.weight * penalty, metrics

    def generator_loss(self, critic: Callable[..., Tensor], fake: Tensor) -> Tensor:
        """- E c(fake)."""
        return -critic(fake).mean()

    def constrain(self, critic: nn.Module) -> None:
        """Nothing: the penalty is part of the loss."""

    def report(self, critic: nn.Module) -> dict[str, Tensor]:
        """Nothing beyond the penalty that each update reports."""
        return {}
