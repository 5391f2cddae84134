"""Binary cross entropy, against the theorems of Goodfellow et al. 2014 on distributions over ten points."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch import Tensor

from pipeline.objectives import Separable, as_separable, build_objective
from pipeline.option_objective import CrossEntropyOptions
from tests.objectives.points import FAKE, FAKE_COUNTS, REAL, REAL_COUNTS, best_scores, generated, losses

SCORES = torch.tensor([-3.0, -0.5, 0.0, 1.0, 4.0], dtype=torch.float64)


def cross_entropy(
    generator: Literal["saturating", "non_saturating"] = "non_saturating",
    labels: Literal["real_is_one", "real_is_zero"] = "real_is_one",
) -> Separable:
    options = CrossEntropyOptions(name="cross_entropy", generator=generator, labels=labels)
    return as_separable(build_objective(options))


def sigmoid(scores: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-scores))


def test_the_critics_losses_are_the_two_log_likelihoods() -> None:
    objective = cross_entropy()
    torch.testing.assert_close(objective.real_loss(SCORES), -sigmoid(SCORES).log().mean())
    torch.testing.assert_close(objective.fake_loss(SCORES), -(1 - sigmoid(SCORES)).log().mean())


def test_the_generators_loss_is_that_of_real_images_or_saturating() -> None:
    expected = -sigmoid(SCORES).log().mean(), (1 - sigmoid(SCORES)).log().mean()
    torch.testing.assert_close(cross_entropy().generator_loss(generated(SCORES)), expected[0])
    torch.testing.assert_close(cross_entropy("saturating").generator_loss(generated(SCORES)), expected[1])


@pytest.mark.parametrize("generator", ["saturating", "non_saturating"])
def test_the_generators_loss_falls_as_its_images_look_more_real(
    generator: Literal["saturating", "non_saturating"],
) -> None:
    for labels, gain in (("real_is_one", 1), ("real_is_zero", -1)):
        scores = SCORES.clone().requires_grad_()
        cross_entropy(generator, labels).generator_loss(generated(scores)).backward()  # type: ignore[arg-type]
        assert scores.grad is not None
        assert (scores.grad * gain < 0).all()


def test_the_best_critics_score_is_the_log_ratio_of_the_densities() -> None:
    found = best_scores(cross_entropy(), REAL_COUNTS, FAKE_COUNTS)
    torch.testing.assert_close(found, (REAL / FAKE).log())
    torch.testing.assert_close(sigmoid(found), REAL / (REAL + FAKE))


@pytest.mark.parametrize("labels", ["real_is_one", "real_is_zero"])
def test_the_best_critics_loss_is_2_log_2_minus_2_jensen_shannon(
    labels: Literal["real_is_one", "real_is_zero"],
) -> None:
    objective = cross_entropy(labels=labels)
    best = best_scores(objective, REAL_COUNTS, FAKE_COUNTS)
    divergence = jensenshannon(REAL, FAKE) ** 2
    assert divergence > 0.05
    loss = losses(objective, best, REAL_COUNTS, FAKE_COUNTS).item()
    assert loss == pytest.approx(2 * math.log(2) - 2 * divergence, rel=1e-12)


def test_the_best_critic_of_equal_distributions_scores_zero() -> None:
    objective = cross_entropy()
    best = best_scores(objective, REAL_COUNTS, REAL_COUNTS)
    torch.testing.assert_close(best, torch.zeros(10, dtype=torch.float64))
    assert losses(objective, best, REAL_COUNTS, REAL_COUNTS).item() == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize("generator", ["saturating", "non_saturating"])
def test_flipped_labels_are_the_same_losses_at_negated_scores(
    generator: Literal["saturating", "non_saturating"],
) -> None:
    plain, flipped = cross_entropy(generator), cross_entropy(generator, "real_is_zero")
    assert torch.equal(flipped.real_loss(-SCORES), plain.real_loss(SCORES))
    assert torch.equal(flipped.fake_loss(-SCORES), plain.fake_loss(SCORES))
    assert torch.equal(flipped.generator_loss(generated(-SCORES)), plain.generator_loss(generated(SCORES)))


def test_with_flipped_labels_real_images_score_low() -> None:
    found = best_scores(cross_entropy(labels="real_is_zero"), REAL_COUNTS, FAKE_COUNTS)
    torch.testing.assert_close(found, (FAKE / REAL).log())


@pytest.mark.parametrize("labels", ["real_is_one", "real_is_zero"])
@pytest.mark.parametrize("generator", ["saturating", "non_saturating"])
def test_scores_of_ten_thousand_neither_overflow_nor_lose_their_gradient(
    generator: Literal["saturating", "non_saturating"], labels: Literal["real_is_one", "real_is_zero"]
) -> None:
    objective, sign = cross_entropy(generator, labels), -1 if labels == "real_is_zero" else 1
    # By how sure D is that the image is real: the losses, and their slopes in that direction.
    expected = {
        1e4: {"real_loss": (0, 0), "fake_loss": (1e4, 1), "saturating": (-1e4, -1), "non_saturating": (0, 0)},
        -1e4: {
            "real_loss": (1e4, -1),
            "fake_loss": (0, 0),
            "saturating": (0, 0),
            "non_saturating": (1e4, -1),
        },
    }
    for certainty, values in expected.items():
        for name in ("real_loss", "fake_loss", generator):
            scores = torch.tensor([sign * certainty], requires_grad=True)
            if name == generator:
                loss = objective.generator_loss(generated(scores))
            else:
                loss = getattr(objective, name)(scores)
            loss.backward()
            assert scores.grad is not None
            assert (loss.item(), sign * scores.grad.item()) == values[name], name


def test_it_measures_no_wasserstein_distance() -> None:
    assert not cross_entropy().measures_wasserstein
