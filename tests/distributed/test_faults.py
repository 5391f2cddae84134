"""Failures that happen in practice: the message, the exit code, and what is left on disk."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from pipeline.data.reading.loader import Staged
from pipeline.errors import DataError
from pipeline.training.step import StepInputs, TrainingStep
from pipeline.training.updates import CriticBatch
from tests.ranks import (
    Ranks,
    Run,
    assert_same_bits,
    checkpoints,
    newest,
    read_metrics,
    read_note,
    read_tensors,
    wait_until,
)

LONG = ["schedule.steps=5000", "checkpoint.every=5"]


def messages(run: Run) -> int:
    """How many ranks printed the error."""
    return run.output.count("error (exit")


def train_with_a_poisoned_rank(arguments: list[str], step: int) -> int:
    """Train; after this step, rank 1 has a weight that is NaN."""
    from pipeline.train import main

    inputs = TrainingStep.inputs

    def poison(self: TrainingStep, batches: Iterator[Staged]) -> StepInputs:
        if self.state.counters.step == step and self.runtime.rank == 1:
            weight = next(self.state.critic.module.parameters()).data
            weight[(0,) * weight.ndim] = torch.nan
        return inputs(self, batches)

    TrainingStep.inputs = poison  # type: ignore[method-assign]
    return main(arguments)


def report_nan_on_a_rank(arguments: list[str]) -> int:
    """Train; at step 4 rank 1 measures NaN, although all ranks have the same weights."""
    from pipeline.train import main
    from pipeline.training.observer import Observer

    measure = Observer._measure_critic

    def spoil(self: Observer, batch: CriticBatch) -> dict[str, torch.Tensor]:
        measured = measure(self, batch)
        if self.state.counters.step == 4 and self.runtime.rank == 1:
            measured["critic/slope"] = torch.tensor(torch.nan)
        return measured

    Observer._measure_critic = spoil  # type: ignore[method-assign, assignment]
    return main(arguments)


def fail_alone(arguments: list[str], victim: int) -> int:
    """Train; at step 6 one rank finds a damaged image."""
    from pipeline.train import main

    inputs = TrainingStep.inputs

    def fail(self: TrainingStep, batches: Iterator[Staged]) -> StepInputs:
        if self.state.counters.step == 6 and self.runtime.rank == victim:
            raise DataError("Sample 3 of digits-000001.tar cannot be decoded.")
        return inputs(self, batches)

    TrainingStep.inputs = fail  # type: ignore[method-assign]
    return main(arguments)


def remove_a_shard(shards: Path) -> str:
    victim = sorted(shards.glob("*.tar"))[1]
    victim.unlink()
    return victim.name


def flip_a_byte(shards: Path) -> str:
    victim = sorted(shards.glob("*.tar"))[2]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 0x10
    victim.write_bytes(content)
    return victim.name


def cut_short(shards: Path) -> str:
    victim = sorted(shards.glob("*.tar"))[0]
    victim.write_bytes(victim.read_bytes()[:-1024])
    return victim.name


@pytest.mark.slow
@pytest.mark.parametrize("damage", [remove_a_shard, flip_a_byte, cut_short])
def test_damaged_shards_are_refused_before_any_rank_trains(
    damage: object, ranks: Ranks, config: str, digits: Path, tmp_path: Path
) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(digits, shards)
    name = damage(shards)  # type: ignore[operator]
    run = ranks.start(2, [config, f"data.shards={shards}", "runtime.timeout_seconds=5"])
    assert run.wait() == [3, 3], run.output
    assert name in run.output
    assert run.output.count("error (exit 3)") == 1
    assert "Traceback" not in run.output
    assert checkpoints(tmp_path / "run") == []


def test_a_misspelt_option_is_refused_once_by_the_run(ranks: Ranks, config: str, tmp_path: Path) -> None:
    run = ranks.start(2, [config, "schedule.step=5"])
    assert run.wait() == [2, 2]
    assert "did you mean schedule.steps?" in run.log(0)
    assert messages(run) == 1
    assert not (tmp_path / "run").exists()


@pytest.fixture
def small_disk(mount_disk: Callable[[str], Path]) -> Path:
    """A separate file system of 4 MiB."""
    return mount_disk("size=4m")


def fill(disk: Path) -> Path:
    """Fill all the space that is left. Returns the file that fills it."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            while True:
                try:
                    file.write(bytes(size))
                except OSError:
                    break
    return filler


