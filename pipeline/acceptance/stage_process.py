"""The process of one stage: `program.py pipeline.acceptance.stage_process:main FUNCTION SCRATCH RESULT`."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from pipeline.acceptance.bench import Bench
from pipeline.acceptance.outcome import Outcome, Skip, Verdict, first_of
from pipeline.durable import write_text
from pipeline.errors import PipelineError, describe


def main() -> int:
    """Call FUNCTION, "module:function", with a bench in SCRATCH, and write its outcome to RESULT.

    An exception that is no PipelineError is left to the interpreter: its traceback ends the stage's log.
    """
    function, scratch, result = sys.argv[1:]
    module, _, name = function.partition(":")
    bench, verdict = Bench(Path(scratch)), Verdict.PASS
    try:
        reason = getattr(import_module(module), name)(bench)
    except Skip as why:
        reason, verdict = str(why), Verdict.SKIPPED
    except PipelineError as error:
        bench.check(False, describe(error))
    if bench.failures:
        reason, verdict = first_of(bench.failures), Verdict.FAIL
    write_text(Path(result), Outcome(function, verdict, reason, figures=bench.figures).to_json())
    return 0
