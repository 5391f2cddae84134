"""The sets of images that metrics compare, as they were collected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self, TypeVar

from torch import Tensor

Result = TypeVar("Result")


class Collected(NamedTuple):
    """A set of images, on the host, as far as the metrics of an evaluation need it."""

    features: Tensor
    """float32 (count, dimensions); no columns if no metric needs features"""
    images: Tensor
    """uint8 (count or fewer, channels, height, width); none if no metric needs images"""
    probabilities: Tensor
    """float32 (count, classes); no columns if no metric needs classes"""


@dataclass(eq=False)
class Remembering:
    """Sets that keep what functions of them have found."""

    _found: dict[Callable[..., Any], Any] = field(default_factory=dict, init=False, repr=False)

    def once(self, find: Callable[[Self], Result]) -> Result:
        """`find` of these sets, computed the first time only. Give the same function each time, not a new lambda."""
        if find not in self._found:
            self._found[find] = find(self)
        result: Result = self._found[find]
        return result


@dataclass(eq=False)
class RealSets(Remembering):
    """Real images. The evaluations of a run share them, and what was computed from them alone."""

    compared: Collected
    """A random part of the training images, or all: samples are compared with these."""
    training: Tensor
    """Features of all training images, float32 (count, dimensions); no rows if no metric needs held-out images"""
    held_out: Tensor
    """Features of all held-out images, float32 (count, dimensions); no rows if no metric needs them"""
    samples: int
    """How many generated images each evaluation compares."""
    seed: int
    """The seed of metrics that draw at random."""
    unseen: tuple[int, ...] = ()
    """The classes that the classifier does not see in real images: columns of the probabilities."""


@dataclass(eq=False)
class Sets(Remembering):
    """What one evaluation compares."""

    real: RealSets
    fake: Collected
    """Generated images."""
