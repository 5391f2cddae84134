"""Options of downloads that fail quickly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.option_data import RemoteOptions


def options(place: Path, **changes: float) -> RemoteOptions:
    settings: dict[str, Any] = {"directory": str(place), "stall_seconds": 0.3, "deadline_seconds": 30}
    return RemoteOptions(**{**settings, **changes})
