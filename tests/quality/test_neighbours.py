"""Metrics by nearest neighbours, against counts in plain Python."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.quality.neighbours import (
    CHUNK,
    copied_share,
    natural_distance,
    nearest,
    precision_recall_density_coverage,
)

Points = list[list[float]]


def share_of_copies(fake: Tensor, train: Tensor, held_out: Tensor) -> float:
    return copied_share(fake, train, held_out, natural_distance(train, held_out))


def draw(seed: int, count: int, dimensions: int = 3, shift: float = 0) -> Tensor:
    return torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed)) + shift


def on_a_grid(seed: int, count: int) -> Tensor:
    """Points with many duplicates and few different distances, so that there are ties everywhere."""
    return torch.randint(0, 4, (count, 2), generator=torch.Generator().manual_seed(seed)).float()


def squared(first: list[float], second: list[float]) -> float:
    """Sums of squares of whole numbers, and so exact, for points on a grid."""
    return sum((a - b) ** 2 for a, b in zip(first, second, strict=True))


def squared_radii(points: Points, k: int) -> list[float]:
    return [
        sorted(squared(point, other) for j, other in enumerate(points) if j != i)[k - 1]
        for i, point in enumerate(points)
    ]


def by_counting(real: Points, fake: Points, k: int) -> tuple[float, float, float, float]:
    real_radii, fake_radii = squared_radii(real, k), squared_radii(fake, k)
    in_real = [[squared(x, y) <= radius for x, radius in zip(real, real_radii, strict=True)] for y in fake]
    in_fake = [[squared(x, y) <= radius for y, radius in zip(fake, fake_radii, strict=True)] for x in real]
    precision = sum(any(row) for row in in_real) / len(fake)
    recall = sum(any(row) for row in in_fake) / len(real)
    density = sum(sum(row) for row in in_real) / (k * len(fake))
    coverage = sum(any(column) for column in zip(*in_real, strict=True)) / len(real)
    return precision, recall, density, coverage


@pytest.mark.parametrize("k", [1, 3, 9])
@pytest.mark.parametrize("shift", [0.0, 1.0])
@pytest.mark.parametrize("counts", [(40, 40), (30, 50), (50, 10)])
def test_they_are_what_counting_gives(counts: tuple[int, int], shift: float, k: int) -> None:
    real, fake = draw(0, counts[0]), draw(1, counts[1], shift=shift)
    expected = by_counting(real.tolist(), fake.tolist(), k)
    assert precision_recall_density_coverage(real, fake, k) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("seed", range(3))
def test_points_on_the_edge_of_a_ball_are_inside(seed: int, k: int) -> None:
    real, fake = on_a_grid(seed, 20), on_a_grid(seed + 10, 15)
    expected = by_counting(real.tolist(), fake.tolist(), k)
    assert precision_recall_density_coverage(real, fake, k) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_duplicates_lie_in_balls_of_no_size(k: int, offset: float) -> None:
    """Whatever rounding makes of their distances, the more so the farther they are from the origin."""
    kinds = offset + draw(0, 20, 64)
    real = torch.cat([kinds, kinds, kinds[:10]])
    fake = torch.cat([kinds[5:], kinds[5:15], offset + draw(1, 5, 64)])
    for first, second in ((real, fake), (fake, real)):
        expected = by_counting(first.tolist(), second.tolist(), k)
        assert precision_recall_density_coverage(first, second, k) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_sets_of_duplicates_alone_share_what_they_have_in_common(offset: float, k: int) -> None:
    """All balls have no size; 15 of 20 kinds are generated, and 5 more that are not real."""
    kinds = offset + draw(0, 20, 64)
    real, fake = kinds.repeat(4, 1), torch.cat([kinds[5:], offset + draw(1, 5, 64)]).repeat(6, 1)
    found = precision_recall_density_coverage(real, fake, k)
    assert found == pytest.approx((0.75, 0.75, 0.75 * 4 / k, 0.75), abs=1e-12)


def test_chunks_do_not_change_the_figures() -> None:
    real, fake = draw(0, CHUNK + 30), draw(1, 2 * CHUNK + 1, shift=0.5)
    whole = precision_recall_density_coverage(real, fake, 3)
    distances = torch.cdist(fake.double(), real.double(), compute_mode="donot_use_mm_for_euclid_dist")
    radii = (
        torch.cdist(real.double(), real.double(), compute_mode="donot_use_mm_for_euclid_dist").sort().values
    )
    is_inside = distances <= radii[:, 3]
    assert whole.precision == pytest.approx(is_inside.any(1).double().mean().item(), abs=1e-12)
    assert whole.coverage == pytest.approx(is_inside.any(0).double().mean().item(), abs=1e-12)


@pytest.mark.parametrize("points", [draw(0, 200, 64), on_a_grid(0, 30)], ids=["random", "duplicates"])
@pytest.mark.parametrize("k", [1, 5])
def test_copies_of_the_real_samples_are_perfect(points: Tensor, k: int) -> None:
    found = precision_recall_density_coverage(points, points.flip(0), k)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)


def test_sets_that_are_far_apart_share_nothing() -> None:
    assert precision_recall_density_coverage(draw(0, 50), draw(1, 50, shift=100), 5) == (0, 0, 0, 0)


def test_precision_and_recall_change_places_with_the_sets() -> None:
    narrow, wide = 0.3 * draw(0, 300), draw(1, 300)
    found, swapped = (
        precision_recall_density_coverage(real, fake, 5) for real, fake in ((wide, narrow), (narrow, wide))
    )
    assert (found.precision, found.recall) == (swapped.recall, swapped.precision)
    assert found.precision > 0.9 > 0.4 > found.recall


def test_one_real_outlier_raises_precision_but_not_density() -> None:
    """Naeem et al.'s reason for the density: the outlier's ball covers everything."""
    real, fake = draw(0, 200), draw(1, 200, shift=8)
    real_and_outlier = torch.cat([real, torch.full((1, 3), 30.0)])
    found = precision_recall_density_coverage(real_and_outlier, fake, 5)
    assert found.precision > 0.9
    assert found.density < 0.25


@pytest.mark.parametrize("k", [0, 10, 11])
def test_a_neighbour_that_no_sample_has_is_refused(k: int) -> None:
    message = rf"no neighbour number {k} among 10 samples\. Choose k from 1 to 9, or use more"
    for counts in ((10, 20), (20, 10)):
        with pytest.raises(ConfigError, match=message):
            precision_recall_density_coverage(draw(0, counts[0]), draw(1, counts[1]), k)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (7, 11), (40, 30), (100, 4), (3, 100)])
@pytest.mark.parametrize("k", [1, 5, 30])
def test_the_nearest_are_found_whatever_the_blocks(k: int, rows: int, columns: int) -> None:
    queries, references = draw(0, 40), draw(1, 30)
    distances, numbers = nearest(queries, references, k, rows, columns)
    assert distances.shape == numbers.shape == (40, k)
    for query, found, places in zip(queries.tolist(), distances, numbers, strict=True):
        to_all = [math.dist(query, reference) for reference in references.tolist()]
        assert found.tolist() == pytest.approx(sorted(to_all)[:k], rel=1e-12)
        assert places.tolist() == sorted(range(30), key=to_all.__getitem__)[:k]


def test_a_copy_is_at_distance_0_exactly() -> None:
    references = 100 + draw(0, 50, 64)
    distances, numbers = nearest(references.flip(0), references)
    assert distances.count_nonzero() == 0
    assert numbers[:, 0].tolist() == list(range(49, -1, -1))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images_that_are_searched() -> None:
    """A whole row of distances to 200,000 images for each of 512 samples would take 781 MiB."""
    code = """
