"""What a run notes of its metrics that are plug-ins: plots and reports of it show them without running their code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pipeline.documents import Document, parse_json
from pipeline.durable import write_text
from pipeline.foreign_text import printable
from pipeline.metric_table import Metric, MetricsByTag, Needs, find_metric
from pipeline.options import QualityOptions
from pipeline.plugins import is_import_path
from pipeline.regular_files import read_regular
from pipeline.run.directory import RunDirectory
from pipeline.stderr import say_warning

MOST_BYTES = 1 << 20
LONGEST_TITLE = 60


class OwnMetric(Document):
    """One metric."""

    tag: str
    """The name of its curve."""
    name: str
    """Its import path, as in quality.metrics."""
    title: str
    better: Literal["higher", "lower"] | None


class OwnMetrics(Document):
    """The content of own_metrics.json."""

    metrics: list[OwnMetric]


def write_own_metrics(run: Path, quality: QualityOptions) -> None:
    """Note the plug-ins among the metrics that are measured during training, and keep notes of earlier ones.

    Raises StorageError.
    """
    names = [name for name in quality.metrics if is_import_path(name)] if quality.every else []
    if not names:
        return
    notes = {tag: _note(tag, metric) for tag, metric in read_own_metrics(run).items()}
    for name in names:
        metric = find_metric(name)
        tag = metric.tag(quality.features)
        notes[tag] = _note(tag, replace(metric, name=name))
    content = OwnMetrics(metrics=list(notes.values())).model_dump()
    write_text(RunDirectory(run).own_metrics, json.dumps(content, indent=1) + "\n")


def read_own_metrics(run: Path) -> MetricsByTag:
    """The metrics that are plug-ins, by the tags of their curves; the `name` of each is its import path.

    A file that cannot be used is a warning, and its curves have no titles.
    """
    path = RunDirectory(run).own_metrics
    try:
        notes = parse_json(read_regular(path, MOST_BYTES), OwnMetrics).metrics
    except FileNotFoundError:  # a run without any
        return {}
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        say_warning(f"{path} cannot be read ({reason}), so metrics of your own are shown without titles")
        return {}
    return {
        note.tag: Metric(note.name, printable(note.title, LONGEST_TITLE), note.better, Needs(), help="")
        for note in notes
    }


def _note(tag: str, metric: Metric) -> OwnMetric:
    return OwnMetric(tag=tag, name=metric.name, title=metric.title, better=metric.better)
