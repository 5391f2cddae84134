"""The errors that a user can act on, each with its exit code.

A message says what was found, why that cannot work, and what to do. It is printed without a traceback: a traceback
means a defect of the program.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from pipeline.foreign_text import printable, safe_lines

LONGEST_PATH = 200
WRONG_PATHS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
"""What the system says of a path that does not lead to what it should."""
NO_HOST_MEMORY = "can't allocate memory"
"""What torch says in a RuntimeError if the machine has none left."""
SIGNS_OF_NO_MEMORY = (NO_HOST_MEMORY, "out of memory")


class PipelineError(Exception):
    """A failure that the user can act on. `exit_code` is the exit code of the process.

    A message may hold names and texts from outside, so it loses control characters and the secrets of URLs here, before
    it reaches a console, another rank, or the note in a run's directory. A message of several lines is given as several
    arguments: a newline in one of them can only come from outside, and is escaped too.
    """

    exit_code: int = 1
    is_told: bool = False
    """Whether the user was told of this error, or of the one on another rank that caused it"""

    def __init__(self, *lines: str) -> None:
        super().__init__(*safe_lines(lines))

    def __str__(self) -> str:
        return "\n".join(self.args)

    def after(self, text: str) -> Self:
        """An error of the same kind and lines, with a text before the first one."""
        first, *others = self.args or ("",)
        return type(self)(f"{text}{first}", *others)


class ConfigError(PipelineError):
    """The options, the machine that they ask for, or the arguments of a command are wrong."""

    exit_code = 2


class DataError(PipelineError):
    """Images, shards or their manifest are missing, damaged or unsuitable."""

    exit_code = 3


class CheckpointError(PipelineError):
    """No checkpoint can be used, or it belongs to another run."""

    exit_code = 4


class NonFiniteError(PipelineError):
    """A loss, a metric or a weight is NaN or infinite."""

    exit_code = 5


class PeerLostError(PipelineError):
    """Another rank has ended, did not answer within the time limit, or sent something unreadable."""

    exit_code = 6


class StorageError(PipelineError):
    """The run directory cannot be written: full, read-only, or not permitted."""

    exit_code = 7


class OutOfMemoryError(PipelineError):
    """The device's memory is too small for this batch and these networks."""

    exit_code = 8


class RunLockedError(PipelineError):
    """Another process is writing the same run directory."""

    exit_code = 9


class DivergenceError(PipelineError):
    """The ranks no longer hold the same weights, buffers or optimizer state."""

    exit_code = 10


class StopRequested(PipelineError):  # noqa: N818 - a request, not an error
    """A signal asked a run to stop; its state is saved, or there is nothing to save."""

    exit_code = 75


class Interrupted(PipelineError):  # noqa: N818 - a request, not an error
    """Ctrl-C ended a command; or it came twice while a run trained, and nothing was saved."""

    exit_code = 130


class Terminated(PipelineError):  # noqa: N818 - a request, not an error
    """SIGTERM ended a command."""

    exit_code = 143


@contextmanager
def system_errors() -> Iterator[None]:
    """What the operating system refuses within becomes a PipelineError: a path, access, space on a disk, memory.

    This is the last boundary, for what nobody nearer to the cause has explained. An OSError without the system's number
    is not of the system, and like any other exception it is a defect of the program, which has its traceback.
    """
    try:
        yield
    except (OSError, MemoryError, RuntimeError) as error:
        if (found := _of_system(error)) is None:
            raise
        raise found from error


def _of_system(error: Exception) -> PipelineError | None:
    is_memory = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if is_memory or (isinstance(error, RuntimeError) and any(s in str(error) for s in SIGNS_OF_NO_MEMORY)):
        said = (str(error) or "MemoryError").splitlines()[0]
        return OutOfMemoryError(
            f"There is not enough memory ({printable(said, LONGEST_PATH)}). Ask for less at a time: fewer images, a "
            "smaller batch or network; or end other programs."
        )
    # A pipe that nobody reads is the business of pipeline.unread_output.
    if not isinstance(error, OSError) or error.errno is None or isinstance(error, BrokenPipeError):
        return None
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    where = " and ".join(printable(name, LONGEST_PATH) for name in names)
    kind = ConfigError if error.errno in WRONG_PATHS else StorageError
    said = f"{where}{': ' if where else ''}{error.strerror or type(error).__name__}"
    return kind(
        f"{said}. Check that the path is right, that it may be used, and that its disk works and has space."
    )


KINDS: list[type[PipelineError]] = [PipelineError, *PipelineError.__subclasses__()]
BY_NAME = {kind.__name__: kind for kind in KINDS}
"""The classes above by their names, which ranks send each other"""


def describe(error: PipelineError) -> str:
    """The text that is printed for an error."""
    labels = {StopRequested: "stopped", Interrupted: "interrupted", Terminated: "stopped"}
    return f"{labels.get(type(error), f'error (exit {error.exit_code})')}: {error}"
