"""Whether generated samples have the same classes as the real ones, in the same shares."""

from __future__ import annotations

from torch import Tensor

PRESENT = 0.1
"""A class is present from this part of its real share. Mistakes of the classifier can cause a smaller share."""


def class_histogram(probabilities: Tensor) -> Tensor:
    """The share of samples for which each class is the most probable one: float64 (classes,), from (count, classes).

    Mean probabilities would not do, because the small probabilities of all other classes would add up, and a class that
    no sample shows could seem present.
    """
    counts = probabilities.argmax(1).bincount(minlength=probabilities.shape[1])
    return counts.double() / len(probabilities)


def covered_modes(histogram: Tensor, real_histogram: Tensor) -> int:
    """The number of real classes that have at least a tenth of their real share among the generated samples."""
    is_present = (real_histogram > 0) & (histogram >= PRESENT * real_histogram)
    return int(is_present.sum())


def class_distance(histogram: Tensor, real_histogram: Tensor) -> float:
    """The total variation distance between two histograms, from 0 to 1: the share of samples in a wrong class.

    The Kullback-Leibler divergence would be infinite if a class is missing.
    """
    return (histogram - real_histogram).abs().sum().item() / 2
