"""Standard output and error that nobody reads any more, as in `wgan configs | head -1`."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable
from typing import TextIO

EXIT_CODE = 128 + signal.SIGPIPE
"""What a shell reports of other tools that end because their output is not read."""


def exit_code_of(main: Callable[[], int]) -> int:
    """The exit code that `main` returns, or EXIT_CODE, without a traceback, if it fails to write what nobody reads."""
    try:
        return main()
    except BrokenPipeError:
        if not any(map(_is_unread, _streams())):
            raise
        return EXIT_CODE
    finally:
        flush()


def flush() -> None:
    """Write what is still in the buffers of standard output and error, or discard it if nobody reads it."""
    for stream in _streams():
        try:
            stream.flush()
        except BrokenPipeError:
            # The interpreter flushes once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _streams() -> list[TextIO]:
    return [stream for stream in (sys.stdout, sys.stderr) if stream is not None]


def _is_unread(stream: TextIO) -> bool:
    """Whether the stream is a pipe without a reader."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
