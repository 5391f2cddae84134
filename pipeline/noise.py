"""Random numbers as pure functions of (seed, purpose, step, update, position in the global batch).

Each draw covers the whole global batch, and a rank keeps its own rows. So no two ranks have the same latents, any
number of ranks together has the same ones, and resuming needs no saved generator.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch

Rows = TypeVar("Rows", torch.Tensor, npt.NDArray[np.int64])


class Purpose(IntEnum):
    """What a draw is for; draws for different purposes are independent."""

    CRITIC = 0
    GENERATOR = 1
    SAMPLES = 2
    VALIDATION = 3
    WEIGHTS = 4
    QUALITY = 5
    CRITIC_AUGMENTATION = 6
    GENERATOR_AUGMENTATION = 7
    LABELS = 8


@dataclass(frozen=True)
class RankRows:
    """The rows [first, first + count) that one rank has of a global batch of `total` samples."""

    first: int
    count: int
    total: int

    @classmethod
    def of_rank(cls, rank: int, world_size: int, total: int) -> RankRows:
        """The equal part of `rank`; `total` must be a multiple of `world_size`."""
        count = total // world_size
        return cls(rank * count, count, total)

    def of(self, batch: Rows) -> Rows:
        """These rows of a global batch."""
        rows: Rows = batch[self.first : self.first + self.count]
        return rows


class Draw(NamedTuple):
    """The random numbers for one batch of generated images."""

    latents: torch.Tensor
    """float32 (count, latent) ~ N(0, 1)"""
    uniform: torch.Tensor
    """float32 (count,) ~ U[0, 1)"""
    augmentation: torch.Tensor | None = None
    """float32 (count, numbers) ~ U[0, 1): how real and generated images are changed; None if they are not"""
    labels: torch.Tensor | None = None
    """int64 (count,): the classes of generated images; None if they are those of real images beside them, or none"""


def signs(uniform: torch.Tensor, count: int) -> torch.Tensor:
    """Random signs that depend only on each row's number: float32 (rows, count) of -1 and 1, on every device alike.

    uniform: float32 (rows,) in [0, 1), of which 24 bits count.
    """
    rows = (uniform.double() * 2**24).long()[:, None]
    places = torch.arange(count, device=uniform.device)
    # The output function of SplitMix64 (Steele, Lea, Flood 2014), in signed arithmetic that wraps around.
    mixed = rows * 2**32 + places + _signed(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ _shifted(mixed, shift)) * _signed(factor)
    return 1.0 - 2.0 * (_shifted(mixed, 31) ^ mixed).bitwise_and(1).float()


def _shifted(values: torch.Tensor, bits: int) -> torch.Tensor:
    """The bits moved to the right, with zeros from the left: `>>` would repeat the sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """The int64 that has the bits of this unsigned number."""
    return value - (1 << 64) if value >= 1 << 63 else value


def labels_from(uniform: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Labels of classes that are this frequent: int64 (count,).

    uniform: float32 (count,) in [0, 1), one number for each label; shares: float64 (classes,), together 1, each above
    0, on the same device.
    """
    # The sum of all shares may be rounded to less than 1.
    return torch.searchsorted(shares.cumsum(0), uniform.double(), right=True).clamp(max=len(shares) - 1)


class Noise:
    """The random draws of a run with this `seed`, made on `device`.

    CPU and CUDA generators give different numbers for the same key. A CPU generator keeps only 32 bits of the key, so
    about a hundred of a million draws repeat an earlier one, at unrelated steps.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed = seed
        self._generator = torch.Generator(device)

    def seeded(self, purpose: Purpose, step: int = 0, update: int = 0) -> torch.Generator:
        """A generator whose next numbers depend only on the seed and these arguments."""
        key = np.random.SeedSequence((self._seed, int(purpose), step, update)).generate_state(1, np.uint64)[0]
        return self._generator.manual_seed(int(key) >> 1)

    def draw(self, purpose: Purpose, step: int, update: int, rows: RankRows, latent: int) -> Draw:
        """This rank's latents and uniform numbers, on the device."""
        generator = self.seeded(purpose, step, update)
        latents = torch.randn(rows.total, latent, generator=generator, device=generator.device)
        uniform = torch.rand(rows.total, generator=generator, device=generator.device)
        return Draw(rows.of(latents), rows.of(uniform))

    def uniform(self, purpose: Purpose, step: int, update: int, rows: RankRows, numbers: int) -> torch.Tensor:
        """This rank's uniform numbers, float32 (count, numbers) in [0, 1), on the device."""
        generator = self.seeded(purpose, step, update)
        return rows.of(torch.rand(rows.total, numbers, generator=generator, device=generator.device))
