"""Samples of a generator that was asked for classes: whether they show them, and how near each class is to real images.

Labels are places of classes among those of the run, int64 (count,), as everywhere in a run with classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.data.reading.class_labels import Labels
from pipeline.data.reading.stream import Ids
from pipeline.errors import ConfigError
from pipeline.foreign_text import printable
from pipeline.quality.frechet import Gaussian, frechet_distance, gaussian

FEWEST_IMAGES = 20
"""A class is compared by its features if there are at least so many samples and real images of it."""
MOST_NAMES = 8

ByClass = list[float | None]
"""A figure of each class, in the order of the labels; None for a class that is not measured."""


@dataclass(frozen=True)
class AskedClasses:
    """The classes that a generator is asked for."""

    names: tuple[str, ...]
    shares: Tensor
    """How often each is asked for, float64 (classes,), together 1, on the host."""
    labels: Callable[[Ids], Labels]
    """From the ids of real images to their labels."""

    def columns(self, known: Sequence[str]) -> tuple[int, ...]:
        """Where the classes are among those that a classifier knows. Raises ConfigError if it does not know one."""
        places = {name: place for place, name in enumerate(known)}
        if missing := [printable(name) for name in self.names if name not in places]:
            raise ConfigError(
                f"class_asked needs a classifier that knows the classes of the run, and quality.classifier does not "
                f"know {', '.join(missing[:MOST_NAMES])}. Train one on labelled images of them: `wgan features train "
                "SHARDS --out FILE`."
            )
        return tuple(places[name] for name in self.names)

    def left_out(self, metric: str, real: Tensor, fake: Tensor) -> set[str]:
        """The classes that a metric of features by class leaves out. Raises ConfigError if these are all."""
        found = self.too_few(real, fake)
        if len(found) == len(self.names):
            raise ConfigError(
                f"{metric} compares classes of at least {FEWEST_IMAGES} samples and as many training images, and with "
                f"{len(fake):,} samples there is none. Raise quality.samples (--samples), or leave {metric} out."
            )
        return found

    def too_few(self, real: Tensor, fake: Tensor) -> set[str]:
        """The classes of which one of these sets of labels has too few for a comparison by features."""
        counts = [labels.bincount(minlength=len(self.names)).tolist() for labels in (real, fake)]
        pairs = zip(self.names, *counts, strict=True)
        return {name for name, *found in pairs if min(found) < FEWEST_IMAGES}


def shares_as_asked(probabilities: Tensor, labels: Tensor, columns: Sequence[int]) -> ByClass:
    """The share of the samples of each class that a classifier takes for it; None for a class without samples.

    probabilities: (count, classes that the classifier knows); columns: those of the labels.
    """
    is_right = as_asked(probabilities, labels, columns)
    return [
        float(is_right[chosen].double().mean()) if len(chosen) else None
        for chosen in _rows(labels, len(columns))
    ]


def as_asked(probabilities: Tensor, labels: Tensor, columns: Sequence[int]) -> Tensor:
    """Whether a classifier takes each sample for the class that it was asked for: bool (count,)."""
    is_right: Tensor = probabilities.argmax(1) == torch.tensor(columns)[labels]
    return is_right


def gaussians_by_class(features: Tensor, labels: Tensor, classes: int) -> list[Gaussian | None]:
    """Of the features of each class, float32 (count, dimensions); None for a class of too few images."""
    return [
        gaussian(features[chosen.to(features.device)]) if len(chosen) >= FEWEST_IMAGES else None
        for chosen in _rows(labels, classes)
    ]


def distances_by_class(real: Sequence[Gaussian | None], fake: Sequence[Gaussian | None]) -> ByClass:
    """The Frechet distance of each class; None for a class of too few images."""
    return [
        None if first is None or second is None else frechet_distance(first, second)
        for first, second in zip(real, fake, strict=True)
    ]


def mean_of_classes(figures: ByClass) -> float:
    """The mean of those that were measured, of which there is at least one."""
    known = [figure for figure in figures if figure is not None]
    return sum(known) / len(known)


def _rows(labels: Tensor, classes: int) -> Iterator[Tensor]:
    """The places of the images of each class."""
    return ((labels == number).nonzero()[:, 0] for number in range(classes))
