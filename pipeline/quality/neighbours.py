"""What nearest neighbours show about generated samples: fidelity, coverage, and whether they are copies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.wording import counted

CHUNK = 512
"""Rows of a matrix of distances that are held at once."""
COLUMNS = 8192
"""Columns of it that are held at once where each row's nearest are enough."""
TIE = 1e-12
"""Squared distances that differ by less, in units of the squared norms of the two points, count as equal."""

SCALE_NEIGHBOURS = 5
ONE_IN = 100
"""One new image in this many may pass for a copy."""


class Prdc(NamedTuple):
    """Shares in [0, 1], but for the density, which may exceed 1."""

    precision: float
    """Of the generated samples, those within a ball of a real one."""
    recall: float
    """Of the real samples, those within a ball of a generated one."""
    density: float
    """How many real balls a generated sample lies in on average, over k: 1 where both sets are alike."""
    coverage: float
    """Of the real samples, those whose ball holds a generated one."""


def precision_recall_density_coverage(real: Tensor, fake: Tensor, k: int) -> Prdc:
    """How the two sets cover one another, by balls that reach to each point's k-th neighbour in its own set.

    Both are float32 (count, dimensions). Precision and recall are those of Kynkäänniemi et al. 2019, "Improved
    Precision and Recall Metric for Assessing Generative Models"; density and coverage those of Naeem et al. 2020,
    "Reliable Fidelity and Diversity Metrics for Generative Models". Balls are closed, and a point is not its own
    neighbour. All but the density grow with k and shrink with more dimensions. Raises ConfigError where a set
    has no k-th neighbours.
    """
    smaller_count = min(len(real), len(fake))
    if not 1 <= k < smaller_count:
        raise ConfigError(
            f"k = {k}: among {smaller_count:,} samples each has neighbours 1 to {smaller_count - 1:,}. "
            "Choose k from these, or take more samples."
        )
    real_radii, fake_radii = _squared_radii(real, k), _squared_radii(fake, k)
    is_precise, is_recalled, is_covered = (
        torch.zeros(len(points), dtype=torch.bool, device=points.device) for points in (fake, real, real)
    )
    balls = 0
    for rows, distances, tie in _squared_distances(fake, real):
        in_real_ball = distances <= real_radii + tie
        in_fake_ball = distances <= fake_radii[rows, None] + tie
        is_precise[rows] = in_real_ball.any(1)
        is_covered |= in_real_ball.any(0)
        is_recalled |= in_fake_ball.any(0)
        balls += int(in_real_ball.sum())
    return Prdc(
        precision=_share(is_precise),
        recall=_share(is_recalled),
        density=balls / (k * len(fake)),
        coverage=_share(is_covered),
    )


def nearest(
    queries: Tensor, references: Tensor, k: int = 1, rows: int = CHUNK, columns: int = COLUMNS
) -> tuple[Tensor, Tensor]:
    """The Euclidean distances to each query's k nearest references, nearest first, and their numbers.

    Both sets are float32 (count, dimensions), and there are k references at least; the results are float64 and
    int64 (count, k). `rows` queries are compared with `columns` references at once, which changes the memory
    alone. Which of several equally near references are named is not defined.
    """
    parts = [_nearest(some, references, k, columns) for some in torch.split(queries, rows)]
    distances, numbers = zip(*parts, strict=True)
    return torch.cat(distances), torch.cat(numbers)


def copied_share(fake: Tensor, train: Tensor, held_out: Tensor, natural: float) -> float:
    """The share of `fake` that lies nearer to a training image than 99 % of the new images, `held_out`, do.

    Sets are float32 (count, dimensions); `natural` is their `natural_distance`. Samples as good as new images score
    about 0.01 (1 / (m + 1) where the m held-out images are fewer than 99), copies 1, and samples far from any
    training image 0. Where held-out images are in the training set too, one in a hundred or more, nothing can be
    told, and it is 0.

    As in Meehan et al. 2020, "A Non-Parametric Test to Detect Data-Copying in Generative Models", held-out images
    say how near is natural. A distance to the nearest training image is taken in units of that image's distance
    to its 5th held-out neighbour: else samples of a dense region, such as the images of one class alone, would
    pass for copies.
    """
    return _share(_relative_distances(fake, train, held_out, are_held_out=False) < natural)


