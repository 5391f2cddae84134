"""Shares of classes, on histograms that can be counted by hand."""

from __future__ import annotations

import pytest
import torch

from pipeline.quality.class_balance import (
    RealClasses,
    class_distance,
    class_histogram,
    covered_modes,
    real_classes,
    recall_by_class,
)


def shares(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_a_sample_counts_for_its_likeliest_class() -> None:
    probabilities = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.4, 0.35, 0.25, 0.0], [0.1, 0.1, 0.8, 0.0]])
    histogram = class_histogram(probabilities)
    assert histogram.dtype == torch.float64
    assert histogram.tolist() == [2 / 3, 0, 1 / 3, 0]


def test_doubts_of_the_classifier_do_not_make_a_class_present() -> None:
    probabilities = torch.tensor([[0.6, 0.4]] * 50)
    assert covered_modes(class_histogram(probabilities), shares(0.5, 0.5)) == 1


@pytest.mark.parametrize(
    ("histogram", "modes"),
    [
        (shares(0.5, 0.4, 0.1, 0), 3),
        (shares(0.948, 0.026, 0.026, 0), 3),
        (shares(0.952, 0.024, 0.024, 0), 1),
        (shares(0, 0, 0, 1), 0),
        (shares(0, 0.2, 0, 0.8), 1),
    ],
)
def test_a_class_is_present_from_a_tenth_of_its_real_share_on(histogram: torch.Tensor, modes: int) -> None:
    """A class that the real samples do not have cannot be covered."""
    assert covered_modes(histogram, shares(0.5, 0.25, 0.25, 0)) == modes


@pytest.mark.parametrize(
    ("histogram", "distance"),
    [
        (shares(0.5, 0.5, 0), 0),
        (shares(1, 0, 0), 0.5),
        (shares(0.25, 0.5, 0.25), 0.25),
        (shares(0, 0, 1), 1),
    ],
)
def test_the_distance_is_the_share_of_samples_of_a_wrong_class(
    histogram: torch.Tensor, distance: float
) -> None:
    real = shares(0.5, 0.5, 0)
    assert class_distance(histogram, real) == class_distance(real, histogram) == distance


def test_recall_counts_the_right_images_of_each_class() -> None:
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 3])
    predicted = torch.tensor([0, 0, 0, 1, 0, 3, 3])
    assert recall_by_class(predicted, labels, 4) == (0.75, 0.0, None, 1.0)


CAT_AND_DOG = ["cat"] * 40 + ["dog"] * 2


@pytest.mark.parametrize(
    ("predicted", "labels", "known", "expected"),
    [
        (CAT_AND_DOG, CAT_AND_DOG, {}, RealClasses(2, ())),
        (["cat"] * 42, CAT_AND_DOG, {}, RealClasses(2, ("dog",))),
        (["dog"] * 42, CAT_AND_DOG, {}, RealClasses(2, ("cat",))),
        # Two images of a class may be mistaken by chance: what is known of more of them counts.
        (["cat"] * 42, CAT_AND_DOG, {"cat": 1.0, "dog": 0.6}, RealClasses(2, ())),
        (CAT_AND_DOG, CAT_AND_DOG, {"cat": 1.0, "dog": 0.05}, RealClasses(2, ("dog",))),
        (["cat"] * 42, ["cat"] * 42, {"cat": 1.0, "dog": 0.0}, RealClasses(1, ())),
        (["cat"] * 42, ["cat"] * 40 + ["cow"] * 2, {"cat": 1.0, "dog": 0.9}, RealClasses(2, ("cow",))),
        (["cat"] * 42, [], {"cat": 1.0, "dog": 0.0}, RealClasses(2, ("dog",))),
        (CAT_AND_DOG, [], {}, RealClasses(2, ())),
        (CAT_AND_DOG, ["Katze"] * 40 + ["Hund"] * 2, {"cat": 1.0, "dog": 0.9}, RealClasses(2, ())),
    ],
)
def test_a_class_is_seen_if_a_tenth_of_its_images_is_recognised(
    predicted: list[str], labels: list[str], known: dict[str, float], expected: RealClasses
) -> None:
    assert real_classes(predicted, labels, known) == expected
