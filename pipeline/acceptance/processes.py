"""A process and all that it starts, also in sessions of their own: found while it runs, and ended by their ids."""

from __future__ import annotations

from contextlib import suppress

import psutil

SECONDS_TO_END = 1.0


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
        psutil.wait_procs(self._known - {self._root}, SECONDS_TO_END)
