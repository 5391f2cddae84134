"""Votes on whether to stop: a signal that reaches one rank stops all of them after the same step."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from pipeline import stopping
from pipeline.ranks.runtime import Runtime

SECONDS_BETWEEN_VOTES = 0.25
"""A signal that comes just after a vote waits for this long until the next one, and then for its result."""
MOST_STEPS = 16
"""Steps from one vote to the next, however short they are."""


class StopVotes:
    """The votes of the training loop: one in every step that is slow, and one in several steps that are quick.

    A vote takes the ranks longer the more they are, and quick steps would wait for it. So each rank also says how many
    seconds its latest steps took, and the slowest rank's steps decide, on all ranks alike, in how many steps the next
    vote is.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._began: float | None = None
        self._steps = 1
        """From the latest vote to the next one"""
        self._left = 0
        """Steps without a vote that are still to come"""

    def cast(self) -> Callable[[], bool]:
        """Start the vote of the coming step, if it has one, from the signals that have come so far.

        The returned function waits for the other ranks, and tells whether to stop after this step. Call it in the step.
        """
        if self._left > 0:
            self._left -= 1
            return lambda: False
        now = time.monotonic()
        # At the first vote nothing is known yet, so that the second one comes with the next step.
        seconds = torch.inf if self._began is None else (now - self._began) / self._steps
        self._began = now
        flag = stopping.received() is not None
        result = self._runtime.maximum(torch.tensor([flag, seconds], dtype=torch.float64))

        def count() -> bool:
            is_stopping, slowest = result().tolist()
            self._steps = steps_to_next_vote(slowest) if self._runtime.world_size > 1 else 1
            self._left = self._steps - 1
            return bool(is_stopping)

        return count


def steps_to_next_vote(seconds: float) -> int:
    """After how many steps to vote again, if a step takes this long on the slowest rank."""
    shortest = SECONDS_BETWEEN_VOTES / MOST_STEPS
    return max(1, int(SECONDS_BETWEEN_VOTES / max(seconds, shortest)))
