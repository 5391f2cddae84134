"""Shares of classes, on histograms that can be counted by hand."""

from __future__ import annotations

import pytest
import torch

from pipeline.quality.class_balance import class_distance, class_histogram, covered_modes


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
