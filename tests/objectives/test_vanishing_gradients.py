"""How much of a gradient reaches the generator when its images are far from the real ones.

These are two questions that are easily confused. First: what gradient does a loss give for a score, from any critic?
That is what Mao et al. 2017 claim for least squares (section 3.2, figure 1): its gradient grows with the distance of
the score from its code, while that of a sigmoid vanishes on one side. Second: what gradient comes through the best
critic of each objective? There least squares vanishes like cross entropy, because its best critic is flat too; only
the Wasserstein critic has a slope everywhere (Arjovsky, Chintala, Bottou 2017, section 3).

Real samples are N(0, 1). The generator is x -> x + d, so its samples are N(d, 1), and its gradient is that of its loss
with respect to d for a fixed critic.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import norm
from torch import Tensor

from pipeline.objectives import Objective, build_objective
from pipeline.option_objective import (
    CrossEntropyOptions,
    HingeOptions,
    LeastSquaresOptions,
    WassersteinOptions,
)
from tests.objectives.points import generated

SATURATING = build_objective(CrossEntropyOptions(name="cross_entropy", generator="saturating"))
NON_SATURATING = build_objective(CrossEntropyOptions(name="cross_entropy"))
PEARSON = build_objective(LeastSquaresOptions(name="least_squares"))
BINARY = build_objective(LeastSquaresOptions(name="least_squares", a=0.0, b=1.0, c=1.0))
WASSERSTEIN = build_objective(WassersteinOptions())
HINGE = build_objective(HingeOptions(name="hinge"))

DISTANCES = [1.0, 2.0, 5.0, 10.0, 20.0]
NOISE = torch.linspace(-14, 14, 2801, dtype=torch.float64)
"""N(0, 1) as points on a grid, with the weights below: a random sample would miss the important tails."""
WEIGHTS = torch.exp(-NOISE.square() / 2) / torch.exp(-NOISE.square() / 2).sum()


def gradient(objective: Objective, critic: Callable[[Tensor], Tensor], d: float) -> float:
    """The derivative of the generator's expected loss with respect to d."""
    shift = torch.tensor(d, dtype=torch.float64, requires_grad=True)
    losses = torch.vmap(lambda scores: objective.generator_loss(generated(scores)))(
        critic(NOISE + shift)[:, None]
    )
    (found,) = torch.autograd.grad((WEIGHTS * losses).sum(), shift)
    return found.item()


def best_logit(d: float) -> Callable[[Tensor], Tensor]:
    """log p / q of N(0, 1) and N(d, 1): the best critic for cross entropy."""
    return lambda x: d * d / 2 - d * x


def best_least_squares(objective: Objective, d: float) -> Callable[[Tensor], Tensor]:
    """(b p + a q) / (p + q)."""
    a, b = objective.a, objective.b  # type: ignore[attr-defined]
    return lambda x: a + (b - a) * torch.sigmoid(best_logit(d)(x))


def overlap(d: float) -> float:
    """The integral of min(p, q), an upper bound of the integral of q D with D = p / (p + q)."""
    return float(2 * norm.cdf(-d / 2))


@pytest.mark.parametrize("d", DISTANCES)
def test_saturating_cross_entropy_vanishes_through_its_best_critic(d: float) -> None:
    found = gradient(SATURATING, best_logit(d), d)
    expected, _ = quad(
        lambda x: d * norm.pdf(x, d) * expit(d * d / 2 - d * x), d / 2 - 9, d + 9, epsabs=0, limit=500
    )
    assert found == pytest.approx(expected, rel=1e-6)
    assert 0 < found < d * overlap(d)


def test_at_a_distance_of_ten_the_saturating_gradient_is_almost_zero() -> None:
    assert gradient(SATURATING, best_logit(1.0), 1.0) > 0.3
    assert gradient(SATURATING, best_logit(10.0), 10.0) < 1e-5
    assert gradient(SATURATING, best_logit(20.0), 20.0) < 1e-20


