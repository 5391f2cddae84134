"""Distances between generated and real images, measured on pixels. They are 0 for equal distributions.

On finite samples they are above 0 even for two sets from the same distribution.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.pixels import to_float


class SlicedWasserstein:
    """The Wasserstein-1 distance along random directions, averaged over them, in units of pixel values in [-1, 1].

    Bonneel, Rabin, Peyré, Pfister 2015. The distance along one direction is exact: it is the mean difference of the
    two sets' quantile functions. Directions have length 1, and the same seed gives the same ones.
    """

    def __init__(self, real: Tensor, directions: int = 512, seed: int = 0) -> None:
        """`real`: uint8 (count, channels, height, width)."""
        generator = torch.Generator().manual_seed(seed)
        random = torch.randn(real[0].numel(), directions, generator=generator)
        self._directions = random / random.norm(dim=0)
        self._real = self._project(real)

    def __call__(self, images: Tensor) -> float:
        """The distance of `images`, uint8 (count, channels, height, width) with any count, from the real ones."""
        ours, theirs = self._real, self._project(images)
        rows_of_ours, rows_of_theirs, widths = _common_quantiles(len(ours), len(theirs))
        gaps = (ours[rows_of_ours] - theirs[rows_of_theirs]).abs().mean(1)
        return float((gaps.double() * widths).sum())

    def _project(self, images: Tensor) -> Tensor:
        """The images along each direction: float32 (count, directions), with each column sorted."""
        return (to_float(images.flatten(1)) @ self._directions).sort(0).values


class FrechetOfComponents:
    """The Fréchet distance between two sets of images, each as a normal distribution of principal components.

    |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)) as in the FID (Heusel et al. 2017), but with the leading principal
    components of the real pixels instead of a network's features. It only compares means and covariances.
    """

    def __init__(self, real: Tensor, components: int = 64) -> None:
        """`real`: uint8 (count, channels, height, width)."""
        pixels = _pixels(real)
        self._centre = pixels.mean(0)
        # eigh sorts eigenvalues from the smallest to the largest.
        self._components = torch.linalg.eigh(pixels.T.cov()).eigenvectors[:, -components:]
        self._mean, self._covariance = self._moments(real)
        self._root = _square_root(self._covariance)

    def __call__(self, images: Tensor) -> float:
        """The distance of `images`, uint8 (count, channels, height, width) with count >= 2, from the real ones."""
        mean, covariance = self._moments(images)
        # tr (S S')^(1/2) is the sum of the roots of the eigenvalues of S^(1/2) S' S^(1/2), which is symmetric.
        eigenvalues = torch.linalg.eigvalsh(self._root @ covariance @ self._root)
        overlap = eigenvalues.clamp(min=0).sqrt().sum()
        traces = self._covariance.trace() + covariance.trace()
        return float((mean - self._mean).square().sum() + traces - 2 * overlap)

    def _moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = (_pixels(images) - self._centre) @ self._components
        return features.mean(0), features.T.cov()


def _common_quantiles(first: int, second: int) -> tuple[Tensor, Tensor, Tensor]:
    """The intervals of (0, 1) in which two empirical quantile functions, of `first` and `second` values, are constant.

    Returns three tensors with one entry for each interval: the index of the first function's sorted value there, the
    index of the second one's, and the width of the interval.
    """
    # In units of 1 / (first * second) every end is a whole number, so rounding cannot merge or split any.
    ends = torch.cat([torch.arange(1, first + 1) * second, torch.arange(1, second + 1) * first]).unique()
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), ends[:-1]])
    return starts // second, starts // first, (ends - starts).double() / (first * second)


def _pixels(images: Tensor) -> Tensor:
    return to_float(images.flatten(1)).double()


def _square_root(matrix: Tensor) -> Tensor:
    """The square root of a symmetric matrix without negative eigenvalues."""
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    return vectors * eigenvalues.clamp(min=0).sqrt() @ vectors.T
