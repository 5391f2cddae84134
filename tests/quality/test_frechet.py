"""The Fréchet distance, against closed forms and against other ways to compute it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.quality.frechet import ROWS, Gaussian, frechet_distance, gaussian


def draw(seed: int, count: int, dimensions: int, mixed: bool = True) -> Tensor:
    """Features whose dimensions are correlated and of different spread."""
    source = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimensions, dimensions, generator=source) if mixed else torch.eye(dimensions)
    return torch.randn(count, dimensions, generator=source) @ mixing + torch.randn(1, generator=source)


def normal(mean: list[float], variances: list[float]) -> Gaussian:
    return Gaussian(torch.tensor(mean).double(), torch.tensor(variances).double().diag())


def by_matrix_root(first: Gaussian, second: Gaussian) -> float:
    root = scipy.linalg.sqrtm((first.covariance @ second.covariance).numpy()).real
    shift = (first.mean - second.mean).square().sum()
    return float(shift + (first.covariance + second.covariance).trace() - 2 * np.trace(root))


@pytest.mark.parametrize("count", [2, 3, 50, ROWS, ROWS + 1])
def test_a_gaussian_has_the_mean_and_the_unbiased_covariance(count: int) -> None:
    features = draw(0, count, 4)
    found = gaussian(features)
    mean, covariance = found.mean, found.covariance
    assert mean.dtype == covariance.dtype == torch.float64
    np.testing.assert_allclose(mean, features.double().numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(features.double().numpy(), rowvar=False), rtol=1e-10)


def test_the_covariance_of_large_values_is_not_lost_in_rounding() -> None:
    features = draw(0, 1000, 3)
    features = (features * 64).round() / 64
    np.testing.assert_allclose(
        gaussian(features + 2**16).covariance, gaussian(features).covariance, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_images_have_no_covariance(count: int) -> None:
    with pytest.raises(
        ConfigError, match=rf"features of {count} images? have no covariance.*Use at least two images"
    ):
        gaussian(torch.zeros(count, 3))


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [
        (normal([0], [1]), normal([3], [1]), 9),
        (normal([1], [4]), normal([1], [25]), 9),
        (normal([0, 1], [1, 9]), normal([2, 1], [4, 1]), 4 + 1 + 4),
        (normal([0, 0, 0], [1, 0, 0]), normal([0, 0, 0], [0, 4, 0]), 5),
        (normal([0, 0], [0, 0]), normal([3, 4], [0, 0]), 25),
    ],
    ids=["shifted", "wider", "diagonal", "orthogonal lines", "points"],
)
def test_it_is_the_closed_form_where_there_is_one(first: Gaussian, second: Gaussian, distance: float) -> None:
    assert frechet_distance(first, second) == pytest.approx(distance, rel=1e-12)
    assert frechet_distance(second, first) == pytest.approx(distance, rel=1e-12)


def test_covariances_that_commute_are_compared_along_their_axes() -> None:
    axes = torch.linalg.qr(
        torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ).Q
    first, second = torch.linspace(0.5, 3, 6).double(), torch.linspace(4, 0.1, 6).double()
    distance = frechet_distance(
        *(Gaussian(torch.zeros(6).double(), axes @ values.diag() @ axes.T) for values in (first, second))
    )
    assert distance == pytest.approx((first.sqrt() - second.sqrt()).square().sum().item(), rel=1e-10)


def test_planes_at_right_angles_overlap_nowhere() -> None:
    """Of the 300 dimensions that neither has, no rounding is added up."""
    axes = torch.linalg.qr(
        torch.randn(300, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ).Q
    first, second = (
        Gaussian(torch.zeros(300).double(), part @ part.T) for part in (axes[:, :2], axes[:, 2:4])
    )
    assert frechet_distance(first, second) == pytest.approx(4, rel=1e-10)


@pytest.mark.parametrize("count", [5, 40, 400])
def test_equal_sets_are_no_distance_apart(count: int) -> None:
    """Also where the covariance is singular: 5 samples of 40 dimensions."""
    features = gaussian(draw(0, count, 40))
    assert 0 <= frechet_distance(features, features) < 1e-9 * features.covariance.trace()


@pytest.mark.parametrize("count", [5, 400])
def test_a_shift_adds_its_square(count: int) -> None:
    features = gaussian(draw(0, count, 40))
    shifted = Gaussian(features.mean + 0.5, features.covariance)
    assert frechet_distance(features, shifted) == pytest.approx(40 * 0.25, rel=1e-9)


def test_it_is_that_of_scipys_matrix_root() -> None:
    first, second = gaussian(draw(0, 300, 20)), gaussian(draw(1, 200, 20))
    assert frechet_distance(first, second) == pytest.approx(by_matrix_root(first, second), rel=1e-9)


@pytest.mark.parametrize("counts", [(500, 300), (30, 500), (30, 40)])
def test_it_is_that_of_torch_fidelity(counts: tuple[int, int]) -> None:
    """Also with fewer samples than the 64 dimensions."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    first, second = draw(0, counts[0], 64), draw(1, counts[1], 64)
    theirs = fid_statistics_to_metric(
        *(fid_features_to_statistics(features.double()) for features in (first, second)), verbose=False
    )
    ours = frechet_distance(gaussian(first), gaussian(second))
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)


def test_the_root_of_a_covariance_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real images are compared with many sets of samples."""
    real, *fakes = (gaussian(draw(seed, 50, 4)) for seed in range(3))
    roots = []
    find = torch.linalg.eigh

    def count(covariance: Tensor) -> Any:
        roots.append(covariance)
        return find(covariance)

    monkeypatch.setattr(torch.linalg, "eigh", count)
    for fake in fakes:
        frechet_distance(real, fake)
    assert len(roots) == 3
