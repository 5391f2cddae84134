"""The results of an acceptance, as a table on the console and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from pipeline.acceptance.outcome import Outcome, Verdict, have_passed
from pipeline.durable import write_text
from pipeline.stdout import say
from pipeline.versions import find_versions

if TYPE_CHECKING:
    from pipeline.acceptance.runner import Acceptance

RESULTS = "accept.json"


def conclude(acceptance: Acceptance) -> None:
    """Print the table, and write accept.json next to the logs. Raises StorageError."""
    say(*as_table(acceptance.outcomes))
    path = acceptance.place / RESULTS
    write_text(path, as_json(acceptance.outcomes))
    say(f"recorded in {path}")


def as_table(outcomes: Sequence[Outcome]) -> list[str]:
    """A line for each stage, and their number by verdict."""
    width = max((len(outcome.stage) for outcome in outcomes), default=0)
    lines = [f"{'':8} {'stage':{width}} {'seconds':>8}  what was shown, or why not"]
    lines += [f"{o.verdict:8} {o.stage:{width}} {o.seconds:>8.1f}  {o.reason}" for o in outcomes]
    counts = Counter(outcome.verdict for outcome in outcomes)
    return [
        *lines,
        ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) or "no stage has run",
    ]


def as_json(outcomes: Sequence[Outcome]) -> str:
    """The content of accept.json."""
    hardware = next((o.figures["hardware"] for o in outcomes if "hardware" in o.figures), None)
    content = {
        "versions": find_versions(),
        "hardware": hardware,
        "passed": have_passed(outcomes),
        "counts": {verdict: sum(o.verdict == verdict for o in outcomes) for verdict in Verdict},
        "stages": [asdict(outcome) for outcome in outcomes],
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"
