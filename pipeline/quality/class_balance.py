"""Whether generated samples have the same classes as the real ones, in the same shares."""

from __future__ import annotations

from torch import Tensor

PRESENT = 0.1
"""Part of its real share from which on a class is present: less is what a classifier's mistakes may give."""


def class_histogram(probabilities: Tensor) -> Tensor:
    """The share of samples that each class is the likeliest for, float64 (classes,), from (count, classes).

    The likeliest class rather than mean probabilities: what a classifier leaves to all other classes would
    make a class that no sample shows look present.
    """
    counts = probabilities.argmax(1).bincount(minlength=probabilities.shape[1])
    return counts.double() / len(probabilities)


def covered_modes(histogram: Tensor, real_histogram: Tensor) -> int:
    """The number of classes of the real samples that the generated ones show: a tenth of their real share or more."""
    is_present = (real_histogram > 0) & (histogram >= PRESENT * real_histogram)
    return int(is_present.sum())


def class_distance(histogram: Tensor, real_histogram: Tensor) -> float:
    """The total variation between two histograms, in [0, 1]: the share of samples that are of a wrong class.

    Not the Kullback-Leibler divergence, which is infinite as soon as one class is missing.
    """
    return (histogram - real_histogram).abs().sum().item() / 2
