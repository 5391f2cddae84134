"""Lines on standard error, for the user."""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress
from types import TracebackType

from pipeline.foreign_text import printable_lines, safe_lines, without_credentials

LONGEST_TRACEBACK = 200_000


def say_warning(text: str) -> None:
    """Print a warning, in one line on standard error. What is done goes on."""
    say_line(f"warning: {text}")


def say_line(text: str) -> None:
    """Print a line on standard error, above a progress bar. It may hold names and texts from outside."""
    # Not above: no command's help needs it.
    from tqdm import tqdm

    # It may be a log file on a full disk, and that must not stop a run.
    with suppress(OSError):
        tqdm.write("\n".join(safe_lines([text])), file=sys.stderr)
        sys.stderr.flush()


def traceback_of(error: BaseException) -> str:
    """The traceback of a defect, without a line end, without escapes, and without what could be a secret."""
    return printable_lines(
        without_credentials("".join(traceback.format_exception(error)).rstrip()), LONGEST_TRACEBACK
    )


def say_defect(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of a defect on standard error, in place of the interpreter (`sys.excepthook`)."""
    print(traceback_of(error), file=sys.stderr, flush=True)
