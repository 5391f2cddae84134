"""What a start of a run writes before it trains, and removes again if it is refused."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

FILES = re.compile(
    r"lock(\.[0-9a-f]{16}\.lease)?|FAILED|environment\.json|own_metrics\.json|(metrics|alarms)\.jsonl"
    r"|events\.out\.tfevents\..*|\..*\.tmp"
)
FOLDERS = ("checkpoints", "samples")


class Traces:
    """The state of a run's directory before this start, which may have none yet."""

    def __init__(self, directory: Path) -> None:
        """Look at what there is. Raises OSError."""
        self._directory = directory
        self._missing = [place for place in (directory, *directory.parents) if not place.exists()]
        self._before = set() if self._missing else {path.name for path in directory.iterdir()}

    def remove(self) -> None:
        """Remove what this start has made, unless the directory is a run's, or has got files of others in it."""
        with suppress(OSError):  # the error by which the start is refused matters more
            if "config.yaml" not in self._before and all(map(_is_ours, self._made_in(self._directory))):
                self._remove()

    def _made_in(self, place: Path) -> list[Path]:
        return [path for path in place.iterdir() if path.name not in self._before]

    def _remove(self) -> None:
        place = self._directory
        if self._missing:
            # Out of the way first: other ranks that fail now find no directory to leave a note in.
            place = place.rename(place.with_name(f".{place.name}.refused-{os.getpid()}"))
        for path in self._made_in(place):
            if path.name in FOLDERS:
                path.rmdir()
            else:
                path.unlink()
        if self._missing:
            for directory in (place, *self._missing[1:]):
                directory.rmdir()


def _is_ours(path: Path) -> bool:
    """Whether this is a file that starts write, or an empty folder that they make."""
    if path.name in FOLDERS:
        return not any(path.iterdir())
    return FILES.fullmatch(path.name) is not None
