"""From the name of a metric to its function.

A metric is a line in pipeline/metric_table.py, which says what it needs, and a function here, which takes the
collected sets and returns a figure. Its mathematics has a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from pipeline.plugins import METRIC, load_plugin
from pipeline.quality.asked_classes import (
    ByClass,
    as_asked,
    distances_by_class,
    gaussians_by_class,
    mean_of_classes,
    shares_as_asked,
)
from pipeline.quality.class_balance import class_distance, class_histogram, covered_modes
from pipeline.quality.frechet import Gaussian, frechet_distance, gaussian
from pipeline.quality.kernel_distance import kernel_distance
from pipeline.quality.neighbours import (
    Prdc,
    copied_share,
    natural_distance,
    precision_recall_density_coverage,
    squared_radii,
)
from pipeline.quality.sets import RealSets, Sets
from pipeline.quality.sliced_wasserstein import RealPatches

NEIGHBOURS = 5
KERNEL_SUBSETS, KERNEL_SUBSET_SIZE = 100, 1000
MOST_IMAGES = 2048
"""Images of each set that are kept for metrics that compare the images themselves."""

Measure = Callable[[Sets], float]


def fid(sets: Sets) -> float:
    """The Frechet distance between Gaussians fitted to the features."""
    _, fake = sets.features
    return frechet_distance(sets.real.once(_real_gaussian), gaussian(fake))


def kid(sets: Sets) -> float:
    """The kernel distance of the features, mean of random subsets."""
    real, fake = sets.features
    size = min(KERNEL_SUBSET_SIZE, len(fake), len(real))
    # If a subset is the whole set, one is enough.
    subsets = 1 if size == max(len(fake), len(real)) else KERNEL_SUBSETS
    return kernel_distance(real, fake, subsets, size, sets.real.seed).mean


def copied(sets: Sets) -> float:
    """The share of samples that are closer to a training image than is natural."""
    real = sets.real
    fake, held_out = sets.fake.features.to(real.device), real.held_out.to(real.device)
    return copied_share(fake, real.training, held_out, real.once(_natural_distance))


def swd(sets: Sets) -> float:
    """The sliced Wasserstein distance between patches, mean over the levels of the pyramid."""
    levels = sets.real.once(_real_patches).distances(sets.fake.images.to(sets.real.device))
    return sum(levels.values()) / len(levels)


def modes(sets: Sets) -> float:
    """The number of classes that occur. Those that the classifier does not see are never counted."""
    expected = sets.real.once(_real_histogram).clone()
    expected[list(sets.real.unseen)] = 0
    return float(covered_modes(class_histogram(sets.fake.probabilities), expected))


def distance_of_shares(sets: Sets) -> float:
    """The distance between the class shares of samples and real images."""
    return class_distance(class_histogram(sets.fake.probabilities), sets.real.once(_real_histogram))


def class_asked(sets: Sets) -> float:
    """The share of samples that the classifier takes for the class that they were asked to be of."""
    fake = sets.fake
    return as_asked(fake.probabilities, fake.labels, sets.real.columns).double().mean().item()


MEASURES: dict[str, Measure] = {
    "fid": fid,
    "kid": kid,
    "precision": lambda sets: sets.once(_neighbours).precision,
    "recall": lambda sets: sets.once(_neighbours).recall,
    "density": lambda sets: sets.once(_neighbours).density,
    "coverage": lambda sets: sets.once(_neighbours).coverage,
    "copied": copied,
    "swd": swd,
    "modes": modes,
    "class_distance": distance_of_shares,
    "class_asked": class_asked,
    "intra_fid": lambda sets: mean_of_classes(sets.once(_distances_by_class)),
}


def measure_by_class(names: Iterable[str], sets: Sets) -> dict[str, ByClass]:
    """The figures of each class, of those of these metrics that are means over classes or samples of them."""
    return {name: sets.once(BY_CLASS[name]) for name in names if name in BY_CLASS}


def measure_all(names: Iterable[str], sets: Sets) -> dict[str, float]:
    """The figures of these metrics, in their order."""
    # A metric of a plug-in may return a number of NumPy or PyTorch.
    return {name: float(_measure_named(name)(sets)) for name in names}


def _measure_named(name: str) -> Measure:
    measure: Measure = MEASURES[name] if name in MEASURES else load_plugin(METRIC, name).measure
    return measure


def _neighbours(sets: Sets) -> Prdc:
    return precision_recall_density_coverage(*sets.features, NEIGHBOURS, sets.real.once(_real_radii))


def _shares_as_asked(sets: Sets) -> ByClass:
    return shares_as_asked(sets.fake.probabilities, sets.fake.labels, sets.real.columns)


def _distances_by_class(sets: Sets) -> ByClass:
    _, features = sets.features
    fake = gaussians_by_class(features, sets.fake.labels, len(sets.real.asked))
    return distances_by_class(sets.real.once(_real_gaussians_by_class), fake)


BY_CLASS: dict[str, Callable[[Sets], ByClass]] = {
    "class_asked": _shares_as_asked,
    "intra_fid": _distances_by_class,
}


def _real_gaussians_by_class(real: RealSets) -> list[Gaussian | None]:
    compared = real.compared
    return gaussians_by_class(compared.features.to(real.device), compared.labels, len(real.asked))


def _real_gaussian(real: RealSets) -> Gaussian:
    return gaussian(real.compared.features.to(real.device))


def _real_radii(real: RealSets) -> Tensor:
    return squared_radii(real.compared.features.to(real.device), NEIGHBOURS)


def _natural_distance(real: RealSets) -> float:
    return natural_distance(real.training, real.held_out.to(real.device))


def _real_patches(real: RealSets) -> RealPatches:
    return RealPatches.of(real.compared.images.to(real.device), min(real.samples, MOST_IMAGES), real.seed)


def _real_histogram(real: RealSets) -> Tensor:
    return class_histogram(real.compared.probabilities)
