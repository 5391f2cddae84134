"""Signals that ask a run to save and stop."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopSignals:
    """Within it, a signal only sets `received`; the loop looks at it between steps.

    A second Ctrl-C quits at once, by KeyboardInterrupt. It must come a second later: a terminal and a
    launcher may both pass on the first one.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._first = 0.0

    def __enter__(self) -> Self:
        # Python accepts handlers in the main thread only. In another thread no signal stops the run.
        is_possible = threading.current_thread() is threading.main_thread()
        self._previous = {
            number: signal.signal(number, self._handle) for number in (SIGNALS if is_possible else ())
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._first = signal.Signals(number).name, now
        elif number == signal.SIGINT and now - self._first > 1.0:
            raise KeyboardInterrupt
