"""A process and all that it starts, also in sessions of their own: found while it runs, and ended by their ids."""

from __future__ import annotations

import time
from contextlib import suppress

import psutil

SECONDS_TO_END = 1.0
SECONDS_BETWEEN_LOOKS = 0.01


class Family:
    """The process with this id and its descendants. `look` now and then: who loses its parent is not found later."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._known = {self._root}

    def look(self) -> None:
        """Note the processes that are there now."""
        with suppress(psutil.NoSuchProcess):
            self._known.update(self._root.children(recursive=True))

    def end(self) -> None:
        """Kill all of them, also those that are stopped or start others meanwhile."""
        before = 0
        while len(self._known) > before:
            before = len(self._known)
            for process in list(self._known):
                with suppress(psutil.NoSuchProcess):
                    self._known.update(process.children(recursive=True))
            for process in self._known:
                # psutil compares start times, so it kills no other process that has the id by now.
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        deadline = time.monotonic() + SECONDS_TO_END
        while not all(map(_has_ended, self._known)) and time.monotonic() < deadline:
            time.sleep(SECONDS_BETWEEN_LOOKS)


def _has_ended(process: psutil.Process) -> bool:
    """Whether it does nothing any more, also if nobody has asked how it ended."""
    try:
        status: str = process.status()
    except psutil.NoSuchProcess:
        return True
    return status == psutil.STATUS_ZOMBIE
