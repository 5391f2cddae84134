"""What came of a stage: PASS, FAIL or SKIPPED, with the reason and the figures."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

MOST_LISTED = 3


class Verdict(StrEnum):
    """What came of a stage."""

    PASS = "PASS"
    FAIL = "FAIL"
    SKIPPED = "SKIPPED"


class Skip(Exception):  # noqa: N818 - no error
    """A stage that makes no sense on this machine. The text says why."""


@dataclass(frozen=True)
class Outcome:
    """The end of one stage. `reason` says what was shown, what failed, or why the stage was skipped."""

    stage: str
    verdict: Verdict
    reason: str
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The outcome as JSON."""
        return json.dumps(asdict(self))


def from_json(text: str) -> Outcome:
    """The outcome in the text of `Outcome.to_json`."""
    content = json.loads(text)
    return Outcome(**{**content, "verdict": Verdict(content["verdict"])})


def first_of(failures: list[str]) -> str:
    """The first failures, and how many more there are."""
    more = len(failures) - MOST_LISTED
    return "; ".join(failures[:MOST_LISTED]) + (f"; and {more} more, see the log" if more > 0 else "")
