"""Runs stages one after the other, each in a process of its own with a deadline, within a budget of time."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline import stopping
from pipeline.acceptance.outcome import PREFLIGHT, Outcome, Verdict, from_json
from pipeline.acceptance.processes import Family
from pipeline.acceptance.program import command
from pipeline.acceptance.stages import Stage
from pipeline.durable import create_file
from pipeline.errors import PipelineError
from pipeline.foreign_text import printable
from pipeline.wording import counted

SECONDS_BETWEEN_LOOKS = 0.1
LAST_LINES, LAST_BYTES = 3, 4000
TIMES_TOO_LONG = 4
"""A stage that had so many times the seconds it usually takes hangs, or is far too slow."""


@dataclass
class Acceptance:
    """The stages, and what came of those that are over. What they print goes to files in `place`, which exists."""

    stages: Sequence[Stage]
    seconds: float
    place: Path
    tell: Callable[[str], None]
    """Shows progress to the user, a line at a time"""
    outcomes: list[Outcome] = field(default_factory=list)
    _ends_at: float = 0.0

    def run(self) -> None:
        """Run the stages. If a signal comes, note what is left as skipped, and raise what `stopping.check` raises."""
        self._ends_at = time.monotonic() + self.seconds
        with tempfile.TemporaryDirectory(prefix="wgan-accept-") as scratch:
            for number, stage in enumerate(self.stages, start=1):
                self.tell(f"{number} of {len(self.stages)}: {stage.name}, about {stage.seconds:.0f} s")
                try:
                    outcome = self._outcome_of(stage, Path(scratch))
                except PipelineError:
                    # No process is left, and the table and the end of the scratch directory may take their time.
                    stopping.settle()
                    why = f"{stopping.received() or 'an error'} came before its end"
                    left = self.stages[number - 1 :]
                    self.outcomes += [
                        Outcome(other.name, Verdict.SKIPPED, why, is_cut=True) for other in left
                    ]
                    raise
                self.outcomes.append(outcome)
                self.tell(f"{outcome.verdict} {stage.name}: {outcome.reason}")

    def _outcome_of(self, stage: Stage, scratch: Path) -> Outcome:
        stopping.check()
        left = self._ends_at - time.monotonic()
        if (why := self._why_not(stage, left)) is not None:
            return Outcome(stage.name, Verdict.SKIPPED, why)
        log, result = self.place / f"{stage.name}.log", scratch / f"{stage.name}.json"
        log.unlink(missing_ok=True)
        started, allowed = time.monotonic(), min(stage.deadline, left)
        with create_file(log) as output:
            process = subprocess.Popen(
                command("pipeline.acceptance.stage_process:main", stage.function, str(scratch), str(result)),
                cwd=scratch,
                # What is killed leaves its temporary files behind.
                env={**os.environ, "TMPDIR": str(scratch)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        is_over = self._watch(process, started + allowed)
        seconds = time.monotonic() - started
        if is_over and process.returncode == 0 and result.exists():
            outcome = replace(from_json(result.read_text()), stage=stage.name, seconds=seconds)
            is_failed = outcome.verdict == Verdict.FAIL
            return replace(outcome, reason=f"{outcome.reason}; see {log}") if is_failed else outcome
        if not is_over and allowed < min(stage.deadline, TIMES_TOO_LONG * stage.seconds):
            why = f"it had not ended when the --minutes were over, so give more of them; see {log}"
            return Outcome(stage.name, Verdict.SKIPPED, why, seconds, is_cut=True)
        how = (
            _ending(process.returncode)
            if is_over
            else f"it had not ended after {allowed:.0f} s, and takes about {stage.seconds:.0f} s"
        )
        return Outcome(stage.name, Verdict.FAIL, f"{how}; last lines: {_last_lines(log)}; see {log}", seconds)

    def _why_not(self, stage: Stage, left: float) -> str | None:
        """Why a stage is not begun with this time left, if it is not."""
        gpus = next(
            (len(o.figures["hardware"]["gpus"]) for o in self.outcomes if "hardware" in o.figures), None
        )
        if stage.gpus and gpus is None:
            return (
                f"it needs {counted(stage.gpus, 'GPU')}, and {PREFLIGHT} has not found out how many there are"
            )
        if gpus is not None and gpus < stage.gpus:
            return f"it needs {counted(stage.gpus, 'GPU')}, and torch finds {gpus or 'none'}"
        if left < stage.seconds:
            return f"it takes about {stage.seconds:.0f} s, and {max(left, 0):.0f} s are left: give more --minutes"
        return None

    def _watch(self, process: subprocess.Popen[bytes], deadline: float) -> bool:
        """Wait for the process, and leave none of its family. Returns whether it ended before the deadline."""
        family = Family(process.pid)
        try:
            with stopping.last_words(lambda error: family.end()):
                while process.poll() is None and time.monotonic() < deadline:
                    family.look()
                    stopping.wait(SECONDS_BETWEEN_LOOKS)
            return process.returncode is not None
        finally:
            family.end()
            process.wait()


def _ending(code: int) -> str:
    return f"it was ended by {signal.Signals(-code).name}" if code < 0 else f"it ended with exit code {code}"


def _last_lines(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - LAST_BYTES, 0))
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return " / ".join(printable(line.strip(), 200) for line in lines[-LAST_LINES:]) or "it printed nothing"
