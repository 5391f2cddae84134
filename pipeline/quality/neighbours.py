"""Metrics of nearest neighbours: fidelity and coverage of generated samples, and whether they are copies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.wording import counted

CHUNK = 512
"""How many rows of a distance matrix are in memory at once, at most."""
MOST_DISTANCES = 1 << 25
"""How many distances are: 256 MiB."""
COLUMNS = 8192
"""How many of its columns are in memory at once if only the nearest ones of each row are needed."""
TIE = 1e-12
"""Squared distances count as equal if they differ by less than this times the sum of the points' squared norms."""

SCALE_NEIGHBOURS = 5
ONE_IN = 100
"""One in this many new images counts as a copy by chance."""


class Prdc(NamedTuple):
    """Precision, recall and coverage are shares from 0 to 1; the density is 0 or more."""

    precision: float
    """Share of the generated samples that are inside the ball of a real one."""
    recall: float
    """Share of the real samples that are inside the ball of a generated one."""
    density: float
    """The mean number of real balls that contain a generated sample, divided by k: 1 if both sets are alike."""
    coverage: float
    """Share of the real samples whose ball contains a generated one."""


def precision_recall_density_coverage(
    real: Tensor, fake: Tensor, k: int, real_radii: Tensor | None = None
) -> Prdc:
    """How well two sets of features cover each other. A point's ball reaches to its k-th neighbour in its own set.

    Both sets are float32 (count, dimensions). Precision and recall are defined by Kynkäänniemi et al. 2019, "Improved
    Precision and Recall Metric for Assessing Generative Models"; density and coverage by Naeem et al. 2020, "Reliable
    Fidelity and Diversity Metrics for Generative Models". Balls are closed, and a point is not its own neighbour. All
    but the density grow with k and shrink with more dimensions. `real_radii` are the `squared_radii` of the real set,
    for callers that compare it several times. Raises ConfigError unless k is from 1 to the smaller count minus 1.
    """
    smaller_count = min(len(real), len(fake))
    if not 1 <= k < smaller_count:
        raise ConfigError(
            f"There is no neighbour number {k} among {counted(smaller_count, 'sample')}. Choose k from 1 to "
            f"{smaller_count - 1:,}, or use more samples."
        )
    real_radii = squared_radii(real, k) if real_radii is None else real_radii
    fake_radii = squared_radii(fake, k)
    is_precise, is_recalled, is_covered = (
        torch.zeros(len(points), dtype=torch.bool, device=points.device) for points in (fake, real, real)
    )
    balls = torch.zeros((), dtype=torch.int64, device=fake.device)
    for rows, distances, tie in _squared_distances(fake, real):
        in_real_ball = distances <= real_radii + tie
        in_fake_ball = distances <= fake_radii[rows, None] + tie
        is_precise[rows] = in_real_ball.any(1)
        is_covered |= in_real_ball.any(0)
        is_recalled |= in_fake_ball.any(0)
        balls += in_real_ball.sum()
    return Prdc(
        precision=_share(is_precise),
        recall=_share(is_recalled),
        density=balls.item() / (k * len(fake)),
        coverage=_share(is_covered),
    )


def nearest(
    queries: Tensor, references: Tensor, k: int = 1, rows: int = CHUNK, columns: int = COLUMNS
) -> tuple[Tensor, Tensor]:
    """The Euclidean distances from each query to its k nearest references, nearest first, and their indices.

    Both sets are float32 (count, dimensions), with at least k references, which may be on another device; the results
    are float64 and int64 (count, k). `rows` queries are compared with `columns` references at once; this changes only
    the memory that is needed. If several references are equally near, any of them may be returned.
    """
    parts = [_nearest(some, references, k, columns) for some in torch.split(queries, rows)]
    distances, numbers = zip(*parts, strict=True)
    return torch.cat(distances), torch.cat(numbers)


def copied_share(fake: Tensor, train: Tensor, held_out: Tensor, natural: float) -> float:
    """The share of `fake` that is closer to a training image than 99% of the held-out images are.

    The sets are float32 (count, dimensions); `natural` is their `natural_distance`. Samples as good as new images score
    about 0.01 (1 / (m + 1) if the number m of held-out images is below 99), copies 1, and samples far from all training
    images 0. The score is always 0 if 1% or more of the held-out images are also in the training set.

    As in Meehan et al. 2020, "A Non-Parametric Test to Detect Data-Copying in Generative Models", held-out images show
    which distances are natural. The distance to the nearest training image is divided by the distance from that image
    to its 5th held-out neighbour. Without this, samples from a dense region, for example of only one class, would count
    as copies.
    """
    return _share(_relative_distances(fake, train, held_out, are_held_out=False) < natural)


