"""A trained critic's estimate over its mean slope, against the exact Wasserstein distance of the samples.

A critic that is K times a best one estimates K times the distance, and slopes K times as much: clipping to
0.01 makes K a ten-thousandth, the penalty makes it a little more than 1, and both give the same number once
that is divided out. Samples are images of one pixel with one or two channels; the generator returns its
latents, so that the generated samples are given too.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import wasserstein_distance
from torch import Tensor, nn

from pipeline.diagnostics import mean_slope, wasserstein_estimate
from pipeline.models import build_critic
from pipeline.objectives import build_objective
from pipeline.options import (
    AdamOptions,
    GradientPenaltyOptions,
    MlpOptions,
    ObjectiveOptions,
    OptimizerOptions,
    RmspropOptions,
    WassersteinOptions,
)
from pipeline.state import build_optimizer, set_learning_rate
from pipeline.steps import Player, critic_update

COUNT = 128


class Given(nn.Module):
    """Latents (batch, channels) as images of one pixel."""

    def forward(self, latents: Tensor) -> Tensor:
        return latents[:, :, None, None]


class OneProcess:
    """Gradients are what backward makes."""

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def no_sync(self, module: nn.Module) -> AbstractContextManager[Any]:
        return nullcontext()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        pass


RMSPROP, FAST_RMSPROP = (RmspropOptions(lr=lr, decay="linear") for lr in (5e-4, 5e-3))
ADAM = AdamOptions(name="adam", lr=5e-3, decay="linear")


def penalty(weight: float, sides: Any = "two") -> GradientPenaltyOptions:
    return GradientPenaltyOptions(name="gradient_penalty", weight=weight, sides=sides)


CRITICS: dict[str, tuple[ObjectiveOptions, OptimizerOptions]] = {
    "clip 0.01": (WassersteinOptions(clip=0.01), RMSPROP),
    "clip 0.1": (WassersteinOptions(clip=0.1), FAST_RMSPROP),
    "penalty 10": (penalty(10.0), ADAM),
    "penalty 0.1": (penalty(0.1), ADAM),
    "one-sided 10": (penalty(10.0, "one"), ADAM),
}


def normal(seed: int, channels: int = 1) -> Tensor:
    return torch.randn(COUNT, channels, generator=torch.Generator().manual_seed(seed))


def point(*place: float) -> Tensor:
    return torch.tensor([place]).expand(COUNT, -1)


def two_sides() -> Tensor:
    """Half of the samples at -0.6, half at 0.6."""
    return 0.1 * normal(0) + torch.tensor([-0.6, 0.6]).repeat(COUNT // 2)[:, None]


def ring() -> Tensor:
    angles = torch.linspace(0, 2 * torch.pi, COUNT + 1)[1:]
    return 0.8 * torch.stack([angles.cos(), angles.sin()], dim=1)


def cloud(*centre: float) -> Tensor:
    return 0.2 * normal(int(10 * centre[0]) % 7, 2) + torch.tensor(centre)


SAMPLES: dict[str, tuple[Tensor, Tensor]] = {
    "points 0.1 apart": (point(0.5), point(0.4)),
    "points 0.5 apart": (point(-0.2), point(0.3)),
    "points 2 apart": (point(-1.0), point(1.0)),
    "points on the diagonal": (point(-0.5, -0.5), point(0.5, 0.5)),
    "points at 30 degrees": (point(-0.433, -0.25), point(0.433, 0.25)),
    "shift": (0.2 * normal(0) - 0.15, 0.2 * normal(1) + 0.15),
    "shift and scale": (0.1 * normal(0) - 0.2, 0.3 * normal(1) + 0.3),
    "scale": (0.4 * normal(0), 0.1 * normal(1)),
    "two sides": (two_sides(), 0.1 * normal(1)),
    "clouds on the diagonal": (cloud(-0.35, -0.35), cloud(0.35, 0.35)),
    "clouds at 30 degrees": (cloud(-0.433, -0.25), cloud(0.433, 0.25)),
    "ring": (ring(), 0.1 * normal(1, 2)),
}


@dataclass
class Measured:
    exact: float
    estimate: float
    slope: float

    @property
    def normalised(self) -> float:
        return self.estimate / self.slope


@cache
def measure(samples: str, critic: str, steps: int, seed: int = 0) -> Measured:
    """Train a critic on the samples, with the product's own update, and read it."""
    real, fake = SAMPLES[samples]
    torch.manual_seed(seed)
    module = build_critic(MlpOptions(name="mlp", width=32, layers=2), 1, real.shape[1])
    options, optimizer = CRITICS[critic]
    objective, generator = build_objective(options), Given()
    player = Player(module, module, build_optimizer(module, optimizer))
    for step in range(steps):
        set_learning_rate(player, optimizer, step, steps)
        # Every sample counts in each update, and meets another partner in each.
        images = real[:, :, None, None]
        critic_update(player, generator, objective, images, *_drawn(fake), OneProcess())
    images = real[:, :, None, None]
    slopes = [mean_slope(module, generator, images, *_drawn(fake)) for _ in range(10)]
    estimate = wasserstein_estimate(module, generator, [(images, fake)])
    return Measured(exact_distance(real, fake), estimate.item(), torch.stack(slopes).mean().item())


def _drawn(fake: Tensor) -> tuple[Tensor, Tensor]:
    """The generated samples in another order, and points for their segments."""
    return fake[torch.randperm(COUNT)], torch.rand(COUNT)


def exact_distance(real: Tensor, fake: Tensor) -> float:
    """W1 of two sets of samples: sorted in one dimension, else by the cheapest assignment."""
    if real.shape[1] == 1:
        return float(wasserstein_distance(real[:, 0].numpy(), fake[:, 0].numpy()))
    cost = torch.cdist(real.double(), fake.double()).numpy()
    return float(cost[linear_sum_assignment(cost)].mean())
