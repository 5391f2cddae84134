"""The kernel distance, against sums over pairs and against what an unbiased estimate must do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.quality.kernel_distance import kernel_distance, polynomial_mmd


def draw(seed: int, count: int, dimensions: int = 8, shift: float = 0) -> Tensor:
    return torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed)) + shift


def by_pairs(real: Tensor, fake: Tensor) -> float:
    def kernel(x: Tensor, y: Tensor) -> float:
        return (sum(a * b for a, b in zip(x.tolist(), y.tolist(), strict=True)) / len(x) + 1) ** 3

    def mean_within(points: Tensor) -> float:
        pairs = [kernel(x, y) for i, x in enumerate(points) for j, y in enumerate(points) if i != j]
        return sum(pairs) / len(pairs)

    across = [kernel(x, y) for x in real for y in fake]
    return mean_within(real) + mean_within(fake) - 2 * sum(across) / len(across)


@pytest.mark.parametrize("counts", [(2, 2), (7, 7), (5, 9)])
def test_it_is_the_sum_over_pairs(counts: tuple[int, int]) -> None:
    real, fake = draw(0, counts[0]), draw(1, counts[1], shift=0.5)
    assert polynomial_mmd(real, fake) == pytest.approx(by_pairs(real, fake), rel=1e-12)


def test_it_is_known_for_points_on_a_line() -> None:
    """Two real samples at 0 and two at 1: kernels 1, 8, and 1 between the sets."""
    assert polynomial_mmd(torch.zeros(2, 1), torch.ones(2, 1)) == 1 + 8 - 2


@pytest.mark.parametrize("seed", range(3))
def test_it_is_that_of_torch_fidelity(seed: int) -> None:
    from torch_fidelity.metric_kid import kernel_mmd

    real, fake = draw(seed, 50), draw(seed + 10, 50, shift=0.3)
    theirs = kernel_mmd(real.double().numpy(), fake.double().numpy())
    assert polynomial_mmd(real, fake) == pytest.approx(theirs, rel=1e-9)


def test_the_only_subset_of_a_sets_own_size_is_the_set() -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric

    real, fake = draw(0, 60), draw(1, 60, shift=0.3)
    theirs = kid_features_to_metric(
        real.double(), fake.double(), kid_subsets=3, kid_subset_size=60, verbose=False
    )
    ours = kernel_distance(real, fake, 3, 60, seed=0)
    assert ours.mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    assert ours.std == pytest.approx(0, abs=1e-12)
    assert kernel_distance(real, fake, 1, 60, seed=0).std == 0


@pytest.mark.parametrize(("count", "subsets"), [(60, 40), (200, 3)], ids=["together", "each by itself"])
def test_subsets_have_the_distance_of_their_rows(count: int, subsets: int) -> None:
    """Whether pairs of rows are computed once for all subsets, or for each by itself."""
    real, fake = draw(0, count), draw(1, count, shift=0.3)
    found = kernel_distance(real, fake, subsets, 20, seed=7)
    source = torch.Generator().manual_seed(7)
    values = []
    for _ in range(subsets):
        ours, theirs = (torch.randperm(count, generator=source)[:20] for _ in range(2))
        values.append(by_pairs(real[ours], fake[theirs]))
    assert found.mean == pytest.approx(np.mean(values), rel=1e-9)
    assert found.std == pytest.approx(np.std(values), rel=1e-9)


def test_mean_and_deviation_are_those_over_subsets() -> None:
    """All subsets of two of three real samples are met by enough draws, each equally often."""
    real, fake = draw(0, 3), draw(1, 2)
    values = torch.tensor(
        [polynomial_mmd(real[list(rows)], fake) for rows in ((0, 1), (0, 2), (1, 2))], dtype=torch.float64
    )
    found = kernel_distance(real, fake, 3000, 2, seed=0)
    assert found.mean == pytest.approx(values.mean().item(), abs=0.06 * values.std().item())
    assert found.std == pytest.approx(values.std(unbiased=False).item(), rel=0.05)


@pytest.mark.parametrize("size", [2, 5, 20])
def test_it_is_unbiased(size: int) -> None:
    """Of sets of one distribution it is 0 on average, however small they are."""
    count = 4000 // size
    real, fake = draw(1, count * size).split(size), draw(2, count * size).split(size)
    values = torch.tensor([polynomial_mmd(x, y) for x, y in zip(real, fake, strict=True)])
    assert abs(values.mean()) < 3 * values.std() / count**0.5


def test_its_mean_does_not_depend_on_the_size_of_the_subsets() -> None:
    real, fake = draw(0, 1000), draw(1, 1000, shift=0.5)
    whole = polynomial_mmd(real, fake)
    for size, subsets in ((10, 2000), (100, 200)):
        assert kernel_distance(real, fake, subsets, size, seed=0).mean == pytest.approx(whole, rel=0.05)


def test_it_grows_with_the_shift() -> None:
    distances = [
        kernel_distance(draw(0, 500), draw(1, 500, shift=shift), 20, 100, seed=0).mean
        for shift in (0.0, 0.2, 0.5, 1.0)
    ]
    assert distances == sorted(distances)
    assert distances[0] < 0.01 < 1 < distances[-1]


def test_the_seed_alone_chooses_the_subsets() -> None:
    real, fake = draw(0, 100), draw(1, 100, shift=0.3)
    torch.manual_seed(0)
    first = kernel_distance(real, fake, 5, 20, seed=7)
    torch.manual_seed(1)
    assert kernel_distance(real, fake, 5, 20, seed=7) == first
    assert kernel_distance(real, fake, 5, 20, seed=8) != first


@pytest.mark.parametrize(
    ("subsets", "size", "message"),
    [
        (0, 5, r"a mean over subsets, and their number is 0\. Use at least 1"),
        (3, 1, r"compares pairs of samples, and subsets have 1\. Use at least 2"),
        (
            3,
            11,
            r"Subsets of 11 cannot be drawn without replacement from 10 samples\. Use smaller subsets",
        ),
    ],
)
def test_subsets_that_cannot_be_drawn_are_refused(subsets: int, size: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kernel_distance(draw(0, 10), draw(1, 12), subsets, size, seed=0)
    with pytest.raises(ConfigError, match=message):
        kernel_distance(draw(0, 12), draw(1, 10), subsets, size, seed=0)
