"""What a run has logged, read back from metrics.jsonl, alarms.jsonl and evaluations.jsonl."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ConfigDict, Field

from pipeline.documents import Document, parse_json
from pipeline.errors import ConfigError
from pipeline.regular_files import read_regular
from pipeline.run.directory import RunDirectory
from pipeline.stderr import say_warning
from pipeline.wording import counted

MOST_BYTES, MOST_LINES, MOST_LINE_BYTES = 1 << 30, 2_000_000, 1 << 20
LARGEST = 1e300

Record = Mapping[str, Any]
"""A line of metrics.jsonl: "step" is a whole number, and every other name is a figure at this step."""


class Line(Document):
    """A line of metrics.jsonl, and what those of the other files have in common."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=True)

    step: int = Field(ge=0, lt=2**53)


class AlarmLine(Line):
    """A line of alarms.jsonl."""

    name: str
    text: str


class EvaluationLine(Line):
    """A line of evaluations.jsonl."""

    metrics: dict[str, float]


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


def read_lines(path: Path, kind: type[Line] = Line) -> list[Record]:
    """The lines of `path` that are JSON objects of this kind. Other lines are skipped with a warning.

    Raises OSError if the file cannot be read.
    """
    *lines, rest = split_lines(path)
    found = [parse_line(line, kind) for line in ([*lines, rest] if rest else lines)]
    if damaged := found.count(None):
        say_warning(f"{path}: skipped {counted(damaged, 'line')} (of {len(found):,}) that no run has written")
    return [record for record in found if record is not None]


def split_lines(path: Path, within: Path | None = None) -> list[bytes]:
    """The lines of a file, and what comes after the end of the last one; `within` as for `open_regular`.

    Raises OSError.
    """
    content = read_regular(path, MOST_BYTES, within)
    if content.count(b"\n") > MOST_LINES:
        reason = f"it has more than the {MOST_LINES:,} lines that such a file can have"
        raise OSError(errno.EFBIG, reason, str(path))
    return content.split(b"\n")


def parse_line(text: bytes, kind: type[Line] = Line) -> dict[str, Any] | None:
    """A line as an object of this kind, or None if it is not one."""
    if len(text) > MOST_LINE_BYTES or not text.startswith(b"{"):
        return None
    try:
        line = parse_json(text, kind)
    except ValueError:
        return None
    return {**line.__dict__, **(line.model_extra or {})}


def points_of(records: Iterable[Record], tag: str) -> list[tuple[int, float]]:
    """(step, figure) of each record that has a figure of this name."""
    points = [(record["step"], record[tag]) for record in records if tag in record]
    return [point for point in points if is_figure(point[1])]


def has_points(records: Iterable[Record], tag: str) -> bool:
    """Whether any record has a figure of this name."""
    return any(is_figure(record.get(tag)) for record in records)


def read_alarms(run: Path) -> list[AlarmRecord]:
    """The alarms of a run, in their order. A file that cannot be read is a warning: figures can be drawn without it."""
    path = RunDirectory(run).alarms
    try:
        lines = read_lines(path, AlarmLine)
    except FileNotFoundError:  # a run of a version that had no alarms
        return []
    except OSError as error:
        say_warning(f"{path} cannot be read ({error.strerror}), so no alarms are shown")
        return []
    return [AlarmRecord(line["step"], line["name"], line["text"]) for line in lines]


def is_figure(value: object) -> bool:
    """Whether a value can be drawn and compared: a number, and no whole number beyond those of floats."""
    return (type(value) is float or type(value) is int) and -LARGEST <= value <= LARGEST


def tags_of(records: Iterable[Record]) -> set[str]:
    """The names of all figures."""
    found = {"step"}
    for record in records:
        if not record.keys() <= found:
            found.update(tag for tag in record.keys() - found if is_figure(record[tag]))
    return found - {"step"}


def nothing_to_draw(found: str, option: str) -> ConfigError:
    return ConfigError(
        f"{found}, so there is nothing to draw. Wait until the run reaches a multiple of {option}, or name another "
        "run's directory, such as runs/digits."
    )
