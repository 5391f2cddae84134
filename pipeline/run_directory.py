"""A run's directory: who may write it, what stands where, and how the run ended.

config.yaml           every option as resolved
environment.json      versions, device, ranks, revision of the code
events.out.tfevents*  TensorBoard
metrics.jsonl         one line of scalars for each logged step
samples/              image grids as PNG
checkpoints/          see checkpoint.py
lock                  held by the main rank while the run is going
DONE | PREEMPTED | FAILED   how it stopped, and why; none of them while it runs or after kill -9
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from pipeline.errors import RunLockedError, StorageError

Ending = Literal["DONE", "PREEMPTED", "FAILED"]
ENDINGS: tuple[Ending, ...] = ("DONE", "PREEMPTED", "FAILED")


class RunDirectory:
    """Paths of one run. As a context manager it holds the run's lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.samples = path / "samples"
        self.config = path / "config.yaml"
        self.environment = path / "environment.json"
        self.metrics = path / "metrics.jsonl"

    def __enter__(self) -> Self:
        """Create what is missing and take the lock.

        Raises StorageError where nothing can be written, RunLockedError where another process holds the run.
        """
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self.samples.mkdir(exist_ok=True)
            # Opened for appending, so that the holder's note survives an attempt that fails.
            self._lock = (self.path / "lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise _not_writable(self.path, error) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "another process"
            self._lock.close()
            raise RunLockedError(
                f"{self.path} is being written by {holder}. Wait until it ends or stop it, or give this run "
                "another name."
            ) from None
        try:
            self._lock.truncate(0)
            self._lock.write(f"process {os.getpid()} on {socket.gethostname()}")
            self._lock.flush()
            for ending in ENDINGS:
                (self.path / ending).unlink(missing_ok=True)
        except OSError as error:
            self._lock.close()
            raise _not_writable(self.path, error) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()

    def mark(self, ending: Ending, reason: str, exit_code: int) -> bool:
        """Leave a note of how the run stopped. Returns False where a FAILED note stood already.

        The first failure is the cause; those of other ranks are its consequences, and leave no note.
        """
        note = {"reason": reason, "exit_code": exit_code, "time": time.strftime("%FT%T%z")}
        text = json.dumps(note, indent=1) + "\n"
        if ending != "FAILED":
            write_atomically(self.path / ending, text)
            return True
        draft = self.path / f".FAILED.{socket.gethostname()}.{os.getpid()}"
        write_atomically(draft, text)
        try:
            os.link(draft, self.path / ending)
        except FileExistsError:
            return False
        finally:
            draft.unlink()
        return True


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within it, an OSError becomes a StorageError that names `path`."""
    try:
        yield
    except OSError as error:
        raise _not_writable(path, error) from None


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's whole content or leave it as it was. Raises StorageError."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _not_writable(path, error) from None


def _not_writable(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be written: {error.strerror}. Free some space or choose another run_root, and run the "
        "same command again."
    )
