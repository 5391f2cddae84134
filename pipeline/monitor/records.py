"""What a run has logged, read back from metrics.jsonl and alarms.jsonl."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import ConfigError
from pipeline.run.directory import RunDirectory, parse_record
from pipeline.stderr import say_warning
from pipeline.wording import counted

Record = Mapping[str, Any]
"""A line of metrics.jsonl: "step" is a whole number, and every other name is a figure at this step."""


class AlarmRecord(NamedTuple):
    """An alarm that went off at a step, and what it advises."""

    step: int
    name: str
    text: str


def read_records(path: Path) -> list[Record]:
    """The records of a metrics.jsonl in their order. Other lines, such as one cut short by a kill, are skipped.

    Raises ConfigError if there is no record.
    """
    try:
        records = read_lines(path)
    except OSError as error:
        raise nothing_to_draw(f"{path} cannot be read ({error.strerror})", "monitor.log_every") from None
    if not records:
        raise nothing_to_draw(f"{path} contains no record of a step", "monitor.log_every")
    return records


def read_lines(path: Path) -> list[Record]:
    """The JSON objects of `path`, one per line, that have a step. Other lines are skipped with a warning.

    Raises OSError if the file cannot be read.
    """
    with path.open("rb") as file:
        records = [parse_record(line) for line in file]
    if damaged := records.count(None):
        say_warning(
            f"{path}: skipped {counted(damaged, 'line')} (of {len(records):,}) that no run has written"
        )
    return [record for record in records if record is not None]


def points_of(records: Iterable[Record], tag: str) -> list[tuple[int, float]]:
    """(step, figure) of each record that has a figure of this name."""
    return [(record["step"], record[tag]) for record in records if is_figure(record.get(tag))]


def read_alarms(run: Path) -> list[AlarmRecord]:
    """The alarms of a run, in their order."""
    try:
        lines = read_lines(RunDirectory(run).alarms)
    except OSError:  # of a run without alarms, or of a version that had none
        return []
    return [AlarmRecord(line["step"], str(line.get("name")), str(line.get("text"))) for line in lines]


def is_figure(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def tags_of(records: Iterable[Record]) -> set[str]:
    """The names of all figures."""
    return {tag for record in records for tag, value in record.items() if tag != "step" and is_figure(value)}


def nothing_to_draw(found: str, option: str) -> ConfigError:
    return ConfigError(
        f"{found}, so there is nothing to draw. Wait until the run reaches a multiple of {option}, or name another "
        "run's directory, such as runs/digits."
    )