@pytest.mark.parametrize("d", DISTANCES)
def test_non_saturating_cross_entropy_grows_with_the_distance(d: float) -> None:
    # d E (1 - D) is d without the saturating loss's d E D.
    found = gradient(NON_SATURATING, best_logit(d), d)
    assert found == pytest.approx(d - gradient(SATURATING, best_logit(d), d), rel=1e-9)
    assert found > d / 2


@pytest.mark.parametrize("d", DISTANCES)
def test_the_wasserstein_gradient_is_one_at_every_distance(d: float) -> None:
    # -x has slope 1, and mean c(real) - mean c(fake) is d, the distance itself.
    assert gradient(WASSERSTEIN, lambda x: -x, d) == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("objective", [PEARSON, BINARY])
@pytest.mark.parametrize("d", DISTANCES)
def test_least_squares_vanishes_too_through_its_best_critic(objective: Objective, d: float) -> None:
    # |D - c| is at most 1, and the slope of D is (b - a) D' (1 - D') d with D' = p / (p + q).
    found = gradient(objective, best_least_squares(objective, d), d)
    span = objective.b - objective.a  # type: ignore[attr-defined]
    assert 0 < found < span * d * overlap(d)


def pull(objective: Objective, score: float) -> float:
    """The negative derivative of the generator's loss with respect to a score."""
    scores = torch.tensor([score], dtype=torch.float64, requires_grad=True)
    objective.generator_loss(generated(scores)).backward()
    assert scores.grad is not None
    return -scores.grad.item()


@pytest.mark.parametrize("distance", [0.0, 1.0, 5.0, 20.0, 100.0])
def test_the_pull_on_a_score_far_below_the_boundary(distance: float) -> None:
    """Images that the critic is sure are generated: only the saturating loss has no gradient for them."""
    assert pull(SATURATING, -distance) == pytest.approx(float(expit(-distance)), rel=1e-9)
    assert pull(NON_SATURATING, -distance) == pytest.approx(float(expit(distance)), rel=1e-9)
    assert pull(PEARSON, -distance) == pytest.approx(distance)
    assert pull(BINARY, -distance) == pytest.approx(distance + 1)
    assert pull(WASSERSTEIN, -distance) == pull(HINGE, -distance) == 1


@pytest.mark.parametrize("distance", [1.0, 5.0, 20.0, 100.0])
def test_the_pull_on_a_score_far_above_the_boundary(distance: float) -> None:
    """Images that score as real although they are far beyond the data.

    The non-saturating loss has no gradient for them. Least squares pulls them back to the code, with a gradient that
    grows with the distance. The others push them further.
    """
    assert pull(NON_SATURATING, distance) == pytest.approx(float(expit(-distance)), rel=1e-9)
    assert pull(SATURATING, distance) == pytest.approx(float(expit(distance)), rel=1e-9)
    assert pull(PEARSON, distance) == pytest.approx(-distance)
    assert pull(BINARY, distance) == pytest.approx(1 - distance)
    assert pull(WASSERSTEIN, distance) == pull(HINGE, distance) == 1


@pytest.mark.parametrize("slope", [0.5, 2.0])
def test_at_a_fixed_slope_least_squares_grows_while_the_sigmoid_dies(slope: float) -> None:
    """c(x) = -k x, whose boundary is at the real samples' mean: what the claim means for images."""

    def gradients(objective: Objective) -> list[float]:
        return [gradient(objective, lambda x: -slope * x, d) for d in DISTANCES]

    assert gradients(PEARSON) == pytest.approx([slope**2 * d for d in DISTANCES])
    assert gradients(WASSERSTEIN) == pytest.approx([slope] * len(DISTANCES))
    saturating = gradients(SATURATING)
    assert saturating == sorted(saturating, reverse=True)
    # E sigmoid(s) < E exp(s) for s of N(-k d, k^2).
    for found, d in zip(saturating, DISTANCES, strict=True):
        assert 0 < found < slope * torch.tensor(-slope * d + slope**2 / 2).exp().item()
