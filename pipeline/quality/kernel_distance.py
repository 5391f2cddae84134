"""The kernel distance between sets of features. It is unbiased and assumes nothing about their distribution."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.wording import counted


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
    distances = torch.tensor(
        [
            polynomial_mmd(_subset(real, subset_size, source), _subset(fake, subset_size, source))
            for _ in range(subsets)
        ],
        dtype=torch.float64,
    )
    return KernelDistance(distances.mean().item(), distances.std(unbiased=False).item())


def polynomial_mmd(real: Tensor, fake: Tensor) -> float:
    """The unbiased squared MMD of (count, dimensions) with the kernel (x . y / dimensions + 1)^3, in float64.

    Gretton et al. 2012, "A Kernel Two-Sample Test", lemma 6. Both counts must be 2 or more.
    """
    real, fake = real.double(), fake.double()
    cross = _kernel(real, fake).mean()
    return (_mean_of_pairs(real) + _mean_of_pairs(fake) - 2 * cross).item()


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


def _subset(features: Tensor, size: int, source: torch.Generator) -> Tensor:
    return features[torch.randperm(len(features), generator=source)[:size].to(features.device)]


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    return (first @ second.T / first.shape[1] + 1) ** 3


def _mean_of_pairs(features: Tensor) -> Tensor:
    """The mean of the kernel over all pairs of two different rows."""
    kernel, count = _kernel(features, features), len(features)
    return (kernel.sum() - kernel.trace()) / (count * (count - 1))
