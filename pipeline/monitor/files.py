"""Figures and alarms as JSON lines, and sample grids as PNG files, in the run's directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.durable import open_for_append, replacing, storage_errors, write_text
from pipeline.monitor.grids import Png
from pipeline.monitor.records import parse_line, split_lines
from pipeline.monitor.sinks import ALARM_PREFIX, Sink
from pipeline.stderr import say_warning
from pipeline.wording import counted


class Lines(Sink):
    """A file of JSON objects, one per line, each with its step."""

    def __init__(self, path: Path, first_step: int) -> None:
        """Lines at `first_step` and later, and lines that are not records, are dropped.

        Raises StorageError.
        """
        with storage_errors(path):
            write_text(path, "".join(_lines_before(path, first_step)))
            self._file = open_for_append(path)

    def close(self) -> None:
        self._file.close()

    def _write(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()


class JsonLines(Lines):
    """metrics.jsonl: one object for each logged step, {"step": ..., NAME: value, ...}."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._write({"step": step, **values})


class AlarmLines(Lines):
    """alarms.jsonl: one object for each alarm, {"step": ..., "name": ..., "text": ...}."""

    def text(self, step: int, name: str, text: str) -> None:
        if name.startswith(ALARM_PREFIX):
            self._write({"step": step, "name": name.removeprefix(ALARM_PREFIX), "text": text})


class PngFiles(Sink):
    """The grids of one name as PNG files step_00000200.png."""

    def __init__(self, directory: Path, name: str, first_step: int) -> None:
        """Grids at `first_step` and later are deleted: the run will draw them again.

        Raises StorageError.
        """
        self._directory, self._name = directory, name
        with storage_errors(directory):
            for path in directory.glob("step_*.png"):
                step = path.stem.removeprefix("step_")
                if step.isdecimal() and int(step) >= first_step:
                    path.unlink()

    def images(self, step: int, name: str, png: Png) -> None:
        if name == self._name:
            with replacing(self._directory / f"step_{step:08d}.png") as file:
                file.write(png.content)


def _lines_before(path: Path, first_step: int) -> list[str]:
    try:
        # What comes after the last line was cut short by a crash.
        *lines, _ = split_lines(path, within=path.parent)
    except FileNotFoundError:
        return []
    records = [parse_line(line) for line in lines]
    if foreign := records.count(None):
        say_warning(f"{path}: dropped {counted(foreign, 'line')} (of {len(lines):,}) that no run has written")
    return [
        f"{line.decode()}\n"
        for line, record in zip(lines, records, strict=True)
        if record is not None and record["step"] < first_step
    ]
