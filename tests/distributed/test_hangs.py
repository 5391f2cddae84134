"""Ranks whose main threads wait in vain, where nothing reaches them: they end all the same, and say why."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.data.reading.loader import Staged
from pipeline.errors import ConfigError
from pipeline.training.step import StepInputs, TrainingStep
from tests.ranks import Ranks, checkpoints, read_note, train, wait_until

pytestmark = pytest.mark.slow

LONG = ["schedule.steps=5000", "checkpoint.every=5"]
SOON = 40.0
"""Seconds, less than the time limit of a wait for other ranks; one or two are usual on a machine that is not busy."""


def hang_in_a_library() -> None:
    while True:
        ctypes.CDLL(None).sleep(1000)


def train_and_hang(arguments: list[str], victims: list[int], seconds_beyond: float) -> int:
    """At step 6 the main threads of these ranks get stuck in a library."""
    from pipeline.ranks import watch

    watch.SECONDS_BEYOND, watch.SECONDS_TO_END = seconds_beyond, 1.0
    inputs = TrainingStep.inputs

    def hang(self: TrainingStep, batches: Iterator[Staged]) -> StepInputs:
        if self.state.counters.step == 6 and self.runtime.rank in victims:
            hang_in_a_library()
        return inputs(self, batches)

    TrainingStep.inputs = hang  # type: ignore[method-assign]
    return train(arguments)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_stuck_in_a_library_ends_once_the_others_have_lost_patience(
    victim: int, ranks: Ranks, config: str, tmp_path: Path
) -> None:
    arguments = [config, *LONG, "runtime.timeout_seconds=3"]
    run = ranks.start(2, arguments, target=train_and_hang, extra=[[victim], 1000.0])
    assert run.wait(SOON) == [6, 6], run.output
    note = read_note(tmp_path / "run", "FAILED")
    assert note["exit_code"] == 6
    assert "Another rank is gone or did not answer in time" in note["reason"]
    assert run.output.count("error (exit 6)") == 1
    assert "Traceback" not in run.output


def test_ranks_stuck_in_a_library_end_at_once_if_another_one_is_killed(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    """The last rank is no neighbour of the one that is killed: it hears of it from the one between them."""
    run = ranks.start(3, [config, *LONG], target=train_and_hang, extra=[[1, 2], 1000.0])
    wait_until(lambda: "step_00000005" in checkpoints(tmp_path / "run"), run)
    run.kill(0)
    assert run.wait(SOON) == [-signal.SIGKILL, 6, 6], run.output
    assert read_note(tmp_path / "run", "FAILED")["exit_code"] == 6
    assert run.output.count("error (exit 6)") == 1


def test_ranks_that_are_all_stuck_end_and_leave_traces(ranks: Ranks, config: str, tmp_path: Path) -> None:
    arguments = [config, *LONG, "runtime.timeout_seconds=3"]
    run = ranks.start(2, arguments, target=train_and_hang, extra=[[0, 1], 1.0])
    assert run.wait(SOON) == [6, 6], run.output
    note = read_note(tmp_path / "run", "FAILED")
    assert note["reason"].startswith("This rank has not got on for 4 seconds")
    assert run.output.count("error (exit 6)") == 1
    left = {path.name for path in (tmp_path / "run").glob("hang_rank_*")}
    # The rank that notices it first writes them; the other one may end before it does.
    rank = min(int(name.removesuffix(".txt")[-1]) for name in left if name.endswith(".txt"))
    assert "hang_in_a_library" in (tmp_path / "run" / f"hang_rank_{rank}.txt").read_text()
    operations = json.loads((tmp_path / "run" / f"hang_rank_{rank}.json").read_text())["entries"]
    assert any(operation["profiling_name"] == "gloo:all_reduce" for operation in operations)
    again = ranks.start(2, [config, "schedule.steps=7"])
    assert again.wait() == [0, 0]
    assert not list((tmp_path / "run").glob("hang_rank_*")), "they belong to the run that failed"


def train_unless_late(arguments: list[str], sign: str, is_refused: bool) -> int:
    """Rank 1 does not meet rank 0, which waits for it: it finds a mistake, or does something that takes long."""
    from pipeline.ranks import devices

    if os.environ["RANK"] == "1":

        def fail(config: object) -> object:
            store = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            while True:
                try:
                    socket.create_connection(store).close()
                    break
                except OSError:
                    time.sleep(0.01)
            Path(sign).touch()
            if not is_refused:
                hang_in_a_library()
            raise ConfigError("This machine has no such device.")

        devices.chosen_device = fail  # type: ignore[assignment]
    return train(arguments)


def test_a_rank_that_gives_up_releases_those_that_wait_to_meet_it(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    extra = [str(tmp_path / "waits"), True]
    run = ranks.start(2, [config], target=train_unless_late, extra=extra)
    assert run.wait(SOON) == [2, 2], run.output
    assert run.log(0).count("error (exit 2): rank 1: This machine has no such device.") == 1
    assert read_note(tmp_path / "run", "FAILED")["exit_code"] == 2
    assert "Traceback" not in run.output


def test_a_signal_to_one_rank_stops_those_that_wait_to_meet_it(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    extra = [str(tmp_path / "waits"), False]
    run = ranks.start(2, [config], target=train_unless_late, extra=extra)
    wait_until((tmp_path / "waits").exists, run)
    run.kill(1, signal.SIGTERM)
    assert run.wait(SOON) == [75, 75], run.output
    assert read_note(tmp_path / "run", "PREEMPTED")["exit_code"] == 75
    assert run.log(0).count("stopped: ") == 1
