"""The errors that a user can act on, each with its exit code.

A message says what was found, why that cannot work, and what to do. It is printed without a traceback: a traceback
means a defect of the program.
"""

from __future__ import annotations

from typing import Self

from pipeline.foreign_text import safe_lines


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


KINDS: list[type[PipelineError]] = [PipelineError, *PipelineError.__subclasses__()]
BY_NAME = {kind.__name__: kind for kind in KINDS}
"""The classes above by their names, which ranks send each other"""


def describe(error: PipelineError) -> str:
    """The text that is printed for an error."""
    labels = {StopRequested: "stopped", Interrupted: "interrupted", Terminated: "stopped"}
    return f"{labels.get(type(error), f'error (exit {error.exit_code})')}: {error}"
