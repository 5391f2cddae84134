"""A run's directory: its files, its lock, and the note of how the run ended.

config.yaml           every option as resolved
environment.json      versions, device, ranks, revision of the code
events.out.tfevents*  TensorBoard
metrics.jsonl         one line of scalars for each logged step
alarms.jsonl          one line for each alarm that went off
evaluations.jsonl     one line for each checkpoint that `wgan evaluate` measured
own_metrics.json      titles of the metrics that are plug-ins, if there are any
samples/              image grids as PNG
curves.png, training.gif    drawn at the end, see monitor/plots.py
checkpoints/          see checkpoint.py
lock                  held by the main rank while the run trains
DONE | PREEMPTED | FAILED   how it stopped, and why; none of them while it trains or after kill -9
"""

from __future__ import annotations

import difflib
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from pipeline.durable import storage_errors, write_text
from pipeline.errors import ConfigError, RunLockedError

Ending = Literal["DONE", "PREEMPTED", "FAILED"]


def parse_record(line: bytes) -> dict[str, Any] | None:
    """A line of metrics.jsonl or alarms.jsonl as an object with a whole "step", or None if it is not one."""
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def open_directory(path: Path, others: str = "") -> RunDirectory:
    """The run directory at `path`. Raises ConfigError if it is none; `others` names what else a user may give."""
    directory = RunDirectory(path)
    if not _is_run(path):
        meant = f"Did you mean {near}? " if (near := _nearest_run(path)) else ""
        raise ConfigError(
            f"{path} is not a run directory: it has no config.yaml. {meant}Name a directory that training made, such "
            f"as runs/digits{others}."
        )
    return directory


def _is_run(path: Path) -> bool:
    try:
        return RunDirectory(path).config.is_file()
    except OSError:
        return False  # a name that is too long, for example


def _nearest_run(path: Path) -> Path | None:
    """The run that may be meant by a path that is none: of the same name in runs/, or one with a similar name."""
    if _is_run(Path("runs") / path):
        return Path("runs") / path
    runs = {str(run): run for place in (path.parent, Path("runs")) for run in _runs_in(place)}
    wanted = (str(path), str(Path("runs") / path))
    near = [name for text in wanted for name in difflib.get_close_matches(text, runs, n=1)]
    return runs[near[0]] if near else None


def _runs_in(place: Path) -> list[Path]:
    try:
        return [path for path in place.iterdir() if _is_run(path)]
    except OSError:
        return []  # it does not exist or may not be read, and this is for a hint only


class RunDirectory:
    """The paths of one run. As a context manager it holds the run's lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.samples = path / "samples"
        self.config = path / "config.yaml"
        self.environment = path / "environment.json"
        self.metrics = path / "metrics.jsonl"
        self.alarms = path / "alarms.jsonl"
        self.evaluations = path / "evaluations.jsonl"
        self.own_metrics = path / "own_metrics.json"
        self.curves = path / "curves.png"
        self.animation = path / "training.gif"

    def __enter__(self) -> Self:
        """Create what is missing and take the lock.

        Raises StorageError if the directory cannot be written, RunLockedError if another process has the lock.
        """
        with storage_errors(self.path):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self.samples.mkdir(exist_ok=True)
            # Opened for appending: if the lock is taken, the note of the process that holds it must stay.
            self._lock = (self.path / "lock").open("a+", encoding="utf-8")
        try:
            self._take()
        except BaseException:
            self._lock.close()
            raise
        return self

    def _take(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "another process"
            raise RunLockedError(
                f"{self.path} is in use by {holder}. Wait until it ends, stop it, or choose another name for this run."
            ) from None
        with storage_errors(self.path):
            self._lock.truncate(0)
            self._lock.write(f"process {os.getpid()} on {socket.gethostname()}")
            self._lock.flush()
            for ending in ("PREEMPTED", "FAILED"):
                (self.path / ending).unlink(missing_ok=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()

    def start(self, config: str) -> None:
        """Note that training begins: remove DONE, and write the resolved options to config.yaml."""
        with storage_errors(self.path):
            (self.path / "DONE").unlink(missing_ok=True)
        write_text(self.config, config)

    def mark(self, ending: Ending, reason: str, exit_code: int) -> bool:
        """Write a note of how the run stopped. Returns False if nothing was written.

        Of several ranks that fail only the first one writes FAILED, since the other failures are consequences of it.
        In a run that is done, a command that is refused writes nothing.
        """
        if ending == "FAILED" and (self.path / "DONE").exists():
            return False
        note = {"reason": reason, "exit_code": exit_code, "time": time.strftime("%FT%T%z")}
        text = json.dumps(note, indent=1) + "\n"
        if ending != "FAILED":
            write_text(self.path / ending, text)
            return True
        draft = self.path / f".FAILED.{socket.gethostname()}.{os.getpid()}"
        write_text(draft, text)
        try:
            os.link(draft, self.path / ending)
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        return True
