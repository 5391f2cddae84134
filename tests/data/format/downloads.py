"""Options of downloads that fail quickly."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pipeline.options import RemoteOptions


def options(place: Path, **changes: float) -> RemoteOptions:
    settings: dict[str, Any] = {"directory": str(place), "stall_seconds": 0.3, "deadline_seconds": 30}
    return RemoteOptions(**{**settings, **changes})


def wait_for(condition: object, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)
