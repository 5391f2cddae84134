"""What came of a stage: PASS, FAIL or SKIPPED, with the reason and the figures."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

PREFLIGHT = "preflight"
"""The stage that finds out what the machine has"""
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
    """The end of one stage. `reason` says what was shown, what failed, or why the stage was skipped.

    is_cut: whether the end of the minutes, or a signal, came before its own.
    """

    stage: str
    verdict: Verdict
    reason: str
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    is_cut: bool = False

    def to_json(self) -> str:
        """The outcome as JSON, which has no numbers that are not finite: they become text."""
        return json.dumps(_with_text(asdict(self)), allow_nan=False)


def from_json(text: str) -> Outcome:
    """The outcome in the text of `Outcome.to_json`."""
    content = json.loads(text)
    return Outcome(**{**content, "verdict": Verdict(content["verdict"])})


def have_passed(outcomes: Sequence[Outcome]) -> bool:
    """Whether the preflight has passed, no stage has failed, and none was cut off."""
    is_known = any(o.stage == PREFLIGHT and o.verdict == Verdict.PASS for o in outcomes)
    return is_known and not any(o.verdict == Verdict.FAIL or o.is_cut for o in outcomes)


def _with_text(value: Any) -> Any:
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case dict():
            return {key: _with_text(part) for key, part in value.items()}
        case list() | tuple():
            return [_with_text(part) for part in value]
        case _:
            return value


def first_of(failures: list[str]) -> str:
    """The first failures, and how many more there are."""
    more = len(failures) - MOST_LISTED
    return "; ".join(failures[:MOST_LISTED]) + (f"; and {more} more" if more > 0 else "")
