"""Several uses of one input, of which each is tried even if an earlier one is refused."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.errors import PipelineError


def try_each(*uses: Callable[[], object]) -> None:
    """Call each; the first refusal, if there is one, is raised at the end."""
    refusals = []
    for use in uses:
        try:
            use()
        except PipelineError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]
