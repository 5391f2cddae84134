"""Penalties on the critic's slope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pipeline.noise import signs
from pipeline.objectives.contract import Critic, Penalty

DIFFERENCE = 0.01
"""How far each value of an image in [-1, 1] moves for a finite difference; less is lost in float32's rounding."""


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


@dataclass(frozen=True)
class SlopePenalty(Penalty):
    """weight / 2 E |grad c(x)|^2 at real images (R1, Mescheder et al. 2018) or at generated ones (R2).

    `is_exact` differentiates the critic twice. Otherwise the squared slope is that of a finite difference along one
    random direction of signs for each image: ((c(x + h s) - c(x - h s)) / 2h)^2, whose mean over s is |grad c(x)|^2 up
    to order h^2. That needs no double backward, and adds variance. Lazily, only each `every`-th critic update has the
    term, `every` times as large (Karras et al. 2020).
    """

    images: Literal["real", "fake"]
    weight: float = 1.0
    every: int = 1
    is_exact: bool = True
    is_per_sample: ClassVar[bool] = True

    def __call__(self, critic: Critic, real: Tensor, fake: Tensor, uniform: Tensor) -> Tensor:
        """The penalty (0-d), differentiable with respect to the critic's weights."""
        images = real if self.images == "real" else fake
        squares = (
            squared_gradient_norms(critic, images)
            if self.is_exact
            else squared_differences(critic, images, uniform)
        )
        return 0.5 * self.weight * self.every * squares.mean()


def squared_gradient_norms(critic: Critic, images: Tensor) -> Tensor:
    """|grad c(x)|^2 at these images, float32 (batch, channels, height, width): float32 (batch,), differentiable."""
    images = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(images, float32=True).sum(), images, create_graph=True)
    return gradient.flatten(1).square().sum(1)


def squared_differences(critic: Critic, images: Tensor, uniform: Tensor) -> Tensor:
    """The squared slope of the critic along one random direction at each image: float32 (batch,).

    images: float32 (batch, channels, height, width); uniform: float32 (batch,) in [0, 1), which decides the directions.
    """
    moves = DIFFERENCE * signs(uniform, images[0].numel()).view_as(images)
    ahead, behind = critic(torch.cat([images + moves, images - moves]), float32=True).chunk(2)
    slopes: Tensor = (ahead - behind) / (2 * DIFFERENCE)
    return slopes.square()


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
