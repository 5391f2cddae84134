"""Signals in every phase of training: the ranks stop within seconds, with 75, and nothing is lost or recorded twice."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.chaos_server import chaos
from tests.ranks import (
    Ranks,
    Run,
    assert_same_bits,
    checkpoints,
    newest,
    read_metrics,
    read_note,
    read_tensors,
    train,
    wait_until,
)

SOON = 20.0
"""Seconds. Two are promised, on a machine that is not as busy as one that runs tests."""
EVALUATES = [
    "schedule.steps=12",
    "quality.every=4",
    "quality.metrics=[fid]",
    "quality.keep_best=fid",
    "quality.samples=256",
    "monitor.log_every=2",
]


def send(run: Run, ranks: list[int], number: int = signal.SIGTERM) -> list[int]:
    """Send a signal to these ranks. Returns the exit codes of all ranks, which must end soon."""
    began = time.monotonic()
    for rank in ranks:
        run.kill(rank, number)
    codes = run.wait(SOON)
    assert time.monotonic() - began < SOON
    assert "Traceback" not in run.output, run.output
    return codes


def train_and_evaluate_slowly(arguments: list[str], step: int, sign: str) -> int:
    """The evaluation of this step leaves a sign, and then takes a minute."""
    from pipeline.quality.evaluation import Evaluation
    from pipeline.training.observer import Observer

    evaluate, draw = Observer._evaluate, Evaluation._draw
    at = 0

    def note_step(observer: Observer, now: int) -> object:
        nonlocal at
        at = now
        return evaluate(observer, now)

    def draw_slowly(*arguments: object) -> object:
        if at == step:
            Path(sign).touch()
            time.sleep(0.5)
        return draw(*arguments)  # type: ignore[arg-type]

    Observer._evaluate, Evaluation._draw = note_step, draw_slowly  # type: ignore[assignment, method-assign]
    return train(arguments)


def assert_same_end(stopped: Path, whole: Path) -> None:
    assert_same_bits(read_tensors(newest(stopped)), read_tensors(newest(whole)))
    assert read_metrics(stopped) == read_metrics(whole)
    assert checkpoints(stopped) == checkpoints(whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world_size", "step", "every"), [(1, 4, 100), (2, 8, 100), (1, 12, 4)], ids=["one", "two", "last"]
)
def test_a_signal_in_an_evaluation_saves_the_step_which_is_evaluated_later(
    world_size: int, step: int, every: int, ranks: Ranks, config: str, tmp_path: Path
) -> None:
    arguments = [config, *EVALUATES, f"checkpoint.every={every}"]
    ranks.run(world_size, [*arguments, "name=whole"])
    sign = tmp_path / "evaluates"
    run = ranks.start(
        world_size, [*arguments, "name=stopped"], target=train_and_evaluate_slowly, extra=[step, str(sign)]
    )
    wait_until(sign.exists, run)
    assert send(run, [0]) == [75] * world_size, run.output
    assert (
        f"Stopped by SIGTERM at step {step} and saved."
        in read_note(tmp_path / "stopped", "PREEMPTED")["reason"]
    )
    assert newest(tmp_path / "stopped").name == f"step_{step:08d}"
    assert all(line["step"] < step for line in read_metrics(tmp_path / "stopped"))
    ranks.run(world_size, [*arguments, "name=stopped"])
    assert_same_end(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.slow
def test_a_signal_while_shards_are_awaited_saves_the_last_whole_step(
    ranks: Ranks, config: str, digits: Path, tmp_path: Path
) -> None:
    options = ["schedule.steps=60", "data.cache=none", "data.shuffle_shards=1", "checkpoint.every=10"]
    ranks.run(2, [config, *options, "name=whole"])
    with chaos(digits.parent) as server:
        arguments = [
            config,
            *options,
            "name=stopped",
            f"data.shards={server.url}/{digits.name}",
            f"data.remote.directory={tmp_path / 'fetched'}",
            "data.remote.capacity_gb=0.0009",
        ]
        run = ranks.start(2, arguments)
        wait_until(lambda: "step_00000010" in checkpoints(tmp_path / "stopped"), run)
        server.rate, server.faults = 1.0, ("stalled",)
        wait_until(lambda: server.done["stalled"] >= 2, run)
        time.sleep(1)
        assert send(run, [1]) == [75, 75], run.output
        step = int(newest(tmp_path / "stopped").name.removeprefix("step_"))
        assert 10 <= step < 60
        assert f"at step {step} and saved" in read_note(tmp_path / "stopped", "PREEMPTED")["reason"]
        server.rate = 0.0
        ranks.run(2, arguments)
    assert_same_bits(read_tensors(newest(tmp_path / "stopped")), read_tensors(newest(tmp_path / "whole")))
    assert read_metrics(tmp_path / "stopped") == read_metrics(tmp_path / "whole")


def train_without_another_rank(arguments: list[str], sign: str) -> int:
    """Rank 1 never joins."""
    if os.environ.get("RANK") == "1":
        time.sleep(300)
    from pipeline.ranks import runtime

    join = runtime.join

    def note_and_join(*arguments: object) -> object:
        Path(sign).touch()
        return join(*arguments)  # type: ignore[arg-type]

    runtime.join = note_and_join  # type: ignore[assignment]
    return train(arguments)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_ranks_are_awaited_stops_at_once(
    number: signal.Signals, ranks: Ranks, config: str, tmp_path: Path
) -> None:
    run = ranks.start(2, [config], target=train_without_another_rank, extra=[str(tmp_path / "joins")])
    wait_until((tmp_path / "joins").exists, run)
    run.kill(0, number)
    wait_until(lambda: not run.processes[0].is_alive(), timeout=SOON)
    assert run.processes[0].exitcode == 75
    assert run.log(0).startswith(f"stopped: Stopped by {number.name} while no step was under way")
    assert read_note(tmp_path / "run", "PREEMPTED")["exit_code"] == 75


def train_and_hash_slowly(arguments: list[str], sign: str) -> int:
    """Rank 1 takes some seconds for its shards, while rank 0 waits for it."""
    from pipeline.data.format import file_checks

    if os.environ["RANK"] == "1":
        hash_file = file_checks.file_sha256

        def hash_slowly(*arguments: object) -> str:
            Path(sign).touch()
            time.sleep(1)
            return hash_file(*arguments)  # type: ignore[arg-type]

        file_checks.file_sha256 = hash_slowly  # type: ignore[assignment]
    return train(arguments)


@pytest.mark.slow
def test_a_rank_that_is_stopped_alone_stops_the_others(ranks: Ranks, config: str, tmp_path: Path) -> None:
    run = ranks.start(
        2, [config, "data.verify=hashes"], target=train_and_hash_slowly, extra=[str(tmp_path / "hashes")]
    )
    wait_until((tmp_path / "hashes").exists, run)
    assert send(run, [0]) == [75, 75], run.output
    assert read_note(tmp_path / "run", "PREEMPTED")["exit_code"] == 75
    assert run.log(0).count("stopped: ") == 1
