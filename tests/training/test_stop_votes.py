"""How often the ranks vote on whether to stop, and that they do so at the same steps."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from pipeline import stopping
from pipeline.ranks.runtime import Runtime
from pipeline.training import stop_votes
from pipeline.training.stop_votes import MOST_STEPS, StopVotes, steps_to_next_vote


class Ballots:
    """The ranks of one run, whose ballots meet here. Each rank takes its turn at each step."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self.cast: list[list[float]] = []

    def rank(self) -> Runtime:
        return cast(Runtime, SimpleNamespace(world_size=self.world_size, maximum=self.maximum))

    def maximum(self, ballot: torch.Tensor) -> Callable[[], torch.Tensor]:
        place = len(self.cast) // self.world_size * self.world_size
        self.cast.append(ballot.tolist())

        def result() -> torch.Tensor:
            together = self.cast[place : place + self.world_size]
            assert len(together) == self.world_size, "a rank did not vote at this step"
            return torch.tensor(together, dtype=torch.float64).amax(0)

        return result


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time that votes see, in seconds."""
    clock = SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(stop_votes, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("seconds", "steps"),
    [
        (torch.inf, 1),
        (10.0, 1),
        (0.25, 1),
        (0.13, 1),
        (0.124, 2),
        (0.025, 10),
        (0.001, MOST_STEPS),
        (0.0, MOST_STEPS),
    ],
)
def test_slow_steps_vote_each_and_quick_ones_four_times_a_second(seconds: float, steps: int) -> None:
    assert steps_to_next_vote(seconds) == steps


def test_all_ranks_vote_at_the_same_steps_which_the_slowest_decides(clock: SimpleNamespace) -> None:
    ballots = Ballots(3)
    ranks = [StopVotes(ballots.rank()) for _ in range(3)]
    voted = []
    for step in range(40):
        before = len(ballots.cast)
        results = []
        for late, votes in enumerate(ranks):
            # From step 20 on, one rank takes seven times as long as before.
            results.append(votes.cast())
            clock.now += 0.01 if step < 20 or late < 2 else 0.07
        assert [result() for result in results] == [False] * 3
        assert len(ballots.cast) - before in (0, 3)
        if len(ballots.cast) > before:
            voted.append(step)
    # The first two know nothing; then a step takes 0.03 s, and later 0.09 s.
    assert voted == [0, 1, 9, 17, 25, 28, 30, 32, 34, 36, 38]


def test_a_signal_of_one_rank_stops_all_at_the_next_vote(clock: SimpleNamespace) -> None:
    ballots = Ballots(2)
    ranks = [StopVotes(ballots.rank()) for _ in range(2)]
    stopped = []
    for step in range(30):
        first = ranks[0].cast()
        with stopping.listening(saves=True):
            if step >= 4:
                signal.raise_signal(signal.SIGTERM)
            second = ranks[1].cast()
        found = [first(), second()]
        assert found[0] == found[1]
        clock.now += 0.0625
        if found[0]:
            stopped.append(step)
    # With steps of a sixteenth of a second there is a vote in every fourth one.
    assert stopped == [5, 9, 13, 17, 21, 25, 29]


def test_a_run_of_one_rank_looks_for_signals_before_every_step(clock: SimpleNamespace) -> None:
    ballots = Ballots(1)
    votes = StopVotes(ballots.rank())
    for _ in range(10):
        assert not votes.cast()()
    assert len(ballots.cast) == 10
