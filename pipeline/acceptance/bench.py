"""What a stage works with: a scratch directory, and a note of what was found. Importing it takes no time."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.stdout import say


@dataclass
class Bench:
    """The scratch directory, which all stages share, and what one stage has found."""

    scratch: Path
    figures: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def check(self, holds: bool, failure: str) -> None:
        """Unless this holds, note a failure and go on."""
        if not holds:
            self.failures.append(failure)
            say(f"failed: {failure}")
