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
hang_rank_*           of a rank that hung: see ranks/hang_traces.py
lock                  held by the main rank while the run trains
DONE | PREEMPTED | FAILED   how it stopped, and why; none of them while it trains or after kill -9
"""

from __future__ import annotations

import difflib
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, get_args

from pydantic import ConfigDict, Field

from pipeline.documents import Document, parse_json
from pipeline.durable import create_file, make_directory, replacing, storage_errors, write_text
from pipeline.errors import ConfigError, PipelineError, RunLockedError, StopRequested, StorageError
from pipeline.file_lock import FileLock, HeldError
from pipeline.regular_files import is_absent, read_regular, regular_size
from pipeline.run.traces import Traces

Ending = Literal["FAILED", "PREEMPTED", "DONE"]
MOST_NOTE_BYTES = 1 << 20


class Note(Document):
    """The content of FAILED, PREEMPTED and DONE."""

    reason: str = ""
    exit_code: int = 0
    time: str = ""


class Setup(Document):
    """What a run really ran on."""

    model_config = ConfigDict(extra="allow")

    world_size: int = Field(default=1, ge=1, le=1 << 20)
    device_name: str = "?"
    precision: str = ""


class Environment(Document):
    """The content of environment.json."""

    model_config = ConfigDict(extra="allow")

    setup: Setup = Setup()
    revision: str | None = Field(default=None, pattern="^[0-9a-f]{4,64}$")


def open_directory(path: Path, others: str = "") -> RunDirectory:
    """The run directory at `path`. Raises ConfigError if it is none; `others` names what else a user may give."""
    directory = RunDirectory(path)
    if not _is_run(path):
        if obstacle := _obstacle(directory.config):
            raise ConfigError(
                f"{directory.config} cannot be read: {obstacle}. Put the config.yaml there that training wrote."
            )
        meant = f"Did you mean {near}? " if (near := _nearest_run(path)) else ""
        raise ConfigError(
            f"{path} is not a run directory: it has no config.yaml. {meant}Name a directory that training made, such "
            f"as runs/digits{others}."
        )
    return directory


def _obstacle(config: Path) -> str | None:
    """Why this is no file that can be read, if anything is there."""
    if is_absent(config):
        return None
    try:
        regular_size(config)
    except OSError as error:
        return error.strerror
    return None


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
        self.hang_traces = path / "hang_rank_"
        """How the names of files about a hang begin"""
        self._lock = FileLock(path / "lock")
        self._has_begun = False

    def __enter__(self) -> Self:
        """Create what is missing and take the lock. If the start is refused, what it has made is removed again.

        Raises StorageError if the directory cannot be written, RunLockedError if another process has the lock.
        """
        with storage_errors(self.path):
            self._traces = Traces(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
        for directory in (self.checkpoints, self.samples):
            with storage_errors(directory):
                make_directory(directory)
        with ExitStack() as if_it_fails:
            try:
                if_it_fails.enter_context(self._lock)
            except HeldError as held:
                raise RunLockedError(
                    f"{self.path} is in use by {held}. Wait until it ends, stop it, or choose another name for this "
                    "run."
                ) from None
            with storage_errors(self.path):
                for ending in ("PREEMPTED", "FAILED"):
                    (self.path / ending).unlink(missing_ok=True)
                for old in self.path.glob(f"{self.hang_traces.name}*"):
                    old.unlink()
            if_it_fails.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_refused = isinstance(error, PipelineError) and not isinstance(error, StopRequested)
        try:
            if is_refused and not self._has_begun:
                self._traces.remove()
        finally:
            self._lock.__exit__(kind, error, trace)

    def check_lock(self) -> None:
        """Raise RunLockedError if the lock was lost, so that nothing more may be written."""
        self._lock.check()

    def start(self, config: str) -> None:
        """Note that training begins: remove DONE, and write the resolved options to config.yaml."""
        self._has_begun = True
        with storage_errors(self.path):
            (self.path / "DONE").unlink(missing_ok=True)
        write_text(self.config, config)

    def has_ended_by(self, ending: Ending) -> bool:
        """Whether the run has this note of how it stopped."""
        return (self.path / ending).exists()

    def mark(self, ending: Ending, reason: str, exit_code: int, is_first: bool = False) -> bool:
        """Write a note of how the run stopped. Returns False if nothing was written.

        Of several ranks that fail only the first one writes FAILED, since the other failures are consequences of it.
        With `is_first`, the same holds for another note. Whoever is the first must tell the user, even if the text
        of the note cannot be written, for example to a full disk. In a run that is done, a command that is refused
        writes nothing, nor does a process that lost its lock.
        """
        if self._lock.is_lost or (ending == "FAILED" and self.has_ended_by("DONE")):
            return False
        is_claimed = is_first or ending == "FAILED"
        if is_claimed and not self._claim(ending):
            return False
        note = Note(reason=reason, exit_code=exit_code, time=time.strftime("%FT%T%z"))
        try:
            with replacing(self.path / ending, is_shared=True) as file:
                file.write((note.model_dump_json(indent=1) + "\n").encode())
        except StorageError:
            # Nobody else tells the user what this process has claimed to tell.
            if not is_claimed:
                raise
        return True

    def _claim(self, ending: Ending) -> bool:
        """Claim the note for this process, by a file that only one of several can create."""
        with storage_errors(self.path / ending):
            try:
                create_file(self.path / ending).close()
            except FileExistsError:
                return False
        return True

    def read_environment(self) -> tuple[Environment | None, str]:
        """What environment.json holds, or None and why that is not known."""
        try:
            return parse_json(read_regular(self.environment, MOST_NOTE_BYTES), Environment), ""
        except FileNotFoundError:
            return None, "There is no environment.json, because training has not begun."
        except OSError as error:
            return None, f"environment.json cannot be read: {error.strerror}."
        except ValueError as error:
            return None, f"environment.json is not as training wrote it: {error}."

    def ending(self) -> tuple[Ending, Note] | None:
        """The note of how the run stopped; None if it has left none. That of one that cannot be read says why."""
        for word in get_args(Ending):
            try:
                return word, parse_json(read_regular(self.path / word, MOST_NOTE_BYTES), Note)
            except FileNotFoundError:
                continue
            except OSError as error:
                return word, Note(reason=f"{self.path / word} cannot be read: {error.strerror}.")
            except ValueError as error:
                return word, Note(reason=f"{self.path / word} is not as training wrote it: {error}.")
        return None
