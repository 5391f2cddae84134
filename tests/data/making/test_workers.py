"""Worker processes that crash, hang or fail: the image is named, and left out if it may be."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.making import workers
from pipeline.data.making.convert import Conversion
from pipeline.data.making.plan import Plan, plan_shards
from pipeline.data.making.shard_writer import Job
from pipeline.data.making.worker import BEGUN, PLACE, Task
from pipeline.data.making.workers import SECONDS_FOR_IMAGE, Worker
from pipeline.data.making.writer import make_shards
from pipeline.data.sources import Picture
from pipeline.errors import DataError, PipelineError
from tests.shards import Given, noise


class Striking(Given):
    """Images 5 and 9 do something to the process that reads them, unless it is this one."""

    def __init__(self, strike: Callable[[], object]) -> None:
        super().__init__(noise(12).pictures)
        self.strike, self.here = strike, os.getpid()

    def read(self, position: int) -> Picture:
        assert os.getpid() != self.here, "this process decodes nothing"
        if position in (5, 9):
            self.strike()
        return super().read(position)


def plan_of(strike: Callable[[], object]) -> Plan:
    return plan_shards(Striking(strike), Conversion((8, 8), 3), samples_per_shard=4)


def die_of(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def divide() -> None:
    print(1 / 0)


CRASHES: list[Any] = [
    (partial(die_of, signal.SIGSEGV), r"it crashes the process that reads it \(SIGSEGV\)"),
    (partial(die_of, signal.SIGKILL), "was killed, perhaps because memory ran out; try fewer --workers"),
    (partial(os._exit, 7), r"it crashes the process that reads it \(exit code 7\)"),
]


@pytest.mark.parametrize(("strike", "why"), CRASHES, ids=["SIGSEGV", "SIGKILL", "exit"])
def test_a_crash_names_the_image_and_is_refused(
    strike: Callable[[], object], why: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=rf"given: \.\./[59] cannot be used: .*{why}.* --skip-bad N"):
        make_shards(plan_of(strike), tmp_path / "out", workers=1)


@pytest.mark.slow
def test_images_that_crash_workers_are_left_out_as_other_bad_ones(tmp_path: Path) -> None:
    plan = plan_of(partial(die_of, signal.SIGSEGV))
    with pytest.raises(DataError, match=r"more images cannot be used than --skip-bad 1 allows"):
        make_shards(plan, tmp_path, workers=1, skip_bad=1)
    manifest = make_shards(plan, tmp_path, workers=2, skip_bad=2)
    assert manifest is not None
    assert [shard.count for shard in manifest.shards] == [4, 3, 3]
    assert [line.split("\t") for line in (tmp_path / "bad-images.txt").read_text().splitlines()] == [
        [f"../{number}", "it crashes the process that reads it (SIGSEGV)"] for number in (5, 9)
    ]


@pytest.mark.slow
def test_an_image_that_takes_too_long_is_ended_with_its_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "SECONDS_FOR_IMAGE", 0.1)
    monkeypatch.setattr(workers, "PROGRESS_SECONDS", 0.04)
    manifest = make_shards(plan_of(partial(time.sleep, 60)), tmp_path, workers=1, skip_bad=2)
    assert manifest is not None
    assert manifest.count == 10
    assert "it takes longer than 0.1 seconds" in (tmp_path / "bad-images.txt").read_text()


def test_only_time_spent_on_one_image_counts() -> None:
    worker = Worker(Job(plan_of(divide), Path("out"), 0))
    almost = SECONDS_FOR_IMAGE - 1
    assert not worker.is_stuck(10 * SECONDS_FOR_IMAGE), "it has no image yet"
    for image in (1, 2):
        worker.state[PLACE], worker.state[BEGUN] = image, image
        assert not worker.is_stuck(almost)
        assert not worker.is_stuck(almost)
    assert worker.is_stuck(almost)


def test_a_defect_in_a_worker_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        make_shards(plan_of(divide), tmp_path, workers=1)
    assert any("In a worker process" in note and "in divide" in note for note in caught.value.__notes__)


def test_progress_counts_no_image_twice(tmp_path: Path) -> None:
    plan = plan_of(partial(die_of, signal.SIGSEGV))
    counted: list[int] = []
    with workers.workers_for(Job(plan, tmp_path, 2), 1) as hands:
        list(hands.run([Task(number) for number in range(3)], counted.append))
    assert sum(counted) == 10


def test_a_worker_that_ends_without_an_image_is_an_error_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "serve", stop_at_once)
    with pytest.raises(
        PipelineError, match=r"has ended while it read no image \(exit code 1\), perhaps because"
    ):
        make_shards(plan_of(divide), tmp_path, workers=1)


def stop_at_once(*words: object) -> None:
    """What a worker does that dies before its first image."""
    os._exit(1)
