"""The kernel distance between sets of features. It is unbiased and assumes nothing about their distribution."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.wording import counted

ROWS = 1024
"""How many rows of a matrix of pairs are in memory at once."""


class KernelDistance(NamedTuple):
    """Mean and standard deviation of the distance over subsets.

    The mean can be slightly below 0, because it is unbiased. The deviation is that of one subset. Subsets share
    samples, so dividing it by the square root of their number would give too small an error.
    """

    mean: float
    std: float


def kernel_distance(real: Tensor, fake: Tensor, subsets: int, subset_size: int, seed: int) -> KernelDistance:
    """The mean squared MMD of random subsets of float32 (count, dimensions): KID on Inception features.

    Binkowski et al. 2018, "Demystifying MMD GANs". The subsets are drawn without replacement and depend only on the
    seed and the counts. Raises ConfigError if a subset cannot be drawn.
    """
    _check_subsets(min(len(real), len(fake)), subsets, subset_size)
    source = torch.Generator().manual_seed(seed)
    drawn = [(_draw(real, subset_size, source), _draw(fake, subset_size, source)) for _ in range(subsets)]
    real_rows, fake_rows = (torch.stack(rows) for rows in zip(*drawn, strict=True))
    pairs = len(real) ** 2 + len(fake) ** 2 + len(real) * len(fake)
    if pairs <= 3 * subset_size**2 * subsets:
        # Most pairs occur in several subsets, so each is computed once, and summed for all of them.
        distances = _mmds(real, fake, _chosen(real_rows, real), _chosen(fake_rows, fake))
    else:
        found = [
            polynomial_mmd(real[ours.to(real.device)], fake[theirs.to(fake.device)]) for ours, theirs in drawn
        ]
        distances = torch.tensor(found, dtype=torch.float64)
    return KernelDistance(distances.mean().item(), distances.std(unbiased=False).item())


def polynomial_mmd(real: Tensor, fake: Tensor) -> float:
    """The unbiased squared MMD of (count, dimensions) with the kernel (x . y / dimensions + 1)^3, in float64.

    Gretton et al. 2012, "A Kernel Two-Sample Test", lemma 6. Both counts must be 2 or more.
    """
    all_real, all_fake = (points.new_ones(1, len(points), dtype=torch.float64) for points in (real, fake))
    return _mmds(real, fake, all_real, all_fake).item()


def _check_subsets(smaller_count: int, subsets: int, subset_size: int) -> None:
    if subsets < 1:
        raise ConfigError(
            f"The kernel distance is a mean over subsets, and their number is {subsets}. Use at least 1."
        )
    if subset_size < 2:
        raise ConfigError(
            f"The kernel distance compares pairs of samples, and subsets have {subset_size}. Use at least 2."
        )
    if subset_size > smaller_count:
        raise ConfigError(
            f"Subsets of {subset_size:,} cannot be drawn without replacement from {counted(smaller_count, 'sample')}. "
            "Use smaller subsets or more samples."
        )


def _draw(features: Tensor, size: int, source: torch.Generator) -> Tensor:
    """The rows of a subset: int64 (size,), on the host."""
    return torch.randperm(len(features), generator=source)[:size]


def _chosen(rows: Tensor, features: Tensor) -> Tensor:
    """1 for the rows of each subset, and 0 for others: float64 (subsets, count)."""
    chosen = torch.zeros(len(rows), len(features), dtype=torch.float64)
    return chosen.scatter_(1, rows, 1.0).to(features.device)


def _mmds(real: Tensor, fake: Tensor, real_chosen: Tensor, fake_chosen: Tensor) -> Tensor:
    """The squared MMD of each subset, which `_chosen` describes: float64 (subsets,)."""
    real, fake = real.double(), fake.double()
    real_count, fake_count = real_chosen.sum(1), fake_chosen.sum(1)
    cross = _sums(real, fake, real_chosen, fake_chosen) / (real_count * fake_count)
    return _means_of_pairs(real, real_chosen) + _means_of_pairs(fake, fake_chosen) - 2 * cross


def _means_of_pairs(features: Tensor, chosen: Tensor) -> Tensor:
    """The mean of the kernel over all pairs of two different rows of each subset."""
    counts = chosen.sum(1)
    of_itself = chosen @ _cubed(features.square().sum(1), features)
    return (_sums(features, features, chosen, chosen) - of_itself) / (counts * (counts - 1))


def _sums(first: Tensor, second: Tensor, of_first: Tensor, of_second: Tensor) -> Tensor:
    """For each subset, the sum of the kernel over pairs of a chosen row of `first` and one of `second`."""
    total = first.new_zeros(len(of_first))
    for rows, chosen in zip(torch.split(first, ROWS), torch.split(of_first, ROWS, dim=1), strict=True):
        total += (chosen @ _cubed(rows @ second.T, second) * of_second).sum(1)
    return total


def _cubed(products: Tensor, features: Tensor) -> Tensor:
    """The kernel, from products of rows of features."""
    return (products / features.shape[1] + 1) ** 3
