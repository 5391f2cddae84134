"""The tables of a report: quality measured in training, and what `wgan evaluate` found."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.metric_table import NO_PLUGINS, TAG_PREFIX, Metric, MetricsByTag, metric_of_tag
from pipeline.monitor.plots import quality_tags
from pipeline.monitor.records import Record, points_of

ASKED_FOR = ("step", "weights", "samples", "seed", "features")
"""What an evaluation depends on, apart from its metrics and its images."""
SETS = ("real", "manifest", "classifier")
"""The number of real images, the SHA-256 of their manifest, and the classifier."""
SET_CHARACTERS = 24
"""Characters of such a cell: enough to distinguish SHA-256 values."""


class Quality(NamedTuple):
    """The last and the best value of a metric, each with its step."""

    name: str
    metric: str
    """As in quality.metrics; "" if that is not known"""
    last: tuple[int, float]
    best: tuple[int, float] | None
    """None if neither end of the metric is better."""
    better: str
    """higher, lower or neither"""


def summarise_quality(records: Sequence[Record], own: MetricsByTag = NO_PLUGINS) -> list[Quality]:
    """Last and best value of each metric that was measured in training, without values that are not finite."""
    figures = []
    for tag in quality_tags(records):
        points = [point for point in points_of(records, tag) if math.isfinite(point[1])]
        if points:
            figures.append(_summarise(tag, metric_of_tag(tag, own), points))
    return figures


def _summarise(tag: str, metric: Metric | None, points: Sequence[tuple[int, float]]) -> Quality:
    better = metric.better if metric else None
    best = None
    if better is not None:
        sign = -1 if better == "higher" else 1
        best = min(points, key=lambda point: sign * point[1])
    name = tag.removeprefix(TAG_PREFIX)
    return Quality(name, metric.name if metric else "", points[-1], best, better or "neither")


def newest_of_equal(evaluations: Sequence[Record]) -> list[Record]:
    """The lines of evaluations.jsonl, without those that a later line repeats with the same arguments."""

    def asked_for(line: Record) -> str:
        names = sorted(mapping(line.get("metrics")))
        return json.dumps([names, *(line.get(name) for name in (*ASKED_FOR, *SETS))])

    return list({asked_for(line): line for line in evaluations}.values())


def tabulate(evaluations: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """The lines of evaluations.jsonl as a table: the names of its columns, and its rows.

    The columns that describe the real images are there only if they differ between lines.
    """
    sets = [name for name in SETS if len({str(line.get(name)) for line in evaluations}) > 1]
    metrics = list(dict.fromkeys(name for line in evaluations for name in mapping(line.get("metrics"))))
    rows = [
        [_cell(line.get(name, "")) for name in ASKED_FOR]
        + [_cell(line.get(name, ""))[:SET_CHARACTERS] for name in sets]
        + [_cell(mapping(line.get("metrics")).get(name, "")) for name in metrics]
        + [_cell(line.get("time", ""))]
        for line in evaluations
    ]
    return [*ASKED_FOR, *sets, *metrics, "time"], rows


def _cell(value: object) -> str:
    return format_number(value) if isinstance(value, float) else str(value)


def format_number(value: float) -> str:
    """Four significant digits."""
    return f"{value:.4g}"


def mapping(value: object) -> Mapping[str, Any]:
    """A JSON object, or an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}