import resource, torch
from pipeline.quality.neighbours import copied_share
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
train = torch.rand(200_000, 4)
copied_share(train[:512], train[:10_000], train[:10_000], 1)
before = peak()
copied_share(train[:512], train, train, 1)
print(peak() - before)
"""
    grown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True
    )
    assert float(grown.stdout) < 100


def copied_by_counting(fake: Points, train: Points, held_out: Points) -> float:
    def relative(point: list[float], others: Points) -> float:
        image = min(train, key=lambda candidate: math.dist(point, candidate))
        return math.dist(point, image) / sorted(math.dist(image, other) for other in others)[4]

    natural = sorted(relative(held_out[i], held_out[:i] + held_out[i + 1 :]) for i in range(len(held_out)))
    limit = natural[max(1, (len(held_out) + 1) // 100) - 1]
    return sum(relative(point, held_out) < limit for point in fake) / len(fake)


@pytest.mark.parametrize("held_out", [6, 30, 250])
def test_the_copied_share_is_what_counting_gives(held_out: int) -> None:
    train, fake = draw(0, 60), draw(1, 80)
    fake[:40] = train[:40] + 0.05 * fake[:40]
    held = draw(2, held_out)
    expected = copied_by_counting(fake.tolist(), train.tolist(), held.tolist())
    assert share_of_copies(fake, train, held) == pytest.approx(expected, abs=1e-12)
    assert 0 < expected < 1


@pytest.mark.parametrize("held_out", [20, 99, 500])
def test_new_samples_of_the_same_kind_are_copies_as_rarely_as_promised(held_out: int) -> None:
    """One in 100, or one in m + 1 where fewer than 99 are held out, on average over draws."""
    shares = torch.tensor(
        [
            share_of_copies(draw(3 * seed, 400), draw(3 * seed + 1, 400), draw(3 * seed + 2, held_out))
            for seed in range(100)
        ]
    )
    expected = 1 / (held_out + 1) if held_out < 99 else 0.01
    assert abs(shares.mean() - expected) < 3.5 * shares.std() / 10


@pytest.mark.parametrize("planted", [0.0, 0.1, 0.5, 1.0])
def test_planted_copies_are_counted(planted: float) -> None:
    train, fake, held_out = draw(0, 1000, 16), draw(1, 500, 16), draw(2, 500, 16)
    count = int(planted * 500)
    fake[:count] = train[:count] + 0.05 * draw(3, count, 16)
    assert share_of_copies(fake, train, held_out) == pytest.approx(planted + 0.01 * (1 - planted), abs=0.015)


def test_samples_of_a_dense_region_are_no_copies() -> None:
    """They are near to training images, as are new images of that region."""

    def draw_of_two(seed: int, dense: int, sparse: int) -> Tensor:
        return torch.cat([0.01 * draw(seed, dense, 8), draw(seed + 1, sparse, 8, shift=10)])

    train, held_out = draw_of_two(0, 100, 900), draw_of_two(2, 50, 450)
    dense_alone = draw_of_two(4, 500, 0)
    distances, held_out_distances = (nearest(points, train)[0][:, 0] for points in (dense_alone, held_out))
    assert (distances < held_out_distances.quantile(0.05)).double().mean() > 0.3, (
        "the distance alone misleads"
    )
    assert share_of_copies(dense_alone, train, held_out) < 0.05


def test_samples_far_from_everything_are_no_copies() -> None:
    assert share_of_copies(draw(0, 100, shift=50), draw(1, 200), draw(2, 200)) == 0


def test_a_copy_of_a_training_image_with_duplicates_is_found() -> None:
    train, held_out = draw(0, 200, 16), draw(2, 200, 16)
    train[:100] = train[0]
    fake = train[:1] + 0.01 * draw(1, 50, 16)
    assert share_of_copies(fake, train, held_out) == 1


def test_a_copy_of_an_image_that_is_also_held_out_often_is_found() -> None:
    """With whole numbers no distance is rounded, so that of the duplicates is exactly 0 and cannot be a unit."""
    train, held_out = (10 * draw(0, 200, 16)).round(), (10 * draw(1, 1000, 16)).round()
    held_out[:6] = train[0]
    assert share_of_copies(train[:1], train, held_out) == 1


def test_held_out_images_that_are_copies_make_the_share_0() -> None:
    train = draw(0, 200, 16)
    assert share_of_copies(train[:50], train, train[50:150]) == 0


@pytest.mark.parametrize("count", [0, 5])
def test_too_few_held_out_images_are_refused(count: int) -> None:
    message = rf"{count} held-out images cannot show how close .* Hold out at least 6"
    with pytest.raises(ConfigError, match=message):
        share_of_copies(draw(0, 10), draw(1, 10), draw(2, count))
