"""What metrics detect of planted failures, what they should, and a table of both."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from planted_sets import COPIES, SEED, Planted

from pipeline.durable import write_text
from pipeline.metric_table import METRICS
from pipeline.options import FeatureKind
from pipeline.quality.best import is_better

LEAST_SHARE = 0.75
MOST_TIMES: Mapping[str, float] = {"fid": 2.0, "swd": 2.0}
MOST_ABOVE: Mapping[str, float] = {"kid": 0.05, "copied": 0.1, "class_distance": 0.1}


class Column(NamedTuple):
    """A metric, and the features it was measured with."""

    metric: str
    features: FeatureKind

    @property
    def heading(self) -> str:
        """For example "fid, pixels"; or "swd", which needs no features."""
        return f"{self.metric}, {self.features}" if METRICS[self.metric].needs.features else self.metric


Figures = Mapping[Column, float]


@dataclass(frozen=True)
class Row:
    """What was measured of one set of images."""

    name: str
    figures: Figures
    seen: frozenset[Column] = frozenset()
    """The columns that detect a failure"""
    unexpected: Mapping[Column, str] = field(default_factory=dict)
    """The columns with an unexpected figure, and the reason"""


def judged(planted: Planted, figures: Figures, good: Figures) -> Row:
    """The row of a planted set: which columns detect the failure, and which of them should not or fail to."""
    seen = worse_columns(figures, good)
    unexpected = {
        column: "detects it and should not" if column in seen else "should detect it and does not"
        for column in figures
        if column.metric not in planted.open_to and (column in seen) != (column.metric in planted.seen_by)
    }
    return Row(planted.name, figures, seen, unexpected)


def judged_run(found: Mapping[str, Figures], good: Figures) -> list[Row]:
    """The rows of the checkpoints. The last should be better than the first by all metrics but `copied`."""
    rows = [Row(name, figures, worse_columns(figures, good)) for name, figures in found.items()]
    if not rows:
        return []
    first, last = rows[0].figures, rows[-1]
    unexpected = {
        column: f"is not better than at the first of these steps, {_number(first[column])}"
        for column, value in last.figures.items()
        if column.metric not in COPIES and not is_better(column.metric, value, first[column])
    }
    return [*rows[:-1], replace(last, unexpected=unexpected)]


def worse_columns(figures: Figures, good: Figures) -> frozenset[Column]:
    """The columns by which samples are worse than unseen real images."""
    return frozenset(
        column for column, value in figures.items() if is_seen(column.metric, value, good[column])
    )


def is_seen(metric: str, value: float, good: float) -> bool:
    """Whether a figure means that samples are worse than unseen real images, whose figure is `good`.

    Metrics for which higher is better must be under 3/4 of it; fid and swd, which grow with the contrast of the images,
    over twice it; the others, which are about 0 for real images, higher by a fixed amount.
    """
    if METRICS[metric].better == "higher":
        return value < LEAST_SHARE * good
    if metric in MOST_TIMES:
        return value > MOST_TIMES[metric] * good
    return value > good + MOST_ABOVE[metric]


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The lines of a markdown table of the rows, and one line for each unexpected figure."""
    columns = list(rows[0].figures)
    yield _row(["", *(column.heading for column in columns)])
    yield _row(["---"] * (len(columns) + 1))
    for row in rows:
        yield _row([row.name, *(_cell(row, column) for column in columns)])
    yield ""
    for row in rows:
        for column, how in row.unexpected.items():
            yield f"- {row.name}: {column.heading} {how}."


def write(rows: Sequence[Row], samples: int, path: Path) -> None:
    """Write the rows as JSON. Raises StorageError."""
    content = {"samples": samples, "seed": SEED, "rows": [_plain(row) for row in rows]}
    write_text(path, json.dumps(content, indent=1) + "\n")


def _plain(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "figures": {column.heading: value for column, value in row.figures.items()},
        "seen": sorted(column.heading for column in row.seen),
        "unexpected": {column.heading: how for column, how in row.unexpected.items()},
    }


def _cell(row: Row, column: Column) -> str:
    text = _number(row.figures[column])
    text = f"**{text}**" if column in row.seen else text
    return f"{text} (!)" if column in row.unexpected else text


def _number(value: float) -> str:
    return f"{value:.3g}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
