"""The Fréchet distance between Gaussians that are fitted to features."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.wording import counted

ROWS = 4096


@dataclass(frozen=True, eq=False)
class Gaussian:
    """The first two moments of features: float64 (dimensions,) and float64 (dimensions, dimensions)."""

    mean: Tensor
    covariance: Tensor

    @cached_property
    def factor(self) -> Tensor:
        """A with A A^T = covariance, float64 (dimensions, rank). That of real images serves many evaluations."""
        values, vectors = torch.linalg.eigh(self.covariance)
        # Rounding turns zero eigenvalues into noise of this size, and the sum of its roots would be large.
        noise = values[-1] * len(values) * torch.finfo(values.dtype).eps
        kept = values > noise
        factor: Tensor = vectors[:, kept] * values[kept].sqrt()
        return factor


def gaussian(features: Tensor) -> Gaussian:
    """Mean and unbiased covariance (divided by count - 1) of float32 (count, dimensions), which must be finite.

    Raises ConfigError if there are fewer than two rows.
    """
    count, dimensions = features.shape
    if count < 2:
        raise ConfigError(
            f"The features of {counted(count, 'image')} have no covariance, and the Fréchet distance needs one. "
            "Use at least two images, and for a reliable figure more images than the features have dimensions."
        )
    mean = features.mean(0, dtype=torch.float64)
    scatter = torch.zeros(dimensions, dimensions, dtype=torch.float64, device=features.device)
    # In parts: 50,000 rows of 2,048 would be 800 MB more in float64.
    for rows in torch.split(features, ROWS):
        centred = rows.double() - mean
        scatter.addmm_(centred.T, centred)
    return Gaussian(mean, scatter / (count - 1))


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """The squared 2-Wasserstein distance between two Gaussians, 0 or more: FID on Inception features.

    Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule": |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).
    Covariances may be singular. The estimate is too high, and more so with fewer samples, so compare only figures from
    equal numbers of samples.
    """
    # If C = A A^T for both, the eigenvalues of C1 C2 are the squared singular values of A1^T A2. This needs no
    # root of a matrix that is not symmetric, and no root of eigenvalues that rounding has made negative.
    overlap = torch.linalg.svdvals(first.factor.T @ second.factor).sum()
    shift = (first.mean - second.mean).square().sum()
    spread = first.covariance.trace() + second.covariance.trace()
    # Only rounding can make it negative.
    return max(0.0, float(shift + spread - 2 * overlap))
