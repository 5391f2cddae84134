"""Runs with profile=true: what they write, and that they train the same."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.options import ScheduleOptions
from pipeline.phases import PHASES, phase
from pipeline.training.profile_window import RECORDED, STEPS, choose_window
from tests.ranks import Ranks, assert_same_bits, newest, read_metrics, read_state, read_tensors

PROFILED = ["profile=true", "monitor.log_every=4"]


def schedule(steps: int, **options: Any) -> ScheduleOptions:
    return ScheduleOptions.model_validate({"steps": steps, **options})


def read_profile(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "profile.json").read_text())
    return content


@pytest.mark.slow
def test_a_profiled_run_prints_times_by_phase_and_rates(ranks: Ranks, config: str, tmp_path: Path) -> None:
    run = ranks.run(1, [config, *PROFILED])
    profile = read_profile(tmp_path / "run")
    host = profile["recorded"]["host"]
    assert profile["recorded"]["steps"] == RECORDED
    assert (profile["first_step"], profile["last_step"]) == (STEPS - RECORDED + 1, STEPS)
    assert sum(host.values()) == pytest.approx(profile["recorded"]["step"])
    own = {name for name in PHASES if host[name] > 0}
    assert own == set(PHASES)
    assert host["all-reduce"] == 0
    assert min(host["forward"], host["backward"]) > host["digest"]
    flops = sum(profile["flops"].values())
    assert profile["achieved"]["flops_per_second"] == pytest.approx(flops / (profile["step_ms"] / 1e3))
    assert 0 < profile["achieved"]["shares"]["matrix products"] < 1
    said = run.log(0)
    for name in (*PHASES, "GFLOP a step", "in matrix products", "in convolutions"):
        assert name in said


def test_the_trace_has_every_phase_of_the_recorded_steps_only(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    ranks.run(1, [config, *PROFILED])
    events = json.loads((tmp_path / "run" / "trace.json").read_text())["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert sum(name.startswith("ProfilerStep#") for name in names) == RECORDED
    # Two critic updates and one of the generator; a batch is waited for, and then made floats of.
    assert {name: names.count(name) / RECORDED for name in ("data", "clip", "backward", "averaging")} == {
        "data": 4,
        "clip": 2,
        "backward": 3,
        "averaging": 1,
    }


@pytest.mark.slow
def test_two_ranks_are_told_how_long_they_wait_for_each_other(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    run = ranks.run(2, [config, *PROFILED])
    profile = read_profile(tmp_path / "run")
    assert profile["ranks"] == 2
    assert profile["recorded"]["host"]["all-reduce"] > 0
    assert "all-reduce" in run.log(0)
    assert "all-reduce" not in run.log(1)


@pytest.mark.slow
def test_a_profiled_run_trains_the_same_and_resumes_without_profile(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    ranks.run(1, [config, *PROFILED, "name=profiled"])
    ranks.run(1, [config, "name=plain", "monitor.log_every=4"])
    profiled, plain = tmp_path / "profiled", tmp_path / "plain"
    assert_same_bits(read_tensors(newest(profiled)), read_tensors(newest(plain)))
    assert read_metrics(profiled) == read_metrics(plain)
    assert read_state(newest(profiled))["identity"] == read_state(newest(plain))["identity"]
    assert not (plain / "trace.json").exists()
    ranks.run(1, [config, "name=profiled", "schedule.steps=22"])


def test_a_run_that_is_too_short_is_refused_before_it_trains(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    run = ranks.start(1, [config, "profile=true", "schedule.steps=19"])
    assert run.wait() == [2]
    assert (
        "profile: the profiler needs 20 steps in a row, and the 19 steps until schedule.steps: 19 do not contain them. "
        "Raise schedule.steps, or leave profile=true out." in run.log(0)
    )
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_the_window_is_the_first_after_the_steps_that_are_done() -> None:
    assert choose_window(1, schedule(100)) == range(20)
    assert choose_window(81, schedule(100)) == range(80, 100)
    with pytest.raises(ConfigError, match="20 steps in a row, and the 19 steps until"):
        choose_window(82, schedule(100))


def test_no_burst_of_critic_updates_is_in_the_window() -> None:
    assert choose_window(1, schedule(100, bursts={})) == range(25, 45)
    assert choose_window(486, schedule(600, bursts={})) == range(501, 521)
    with pytest.raises(ConfigError, match="20 steps in a row without a burst of critic updates, and the 100"):
        choose_window(1, schedule(100, bursts={"every": 20}))


def test_a_phase_is_marked_only_while_a_profiler_runs() -> None:
    assert isinstance(phase("forward"), nullcontext)
    with torch.profiler.profile() as profiler, phase("forward"):
        torch.ones(1)
    assert "forward" in [event.name for event in profiler.events() or []]


def test_an_unprofiled_phase_costs_less_than_ten_microseconds() -> None:
    def seconds() -> float:
        started = time.perf_counter()
        for _ in range(1000):
            with phase("forward"):
                pass
        return (time.perf_counter() - started) / 1000

    assert min(seconds() for _ in range(10)) < 1e-5


def test_a_profile_that_does_not_fit_leaves_a_finished_run_as_it_is(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    ranks.run(1, [config, "schedule.steps=3"])
    assert ranks.start(1, [config, "schedule.steps=5", "profile=true"]).wait() == [2]
    assert (tmp_path / "run" / "DONE").is_file()
    assert not (tmp_path / "run" / "FAILED").exists()