def is_past(run: Path, step: int) -> bool:
    return any(name >= f"step_{step:08d}" for name in checkpoints(run))


@pytest.mark.slow
def test_a_run_stopped_by_a_full_disk_resumes_bit_for_bit(
    ranks: Ranks, config: str, small_disk: Path, tmp_path: Path
) -> None:
    options = ["schedule.steps=120", "checkpoint.every=5"]
    ranks.run(2, [config, *options, "name=whole"])
    arguments = [config, *options, f"run_root={small_disk}"]
    run = ranks.start(2, arguments)
    wait_until(lambda: is_past(small_disk / "run", 10), run)
    filler = fill(small_disk)
    assert run.wait() == [7, 7], run.output
    assert "No space left on device" in run.log(0)
    assert "error (exit 7)" in run.output
    assert run.log(0).count("the next save tries again") == 2
    kept = newest(small_disk / "run")
    filler.unlink()
    again = ranks.run(2, arguments)
    assert f"resumes from {kept}" in again.log(0)
    assert_same_bits(read_tensors(newest(small_disk / "run")), read_tensors(newest(tmp_path / "whole")))
    assert read_metrics(small_disk / "run") == read_metrics(tmp_path / "whole")


@pytest.mark.slow
def test_one_save_that_fails_is_only_a_warning(ranks: Ranks, config: str, small_disk: Path) -> None:
    run = ranks.start(2, [config, *LONG, "schedule.steps=120", f"run_root={small_disk}"])
    wait_until(lambda: is_past(small_disk / "run", 10), run)
    filler = fill(small_disk)
    wait_until(lambda: "the next save tries again" in run.log(0), run)
    filler.unlink()
    assert run.wait() == [0, 0], run.output
    assert newest(small_disk / "run").name == "step_00000120"
    assert "No space left on device" in run.log(0)


