"""How every study runs as a command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from pipeline.errors import PipelineError, describe


def run_study(study: Callable[[argparse.Namespace], int | None], arguments: argparse.Namespace) -> int:
    """Run a study; print an error of the user in one line. Returns the exit code: the study's own, or 0."""
    try:
        return study(arguments) or 0
    except PipelineError as error:
        print(describe(error), file=sys.stderr)
        return error.exit_code
