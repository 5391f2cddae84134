"""The sets of images that metrics compare, as they were collected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self, TypeVar

import torch
from torch import Tensor

CPU = torch.device("cpu")
NO_LABELS = torch.zeros(0, dtype=torch.int64)

Result = TypeVar("Result")


class Collected(NamedTuple):
    """A set of images, on the host of the main rank, as far as the metrics of an evaluation need it.

    The other ranks have none of them.
    """

    features: Tensor
    """float32 (count, dimensions); no columns if no metric needs features"""
    images: Tensor
    """uint8 (count or fewer, channels, height, width); none if no metric needs images"""
    probabilities: Tensor
    """float32 (count, classes); no columns if no metric needs classes"""
    labels: Tensor = NO_LABELS
    """int64 (count,), places among the classes of the run; none if no metric needs labels"""


class Rows:
    """Rows of a set, put in place as they come."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.all = torch.empty(0, 0)
        """All rows; until some come, none."""

    def put(self, place: int, parts: Sequence[Tensor]) -> None:
        """Put these parts there, one after the other. Rows beyond the last one are left out."""
        for part in parts:
            if not len(self.all):
                self.all = part.new_empty(self._count, *part.shape[1:])
            rows = self.all[place : place + len(part)]
            rows.copy_(part[: len(rows)])
            place += len(part)


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
    asked: tuple[str, ...] = ()
    """The classes of the run, which labels are places of; none without labels."""
    columns: tuple[int, ...] = ()
    """The columns of the probabilities that are those of `asked`; none if no metric needs classes and labels."""
    device: torch.device = CPU
    """Where the metrics compute."""


@dataclass(eq=False)
class Sets(Remembering):
    """What one evaluation compares."""

    real: RealSets
    fake: Collected
    """Generated images."""

    @property
    def features(self) -> tuple[Tensor, Tensor]:
        """Those of the real and of the generated images, on the device of the metrics."""
        device = self.real.device
        return self.real.compared.features.to(device), self.fake.features.to(device)