@pytest.mark.slow
def test_a_read_only_directory_is_named(ranks: Ranks, config: str, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    run = ranks.start(2, [config, f"run_root={small_disk}", "runtime.timeout_seconds=5"])
    codes = run.wait()
    assert codes[0] == 7, run.output
    assert codes[1] in (6, 7), run.output
    assert f"{small_disk / 'run'} cannot be written: Read-only file system" in run.log(0)
    assert "Traceback" not in run.output


@pytest.mark.slow
def test_a_checkpoint_of_another_architecture_is_refused(ranks: Ranks, config: str, tmp_path: Path) -> None:
    ranks.run(2, [config, "schedule.steps=2"])
    before = read_tensors(newest(tmp_path / "run"))
    run = ranks.start(2, [config, "schedule.steps=4", "model.width=16", "objective.clip=0.1"])
    assert run.wait() == [4, 4], run.output
    assert "model.width: 8 in the checkpoint, 16 now" in run.output
    assert "objective.clip: 0.01 in the checkpoint, 0.1 now" in run.output
    assert messages(run) == 1
    assert_same_bits(read_tensors(newest(tmp_path / "run")), before)
    ranks.run(2, [config, "schedule.steps=4"])


@pytest.mark.slow
@pytest.mark.parametrize("file", ["critic.safetensors", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(
    file: str, ranks: Ranks, config: str, tmp_path: Path
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    ranks.run(1, [config, "checkpoint.every=4", "schedule.steps=12", "name=whole"])
    ranks.run(1, [config, "checkpoint.every=4", "schedule.steps=8"])
    damaged = newest(run) / file
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    again = ranks.run(1, [config, "checkpoint.every=4", "schedule.steps=12"])
    assert "step_00000008.damaged-1" in again.log(0)
    assert "resumes from" in again.log(0)
    assert "step_00000004" in again.log(0)
    assert "step_00000008.damaged-1" in checkpoints(run)
    assert_same_bits(read_tensors(newest(run)), read_tensors(newest(whole)))
    assert read_metrics(run) == read_metrics(whole)


def test_a_run_that_is_training_is_not_started_twice(ranks: Ranks, config: str, tmp_path: Path) -> None:
    first = ranks.start(1, [config, *LONG])
    wait_until(lambda: is_past(tmp_path / "run", 5), first)
    second = ranks.start(1, [config, *LONG])
    assert second.wait() == [9], second.output
    assert f"is in use by process {first.processes[0].pid} on " in second.log(0)
    assert first.is_alive
    assert not (tmp_path / "run" / "FAILED").exists()


def test_a_run_that_becomes_unstable_stops_with_its_last_good_state(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    ranks.run(2, [config, "schedule.steps=4", "checkpoint.every=2"])
    good = read_tensors(newest(tmp_path / "run"))
    run = ranks.start(
        2, [config, "checkpoint.every=2", "monitor.log_every=3"], target=train_with_a_poisoned_rank, extra=[7]
    )
    codes = run.wait()
    note = read_note(tmp_path / "run", "FAILED")
    assert (codes, note["exit_code"]) == ([5, 5], 5), run.output
    assert "at step 8" in note["reason"]
    assert "not finite" in note["reason"] or "is nan" in note["reason"]
    assert f"The last good checkpoint is {newest(tmp_path / 'run')}." in note["reason"]
    assert messages(run) == 1
    assert newest(tmp_path / "run").name == "step_00000006"
    assert_same_bits(read_tensors(tmp_path / "run" / "checkpoints" / "step_00000004"), good)


def test_a_metric_that_is_not_finite_names_rank_and_checkpoint(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    run = ranks.start(2, [config, "checkpoint.every=3"], target=report_nan_on_a_rank)
    assert run.wait() == [5, 5], run.output
    reason = read_note(tmp_path / "run", "FAILED")["reason"]
    assert reason.startswith("critic/slope is nan at step 4 on rank 1: training has become unstable.")
    assert f"The last good checkpoint is {tmp_path / 'run' / 'checkpoints' / 'step_00000003'}." in reason


def test_a_learning_rate_that_is_too_high_names_the_unstable_metric(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    run = ranks.start(2, [config, "generator_optimizer.lr=1e20", "model.generator_norm=none"])
    assert run.wait() == [5, 5], run.output
    reason = read_note(tmp_path / "run", "FAILED")["reason"]
    assert "training has become unstable" in reason
    assert "on all ranks: " in reason
    assert "No checkpoint was saved yet." in reason
    assert "Lower the learning rates" in reason
    assert reason.split(" is ")[0].split("/")[0] in ("critic", "generator", "wasserstein")
    assert messages(run) == 1


@pytest.mark.parametrize("victim", [0, 1])
def test_the_rank_that_fails_reports_and_its_peers_do_not(
    victim: int, ranks: Ranks, config: str, tmp_path: Path
) -> None:
    run = ranks.start(2, [config], target=fail_alone, extra=[victim])
    codes = run.wait(30)
    assert (codes[victim], codes[1 - victim]) == (3, 6), run.output
    note = read_note(tmp_path / "run", "FAILED")
    assert (note["exit_code"], note["reason"]) == (3, "Sample 3 of digits-000001.tar cannot be decoded.")
    assert run.log(victim).count("error (exit 3): Sample 3") == 1
    assert messages(run) == 1


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_other_within_seconds(
    victim: int, ranks: Ranks, config: str, tmp_path: Path
) -> None:
    run = ranks.start(2, [config, *LONG])
    wait_until(lambda: is_past(tmp_path / "run", 5), run)
    run.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    codes = run.wait(20)
    assert time.monotonic() - killed < 15
    assert (codes[victim], codes[1 - victim]) == (-signal.SIGKILL, 6), run.output
    assert "Another rank is gone or did not answer in time" in run.log(1 - victim)
    assert "Traceback" not in run.output
    assert read_note(tmp_path / "run", "FAILED")["exit_code"] == 6


@pytest.mark.slow
def test_a_rank_that_hangs_ends_the_other_after_the_time_limit(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    run = ranks.start(2, [config, *LONG, "runtime.timeout_seconds=5"])
    wait_until(lambda: is_past(tmp_path / "run", 5), run)
    run.kill(1, signal.SIGSTOP)
    stopped = time.monotonic()
    wait_until(lambda: not run.processes[0].is_alive(), timeout=60)
    assert 4 < time.monotonic() - stopped < 20
    assert run.processes[0].exitcode == 6, run.output
    assert "Another rank is gone or did not answer in time" in run.log(0)
    assert "Traceback" not in run.log(0)
    assert read_note(tmp_path / "run", "FAILED")["exit_code"] == 6
