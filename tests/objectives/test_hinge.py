"""The hinge loss, against values computed by hand."""

from __future__ import annotations

import pytest
import torch

from pipeline.objectives import as_separable, build_objective
from pipeline.option_objective import HingeOptions
from tests.objectives.points import FAKE, FAKE_COUNTS, REAL, REAL_COUNTS, generated, losses

OBJECTIVE = as_separable(build_objective(HingeOptions(name="hinge")))
SCORES = torch.tensor([-2.5, -1.0, 0.25, 1.0, 3.0])


def test_the_losses_are_the_mean_distances_to_the_margins() -> None:
    assert OBJECTIVE.real_loss(SCORES).item() == pytest.approx((3.5 + 2 + 0.75 + 0 + 0) / 5)
    assert OBJECTIVE.fake_loss(SCORES).item() == pytest.approx((0 + 0 + 1.25 + 2 + 4) / 5)
    assert OBJECTIVE.generator_loss(generated(SCORES)).item() == pytest.approx(-0.75 / 5)


def test_scores_past_their_margin_have_no_loss_and_no_gradient() -> None:
    for loss_of, sign in ((OBJECTIVE.real_loss, 1), (OBJECTIVE.fake_loss, -1)):
        scores = (sign * torch.tensor([1.0001, 2.0, 1e4])).requires_grad_()
        loss = loss_of(scores)
        loss.backward()
        assert loss.item() == 0
        assert scores.grad is not None
        assert scores.grad.tolist() == [0, 0, 0]


def test_scores_short_of_their_margin_all_have_the_same_gradient() -> None:
    for loss_of, sign in ((OBJECTIVE.real_loss, 1), (OBJECTIVE.fake_loss, -1)):
        scores = (sign * torch.tensor([0.9, 0.0, -2.0, -1e4])).requires_grad_()
        loss_of(scores).backward()
        assert scores.grad is not None
        assert scores.grad.tolist() == [-sign / 4] * 4


def test_the_best_critic_is_1_if_data_is_more_likely_and_minus_1_if_not() -> None:
    # The loss is piecewise linear at each point, with corners at -1 and 1: the best score is a corner.
    best = torch.where(REAL > FAKE, 1.0, -1.0).double()
    least = losses(OBJECTIVE, best, REAL_COUNTS, FAKE_COUNTS).item()
    assert least == pytest.approx(2 * torch.minimum(REAL, FAKE).sum().item())
    differ = (REAL != FAKE).nonzero().flatten().tolist()
    for point in differ:
        for score in torch.linspace(-3, 3, 61).tolist():
            other = best.clone()
            other[point] = score
            if abs(score - best[point]) > 0.05:
                assert losses(OBJECTIVE, other, REAL_COUNTS, FAKE_COUNTS).item() > least + 1e-4


def test_it_measures_no_wasserstein_distance() -> None:
    assert not OBJECTIVE.measures_wasserstein
