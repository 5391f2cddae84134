"""Penalties on the critic's slope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.objectives.contract import Critic, Penalty


@dataclass(frozen=True)
class GradientPenalty(Penalty):
    """weight E (|grad c(x)| - 1)^2, x uniform on the segments from fake to real (Gulrajani et al. 2017, equation 3).

    One-sided, only norms above 1 cost something: weight E max(0, |grad c(x)| - 1)^2, the paper's remark in section 4.
    """

    weight: float = 10.0
    is_one_sided: bool = False
    in_float32: bool = True
    """Whether the critic leaves mixed precision for it."""
    is_per_sample: ClassVar[bool] = True

    def __call__(self, critic: Critic, real: Tensor, fake: Tensor, uniform: Tensor) -> Tensor:
        """The penalty (0-d), differentiable with respect to the critic's weights."""
        norms = segment_gradient_norms(
            critic, real, fake, uniform, create_graph=True, in_float32=self.in_float32
        )
        excess = norms - 1
        if self.is_one_sided:
            excess = excess.clamp(min=0)
        return self.weight * excess.square().mean()


def segment_gradient_norms(
    critic: Critic,
    real: Tensor,
    fake: Tensor,
    uniform: Tensor,
    create_graph: bool = False,
    in_float32: bool = True,
) -> Tensor:
    """|grad c(x)| at one point of each segment from a generated to a real image: float32 (batch,).

    real, fake: float32 (batch, channels, height, width), paired in their order; uniform: float32 (batch,) in [0, 1],
    where on its segment each point is: 0 is the generated image, 1 the real one. Without `in_float32` the critic scores
    in the precision of the context.
    """
    share = uniform.view(-1, 1, 1, 1)
    between = (share * real + (1 - share) * fake).detach().requires_grad_()
    # Squaring doubles the norm's relative rounding error, and float16 overflows in it: better stay in float32.
    scores = critic(between, float32=in_float32)
    (gradient,) = torch.autograd.grad(scores.sum(), between, create_graph=create_graph)
    norms: Tensor = gradient.flatten(1).norm(dim=1)
    return norms
