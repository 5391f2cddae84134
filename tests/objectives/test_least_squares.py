"""The least squares loss, against the theorems of Mao et al. 2017 on distributions over ten points."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.objectives import build_objective
from pipeline.objectives.least_squares import LeastSquares
from pipeline.option_objective import LeastSquaresOptions
from tests.objectives.points import FAKE, FAKE_COUNTS, REAL, REAL_COUNTS, best_scores, generated

PEARSON, BINARY = (-1.0, 1.0, 0.0), (0.0, 1.0, 1.0)
CODINGS = pytest.mark.parametrize("coding", [PEARSON, BINARY, (-2.0, 3.0, 0.5)])


def least_squares(coding: tuple[float, float, float]) -> LeastSquares:
    a, b, c = coding
    objective = build_objective(LeastSquaresOptions(name="least_squares", a=a, b=b, c=c))
    assert isinstance(objective, LeastSquares)
    return objective


@pytest.mark.parametrize(
    ("coding", "real", "fake", "generator"),
    [
        (PEARSON, (0.25 + 4 + 1) / 6, (6.25 + 0 + 9) / 6, (2.25 + 1 + 4) / 6),
        (BINARY, (0.25 + 4 + 1) / 6, (2.25 + 1 + 4) / 6, (0.25 + 4 + 1) / 6),
    ],
)
def test_a_loss_is_half_the_mean_squared_distance_to_its_code(
    coding: tuple[float, float, float], real: float, fake: float, generator: float
) -> None:
    objective, scores = least_squares(coding), torch.tensor([1.5, -1.0, 2.0])
    assert objective.real_loss(scores).item() == pytest.approx(real)
    assert objective.fake_loss(scores).item() == pytest.approx(fake)
    assert objective.generator_loss(generated(scores)).item() == pytest.approx(generator)


def test_the_published_pearson_coding_is_the_default() -> None:
    default = build_objective(LeastSquaresOptions(name="least_squares"))
    assert isinstance(default, LeastSquares)
    assert (default.a, default.b, default.c) == PEARSON


@CODINGS
def test_the_best_critic_is_the_mean_of_the_codes_by_density(
    coding: tuple[float, float, float],
) -> None:
    a, b, _ = coding
    found = best_scores(least_squares(coding), REAL_COUNTS, FAKE_COUNTS)
    torch.testing.assert_close(found, (b * REAL + a * FAKE) / (REAL + FAKE))


@CODINGS
def test_at_points_of_one_kind_only_the_best_critic_gives_its_code(
    coding: tuple[float, float, float],
) -> None:
    a, b, _ = coding
    found = best_scores(least_squares(coding), torch.tensor([3, 0, 5]), torch.tensor([0, 4, 5]))
    between = (b * 5 / 8 + a * 5 / 9) / (5 / 8 + 5 / 9)
    torch.testing.assert_close(found, torch.tensor([b, a, between], dtype=torch.float64))


def full_cost(coding: tuple[float, float, float], real_counts: Tensor, fake_counts: Tensor) -> float:
    """1/2 E (D - c)^2 over real and over generated points, with the best critic D for them.

    The term over real points does not depend on the generator's weights, so training leaves it out.
    """
    objective = least_squares(coding)
    best = best_scores(objective, real_counts, fake_counts)
    counts = (real_counts, fake_counts)
    return sum(objective.generator_loss(generated(best.repeat_interleave(count))).item() for count in counts)


def test_twice_the_generators_cost_is_pearsons_divergence() -> None:
    # Of p + q from 2 q; the definition, written out a point at a time.
    divergence = sum(
        (2 * q - (p + q)) ** 2 / (p + q) for p, q in zip(REAL.tolist(), FAKE.tolist(), strict=True)
    )
    assert divergence > 0.4
    assert 2 * full_cost(PEARSON, REAL_COUNTS, FAKE_COUNTS) == pytest.approx(divergence, rel=1e-12)


def test_only_codes_with_the_two_distances_give_pearsons_divergence() -> None:
    # b - c = 1 and b - a = 2.
    shifted, pearson = (2.0, 4.0, 3.0), full_cost(PEARSON, REAL_COUNTS, FAKE_COUNTS)
    assert full_cost(shifted, REAL_COUNTS, FAKE_COUNTS) == pytest.approx(pearson, rel=1e-12)
    assert full_cost(BINARY, REAL_COUNTS, FAKE_COUNTS) != pytest.approx(pearson, rel=0.05)


def test_the_cost_is_zero_if_both_distributions_are_equal() -> None:
    assert full_cost(PEARSON, REAL_COUNTS, REAL_COUNTS) == pytest.approx(0, abs=1e-15)
    assert full_cost(PEARSON, REAL_COUNTS, FAKE_COUNTS) > 0.2


def test_it_measures_no_wasserstein_distance_and_constrains_nothing() -> None:
    objective = least_squares(PEARSON)
    assert objective.constraint is None
    assert objective.penalties == ()
    assert not objective.measures_wasserstein
