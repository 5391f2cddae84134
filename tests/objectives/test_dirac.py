"""The Dirac GAN (Mescheder et al. 2018): one real point at 0, one generated point t, and the critic c(x) = w x.

Near the solution (t, w) = (0, 0), simultaneous gradient steps follow v' = J v. With R1's weight g and the slope s of
the losses in the score at 0, J has the eigenvalues -g/2 +- sqrt(g^2/4 - s^2): on the imaginary axis without R1, so that
the players circle for ever, and left of it with R1, so that they come to rest.
"""

from __future__ import annotations

import cmath

import pytest
import torch
from torch import Tensor

from pipeline.objectives import Objective, Scores, build_objective
from pipeline.option_objective import (
    CrossEntropyOptions,
    HingeOptions,
    ObjectiveOptions,
    RelativisticOptions,
    WassersteinOptions,
)

NAMES: dict[str, tuple[ObjectiveOptions, ObjectiveOptions, float]] = {
    "wasserstein": (WassersteinOptions(clip=1e9), WassersteinOptions(clip=1e9, r1=0.8), 1.0),
    "cross_entropy": (
        CrossEntropyOptions(name="cross_entropy"),
        CrossEntropyOptions(name="cross_entropy", r1=0.8),
        0.5,
    ),
    "hinge": (HingeOptions(name="hinge"), HingeOptions(name="hinge", r1=0.8), 1.0),
    "relativistic": (
        RelativisticOptions(name="relativistic", r1=None, r2=None),
        RelativisticOptions(name="relativistic", r1=0.8, r2=None),
        0.5,
    ),
}


def field(objective: Objective, state: Tensor) -> Tensor:
    """Minus the gradients of both players' losses at (t, w): the direction of their steps."""
    point, weight = (value.clone().requires_grad_() for value in state)

    def critic(images: Tensor, float32: bool = False) -> Tensor:
        return images.flatten(1).sum(1) * weight

    real, fake = state.new_zeros(1, 1, 1, 1), point.view(1, 1, 1, 1)
    loss = objective.critic_loss(Scores(critic(real), critic(fake.detach())))
    for penalty in objective.penalties:
        loss = loss + penalty(critic, real, fake.detach(), state.new_zeros(1))
    (of_weight,) = torch.autograd.grad(loss, weight)
    (of_point,) = torch.autograd.grad(objective.generator_loss(Scores(critic(real), critic(fake))), point)
    return -torch.stack([of_point, of_weight])


def eigenvalues(objective: Objective) -> list[complex]:
    """Of the field's derivative at the solution, by central differences in float64."""
    columns = []
    for direction in torch.eye(2, dtype=torch.float64):
        step = 1e-5 * direction
        columns.append((field(objective, step) - field(objective, -step)) / 2e-5)
    found: list[complex] = torch.linalg.eigvals(torch.stack(columns, 1)).tolist()
    return sorted(found, key=lambda value: (value.real, value.imag))


@pytest.mark.parametrize("name", NAMES)
def test_only_with_r1_the_players_come_to_rest(name: str) -> None:
    plain, penalized, slope = NAMES[name]
    circle = eigenvalues(build_objective(plain))
    assert circle == pytest.approx([-1j * slope, 1j * slope], abs=1e-6)
    root = cmath.sqrt(0.4**2 - slope**2)
    rest = eigenvalues(build_objective(penalized))
    assert rest == pytest.approx(sorted([-0.4 - root, -0.4 + root], key=lambda v: (v.real, v.imag)), abs=1e-6)
    assert max(value.real for value in rest) < -0.3


def test_r2_brings_the_relativistic_players_to_rest_too() -> None:
    options = RelativisticOptions(name="relativistic", r1=None, r2=0.8)
    assert max(value.real for value in eigenvalues(build_objective(options))) < -0.3
