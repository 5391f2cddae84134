"""Whether generated samples have the same classes as the real ones, in the same shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

SEEN = 0.1
"""A classifier sees a class if it classifies at least this share of its images correctly."""
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


class RealClasses(NamedTuple):
    """The classes of the real images that samples are compared with."""

    total: int
    """How many there are."""
    unseen: tuple[str, ...]
    """Those that the classifier does not see, so that class metrics say nothing of them."""


def real_classes(
    predicted: Sequence[str], labels: Sequence[str], known_recall: Mapping[str, float]
) -> RealClasses:
    """From the names of the classes that a classifier gives to the real images, and of their labels.

    Whether it sees a class is decided by its `known_recall`, or by these images if that is not known. If the images
    have no labels (`labels` is empty), or only of classes that the classifier has never heard of, the classes are those
    that it finds, and those that it is known not to see.
    """
    overlooked = {name for name, recall in known_recall.items() if recall < SEEN}
    names = set(labels)
    if names.isdisjoint({*predicted, *known_recall}):
        return RealClasses(len({*predicted, *overlooked}), tuple(sorted(overlooked)))
    unseen = {name for name in names if known_recall.get(name, _recall(name, predicted, labels)) < SEEN}
    return RealClasses(len(names), tuple(sorted(unseen)))


def recall_by_class(predicted: Tensor, labels: Tensor, classes: int) -> tuple[float | None, ...]:
    """The share of the images of each class that is classified correctly, None for a class without any.

    `predicted` and `labels` are int64 (count,).
    """
    counts = labels.bincount(minlength=classes).tolist()
    right = labels[predicted == labels].bincount(minlength=classes).tolist()
    return tuple(found / count if count else None for found, count in zip(right, counts, strict=True))


def _recall(name: str, predicted: Sequence[str], labels: Sequence[str]) -> float:
    found = [guess for guess, label in zip(predicted, labels, strict=True) if label == name]
    return found.count(name) / len(found)