def natural_distance(train: Tensor, held_out: Tensor) -> float:
    """The distance to their nearest training image that 99 % of the new images, `held_out`, exceed.

    Both are float32 (count, dimensions); the distance is relative, as `copied_share` says. Raises ConfigError
    where fewer than 6 images are held out.
    """
    if len(held_out) <= SCALE_NEIGHBOURS:
        raise ConfigError(
            f"{counted(len(held_out), 'held-out image')} cannot show how close to the training images is natural. "
            f"Hold out at least {SCALE_NEIGHBOURS + 1}, and some hundreds for a reliable figure."
        )
    distances = _relative_distances(held_out, train, held_out, are_held_out=True).sort().values
    # A new image is below the j-th of m others with probability j / (m + 1), whatever the distribution.
    place = max(1, (len(distances) + 1) // ONE_IN)
    return float(distances[place - 1])


def _relative_distances(points: Tensor, train: Tensor, held_out: Tensor, are_held_out: bool) -> Tensor:
    """Distances to the nearest training image, over that image's to its 5th held-out one: float64 (count,)."""
    distances, images = (found[:, 0] for found in nearest(points, train))
    if are_held_out:
        # Each without itself: it must not be measured by how near it is.
        to_held_out, numbers = nearest(train[images], held_out, SCALE_NEIGHBOURS + 1)
        is_itself = numbers == torch.arange(len(points), device=numbers.device)[:, None]
        to_held_out = to_held_out.masked_fill(is_itself, torch.inf).sort(1).values
    else:
        to_held_out, _ = nearest(train[images], held_out, SCALE_NEIGHBOURS)
    # An exact copy is one, even of an image that is among the held-out ones too.
    return torch.where(distances == 0, 0.0, distances / to_held_out[:, SCALE_NEIGHBOURS - 1])


def _nearest(queries: Tensor, references: Tensor, k: int, columns: int) -> tuple[Tensor, Tensor]:
    """`nearest` of queries that are compared all at once."""
    squared = torch.zeros(len(queries), 0, dtype=torch.float64, device=queries.device)
    numbers = torch.zeros(len(queries), 0, dtype=torch.int64, device=queries.device)
    for first in range(0, len(references), columns):
        some = references[first : first + columns]
        _, distances, _ = next(_squared_distances(queries, some, len(queries)))
        found = distances.topk(min(k, len(some)), largest=False)
        squared = torch.cat([squared, found.values], 1)
        numbers = torch.cat([numbers, found.indices + first], 1)
        squared, places = squared.topk(min(k, squared.shape[1]), largest=False)
        numbers = numbers.gather(1, places)
    # Once more, by differences: a copy's distance is 0 exactly.
    distances = (queries.double()[:, None] - references[numbers].double()).norm(dim=2)
    distances, places = distances.sort(1)
    return distances, numbers.gather(1, places)


def _squared_distances(
    rows: Tensor, columns: Tensor, chunk: int = CHUNK
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Chunk by chunk: the numbers of its rows, their squared distances to all columns, and what counts as a tie.

    All three in float64 but the numbers. Through a product, which is far faster than differences. It rounds: equal
    distances come out unequal, and those of duplicates as not quite 0. Hence the tie, which is beyond any
    rounding of float64.
    """
    columns = columns.double()
    column_norms = columns.square().sum(1)
    for numbers in torch.split(torch.arange(len(rows), device=rows.device), chunk):
        points = rows[numbers].double()
        norms = points.square().sum(1)[:, None] + column_norms
        yield numbers, torch.addmm(norms, points, columns.T, alpha=-2).clamp_(min=0), norms.mul_(TIE)


def _squared_radii(points: Tensor, k: int) -> Tensor:
    """The squared distance from each point to its k-th neighbour among the others, float64 (count,)."""
    # The least of all distances is the point's own.
    return torch.cat(
        [distances.kthvalue(k + 1, dim=1).values for _, distances, _ in _squared_distances(points, points)]
    )


def _share(chosen: Tensor) -> float:
    return chosen.double().mean().item()
