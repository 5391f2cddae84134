"""Lines on standard error, for the user."""

from __future__ import annotations

import sys
from contextlib import suppress

from pipeline.foreign_text import printable_lines, without_secrets


def say_warning(text: str) -> None:
    """Print a warning, on standard error. What is done goes on."""
    say_line(f"warning: {text}")


def say_line(text: str) -> None:
    """Print a line, or several, on standard error, above a progress bar. They may hold names and texts from outside."""
    # Not above: no command's help needs it.
    from tqdm import tqdm

    # It may be a log file on a full disk, and that must not stop a run.
    with suppress(OSError):
        tqdm.write(printable_lines(without_secrets(text)), file=sys.stderr)
        sys.stderr.flush()
