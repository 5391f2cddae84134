"""Who tells the user of an error: this process, or its launcher for all ranks together.

A rank that `launcher.launch` started hands its error to the launcher, which prints the cause of a failure once. In
every other process the error goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass

from pipeline.errors import ConfigError, PipelineError, describe
from pipeline.ranks.variables import read_place


@dataclass(frozen=True)
class Report:
    """What a rank tells its launcher: its exit code, and the text for the user."""

    exit_code: int
    text: str

    def to_line(self) -> bytes:
        """The report as one line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Report:
        """The report in a line of `to_line`."""
        return cls(**json.loads(line))


_launcher: int | None = None
"""The file descriptor of the pipe to the launcher, if there is one."""


def report_to(descriptor: int) -> None:
    """From now on hand errors to the launcher, through this pipe."""
    global _launcher
    _launcher = descriptor


def has_launcher() -> bool:
    """Whether this process is a rank that our launcher started."""
    return _launcher is not None


def tell(error: PipelineError) -> None:
    """Tell the user of an error, or hand it to the launcher."""
    report(Report(error.exit_code, describe(error)))


def tell_untold(error: PipelineError) -> None:
    """Tell of an error unless that was done before. Ranks that torchrun started tell it once for each machine."""
    if not error.is_told and (has_launcher() or _is_first_on_machine()):
        tell(error)


def _is_first_on_machine() -> bool:
    try:
        return read_place().local_rank == 0
    except ConfigError:
        return True  # which rank it is cannot be known, and that may be the error


def report(news: Report) -> None:
    """Hand the report to the launcher; without one, print its text."""
    if _launcher is None:
        print(news.text, file=sys.stderr, flush=True)
        return
    line = news.to_line()
    try:
        while line:
            line = line[os.write(_launcher, line) :]
    except BrokenPipeError:
        # The launcher was killed. This rank will be told to stop, and the user may still see its output.
        print(news.text, file=sys.stderr, flush=True)
