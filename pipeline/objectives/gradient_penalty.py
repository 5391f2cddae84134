"""Wasserstein loss with gradient penalty (Gulrajani et al. 2017, equation 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.objectives.contract import Critic
from pipeline.objectives.wasserstein import WassersteinLoss
from pipeline.options import GradientPenaltyOptions


class GradientPenalty(WassersteinLoss):
    """The Wasserstein loss plus weight E (|grad c(x)| - 1)^2, x uniform on the segments from real to fake.

    One-sided, only norms above 1 cost: weight E max(0, |grad c(x)| - 1)^2, the paper's remark in section 4.
    """

    def __init__(self, options: GradientPenaltyOptions) -> None:
        self.weight, self.is_one_sided = options.weight, options.sides == "one"

    def penalty(self, critic: Critic, real: Tensor, fake: Tensor, uniform: Tensor) -> Tensor:
        """The penalty (0-d), differentiable with respect to the critic's weights."""
        excess = segment_gradient_norms(critic, real, fake, uniform, create_graph=True) - 1
        if self.is_one_sided:
            excess = excess.clamp(min=0)
        return self.weight * excess.square().mean()


def segment_gradient_norms(
    critic: Critic, real: Tensor, fake: Tensor, uniform: Tensor, create_graph: bool = False
) -> Tensor:
    """|grad c(x)| at one point of each segment from fake (share 0) to real (share 1): float32 (batch,).

    The batch's images are paired as they come; `uniform` (batch,) are the points' shares.
    """
    share = uniform.view(-1, 1, 1, 1)
    between = (share * real + (1 - share) * fake).detach().requires_grad_()
    # A norm's rounding error is doubled by the square, and float16 overflows in it: stay in float32.
    scores = critic(between, float32=True)
    (gradient,) = torch.autograd.grad(scores.sum(), between, create_graph=create_graph)
    norms: Tensor = gradient.flatten(1).norm(dim=1)
    return norms
