"""Torch's threads in a rank that adapts them to what other processes leave."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.ranks import thread_count
from pipeline.ranks.thread_count import (
    LOOKS_BEFORE_WARNING,
    ThreadCount,
    rank_threads,
    threads_beside,
    used_by_others,
)


@pytest.fixture(autouse=True)
def threads_given_back() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("busy", "cores", "most", "threads"),
    [
        (0.0, 2, 2, 2),
        (0.3, 2, 2, 2),
        (0.67, 2, 2, 1),
        (1.0, 2, 2, 1),
        (5.0, 2, 2, 1),
        (3.0, 8, 8, 5),
        (1.0, 8, 4, 4),
    ],
)
def test_each_thread_has_a_core_that_others_leave(busy: float, cores: int, most: int, threads: int) -> None:
    assert threads_beside(busy, cores, most) == threads


def test_threads_follow_the_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, used = [100.0], [5000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(thread_count, "used_by_others", lambda: used[0])
    monkeypatch.setattr(thread_count, "available_cores", lambda: 4)
    torch.set_num_threads(4)
    threads = ThreadCount(adapts=True)
    seen = []
    for seconds, busy in ((0.5, 4), (0.6, 3), (2.0, 2), (1.0, 4), (1.0, 0)):
        clock[0] += seconds
        used[0] += seconds * busy
        threads.look()
        seen.append(torch.get_num_threads())
    # Not looked at after half a second; then 3.5 of 4 cores are busy; then 2, 4 and 0.
    assert seen == [4, 1, 2, 1, 4]


def test_a_run_that_keeps_its_threads_says_once_that_it_is_slow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock, used = [100.0], [5000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(thread_count, "used_by_others", lambda: used[0])
    monkeypatch.setattr(thread_count, "available_cores", lambda: 2)
    torch.set_num_threads(2)
    threads = ThreadCount(adapts=False)
    for busy in [1] * (LOOKS_BEFORE_WARNING - 1) + [0] + [1] * 3 * LOOKS_BEFORE_WARNING:
        clock[0] += 1.5
        used[0] += 1.5 * busy
        threads.look()
        if busy == 0:
            assert capsys.readouterr().err == "", "it was not busy for long enough"
    assert torch.get_num_threads() == 2
    said = capsys.readouterr().err
    assert said.count("Other processes keep 1.0 of the 2 cores busy, so that the 2 threads") == 1


def test_another_process_is_seen_and_this_one_is_not() -> None:
    cores = len(os.sched_getaffinity(0))
    # As many as there are cores: a single one could run while this process waits for its own turn.
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        before, own = used_by_others(), time.process_time()
        while time.process_time() - own < 0.3:
            pass
        seen = used_by_others() - before
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert seen > 0.1


def test_a_process_of_lower_priority_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Times:
        user, nice, system, idle = 10.0, 100.0, 1.0, 1000.0

    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: [Times, Times])
    monkeypatch.setattr(thread_count, "allowed_cores", lambda: {1})
    monkeypatch.setattr(os, "times", lambda: os.times_result((4.0, 1.0, 0.0, 0.0, 0.0)))
    priorities = iter((0, 19))
    monkeypatch.setattr(os, "getpriority", lambda which, who: next(priorities))
    assert used_by_others() == 6.0
    assert used_by_others() == 106.0


def test_several_ranks_cannot_adapt() -> None:
    assert rank_threads("adapt", 1, None) >= 1
    with pytest.raises(ConfigError, match="adapt is for one rank, and this run has 2"):
        rank_threads("adapt", 2, 2)