def natural_distance(train: Tensor, held_out: Tensor) -> float:
    """The distance to the nearest training image that 99% of the held-out images exceed.

    Both sets are float32 (count, dimensions); the distance is relative, as explained in `copied_share`. Raises
    ConfigError if fewer than 6 images are held out.
    """
    if len(held_out) <= SCALE_NEIGHBOURS:
        raise ConfigError(
            f"{counted(len(held_out), 'held-out image')} cannot show how close to the training images is natural. "
            f"Hold out at least {SCALE_NEIGHBOURS + 1}, or a few hundred for a reliable figure."
        )
    distances = _relative_distances(held_out, train, held_out, are_held_out=True).sort().values
    # A new image is below the j-th of m others with probability j / (m + 1), for every distribution.
    place = max(1, (len(distances) + 1) // ONE_IN)
    return float(distances[place - 1])


def _relative_distances(points: Tensor, train: Tensor, held_out: Tensor, are_held_out: bool) -> Tensor:
    """Distances to the nearest training image, divided by its distance to its 5th held-out one: float64 (count,)."""
    distances, images = (found[:, 0] for found in nearest(points, train))
    of_training = train[images.to(train.device)].to(points.device)
    if are_held_out:
        # Without the point itself, because the unit must not depend on the distance that it measures.
        to_held_out, numbers = nearest(of_training, held_out, SCALE_NEIGHBOURS + 1)
        is_itself = numbers == torch.arange(len(points), device=numbers.device)[:, None]
        to_held_out = to_held_out.masked_fill(is_itself, torch.inf).sort(1).values
    else:
        to_held_out, _ = nearest(of_training, held_out, SCALE_NEIGHBOURS)
    # An exact copy counts as one even if the image is also held out, where the quotient would be 0 / 0.
    return torch.where(distances == 0, 0.0, distances / to_held_out[:, SCALE_NEIGHBOURS - 1])


def _nearest(queries: Tensor, references: Tensor, k: int, columns: int) -> tuple[Tensor, Tensor]:
    """`nearest` for queries that are all compared at once."""
    squared = torch.zeros(len(queries), 0, dtype=torch.float64, device=queries.device)
    numbers = torch.zeros(len(queries), 0, dtype=torch.int64, device=queries.device)
    for first in range(0, len(references), columns):
        # Training images can be more than a device holds at once.
        some = references[first : first + columns].to(queries.device)
        _, distances, _ = next(_squared_distances(queries, some, len(queries)))
        found = distances.topk(min(k, len(some)), largest=False)
        squared = torch.cat([squared, found.values], 1)
        numbers = torch.cat([numbers, found.indices + first], 1)
        squared, places = squared.topk(min(k, squared.shape[1]), largest=False)
        numbers = numbers.gather(1, places)
    # Computed again from differences, so that the distance of a copy is exactly 0.
    found_rows = references[numbers.to(references.device)].to(queries.device)
    distances = (queries.double()[:, None] - found_rows.double()).norm(dim=2)
    distances, places = distances.sort(1)
    return distances, numbers.gather(1, places)


def _squared_distances(
    rows: Tensor, columns: Tensor, chunk: int | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For each chunk of rows: their indices, their squared distances to all columns, and the tolerance for a tie.

    Distances and tolerance are float64. The distances are computed by a matrix product, which is much faster than
    differences, but rounds: equal distances can come out different, and those of duplicates not exactly 0. The
    tolerance is larger than these errors.
    """
    columns = columns.double()
    column_norms = columns.square().sum(1)
    chunk = chunk or max(1, min(CHUNK, MOST_DISTANCES // len(columns)))
    for numbers in torch.split(torch.arange(len(rows), device=rows.device), chunk):
        points = rows[numbers].double()
        norms = points.square().sum(1)[:, None] + column_norms
        yield numbers, torch.addmm(norms, points, columns.T, alpha=-2).clamp_(min=0), norms.mul_(TIE)


def squared_radii(points: Tensor, k: int) -> Tensor:
    """The squared distance from each point to its k-th nearest neighbour in the same set: float64 (count,)."""
    # The smallest distance is that of the point to itself.
    return torch.cat(
        [distances.kthvalue(k + 1, dim=1).values for _, distances, _ in _squared_distances(points, points)]
    )


def _share(chosen: Tensor) -> float:
    return chosen.double().mean().item()
