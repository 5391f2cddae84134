"""Lines on standard output, for the user."""

from __future__ import annotations

import sys
from contextlib import suppress

from pipeline.foreign_text import safe_lines


def say(*lines: object) -> None:
    """Print these lines at once. They may hold names and texts from outside: a newline in one of them is escaped."""
    print("\n".join(safe_lines(map(str, lines))), flush=True)


def say_if_read(*lines: str) -> None:
    """Like `say`, above a progress bar if there is one. It is no error if whoever reads standard output has left."""
    # Not above: no command's help needs it.
    from tqdm import tqdm

    with suppress(OSError):
        tqdm.write("\n".join(safe_lines(lines)), file=sys.stdout)
        sys.stdout.flush()
