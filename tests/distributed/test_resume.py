"""A run that is killed, stopped, or resumed with another world size ends like one that ran without a stop."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.ranks import (
    Ranks,
    Run,
    assert_same_bits,
    checkpoints,
    newest,
    read_metrics,
    read_note,
    read_series,
    read_state,
    read_tensors,
    wait_until,
)

# The steps of saves are not those of log points, so a save contains a partly filled window of means.
OPTIONS = [
    "model.generator_norm=batch",
    "critic_optimizer.name=adam",
    "critic_optimizer.decay=linear",
    "data.validation=0.1",
    "monitor.log_every=5",
    "monitor.validation_every=7",
    "monitor.sample_every=10",
    "checkpoint.every=3",
    "runtime.digest_every=4",
    "quality.every=8",
    "quality.metrics=[fid]",
    "quality.samples=128",
    "quality.keep_best=fid",
]


def killed_at_random(
    ranks: Ranks, world_size: int, arguments: list[str], run: Path, kills: int, seed: int
) -> int:
    """Start the same command until it is done, and kill it `kills` times. Returns how many kills hit a running one.

    A third of them fall anywhere in the start, a third a moment after a save, a third within a save.
    """
    chance = random.Random(seed)
    landed = 0
    for number in range(kills):
        attempt = ranks.start(world_size, arguments)
        # Ranks that have not met yet would wait for the killed one; a launcher would end them all.
        is_start = number % 3 == 0
        everyone = is_start or chance.random() < 0.5
        victims = range(world_size) if everyone else [chance.randrange(world_size)]
        if is_start:
            time.sleep(chance.uniform(0.0, 0.7))
        elif number % 3 == 1:
            wait_for_a_save(attempt, run)
            time.sleep(chance.uniform(0.0, 0.1))
        else:
            wait_until(partial(is_saving_or_over, attempt, run))
        landed += attempt.is_alive
        for rank in victims:
            attempt.kill(rank)
        codes = attempt.wait()
        assert set(codes) <= {0, -signal.SIGKILL, 6}, attempt.output
        if codes == [0] * world_size:
            break
    ranks.run(world_size, arguments)
    return landed


def wait_for_a_save(attempt: Run, run: Path) -> None:
    """Wait for a new checkpoint, or for the end of the attempt."""
    before = checkpoints(run)
    wait_until(lambda: not attempt.is_alive or has_saved(run, before))


def has_saved(run: Path, before: Sequence[str] = ()) -> bool:
    return any(name.startswith("step_") and name not in before for name in checkpoints(run))


def is_saving_or_over(attempt: Run, run: Path) -> bool:
    return not attempt.is_alive or any(name.startswith(".tmp_step_") for name in checkpoints(run))


def assert_same_end(run: Path, reference: Path) -> None:
    """Check for equal bits, equal counters, and equal curves without a gap or a duplicate."""
    ours, theirs = newest(run), newest(reference)
    assert ours.name == theirs.name
    assert_same_bits(read_tensors(ours), read_tensors(theirs))
    assert read_state(ours) == read_state(theirs)
    assert read_metrics(run) == read_metrics(reference)
    assert checkpoints(run) == checkpoints(reference), "the same best one stays"
    shown, expected = read_series(run), read_series(reference)
    assert shown.keys() == expected.keys()
    for tag, points in shown.items():
        assert [step for step, _ in points] == [step for step, _ in expected[tag]], tag
        if not tag.startswith(("speed/", "memory/")):
            assert points == expected[tag], tag


@pytest.mark.slow
@pytest.mark.parametrize(("world_size", "kills"), [(1, 6), (2, 8), (3, 4)])
def test_a_run_killed_at_random_ends_like_one_never_killed(
    world_size: int, kills: int, ranks: Ranks, config: str, tmp_path: Path
) -> None:
    arguments = [config, *OPTIONS, f"schedule.steps={12 * kills}"]
    ranks.run(world_size, [*arguments, "name=whole"])
    landed = killed_at_random(
        ranks, world_size, [*arguments, "name=killed"], tmp_path / "killed", kills, seed=world_size
    )
    assert landed >= kills // 2
    assert_same_end(tmp_path / "killed", tmp_path / "whole")


def test_lazy_penalties_go_on_where_a_run_left_them(ranks: Ranks, config: str, tmp_path: Path) -> None:
    lazy = ["objective.name=relativistic", "objective.r_every=4", "schedule.critic_updates=3"]
    ranks.run(1, [config, *lazy, "name=whole", "schedule.steps=9"])
    # After 5 steps, 15 critic updates are done: the first one of the resumed run has no penalty, and the second has.
    for steps in (5, 9):
        ranks.run(1, [config, *lazy, "name=resumed", f"schedule.steps={steps}"])
    assert_same_bits(read_tensors(newest(tmp_path / "resumed")), read_tensors(newest(tmp_path / "whole")))


def stop(ranks: Ranks, world_size: int, arguments: list[str], run: Path, number: int, victim: int) -> Run:
    """Start, and send `number` to one rank after the first save."""
    started = ranks.start(world_size, arguments)
    wait_until(lambda: has_saved(run), started)
    started.kill(victim, number)
    return started


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_to_one_rank_saves_on_all_and_stops_them(
    number: signal.Signals, ranks: Ranks, config: str, tmp_path: Path
) -> None:
    arguments = [config, *OPTIONS, "schedule.steps=200", "checkpoint.every=4"]
    victim = 0 if number == signal.SIGINT else 1
    run = stop(ranks, 2, [*arguments, "name=stopped"], tmp_path / "stopped", number, victim)
    assert run.wait() == [75, 75], run.output
    note = read_note(tmp_path / "stopped", "PREEMPTED")
    step = int(newest(tmp_path / "stopped").name.removeprefix("step_"))
    assert note["exit_code"] == 75
    assert f"at step {step}" in note["reason"]
    assert "same command" in note["reason"]
    assert run.log(0).count("Stopped by") == 1
    assert "Stopped by" not in run.log(1)
    if victim == 0:
        assert number.name in note["reason"]


@pytest.mark.slow
def test_a_stopped_run_resumes_bit_for_bit(ranks: Ranks, config: str, tmp_path: Path) -> None:
    arguments = [config, *OPTIONS, "schedule.steps=60", "checkpoint.every=8"]
    whole = ranks.start(2, [*arguments, "name=whole"])
    assert whole.wait() == [0, 0], whole.output
    run = stop(ranks, 2, [*arguments, "name=stopped"], tmp_path / "stopped", signal.SIGTERM, 1)
    assert run.wait() == [75, 75], run.output
    ranks.run(2, [*arguments, "name=stopped"])
    assert read_note(tmp_path / "stopped", "DONE")["exit_code"] == 0
    assert_same_end(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(ranks: Ranks, config: str, tmp_path: Path) -> None:
    """The first Ctrl-C waits for the end of the step, which takes minutes here."""
    arguments = [config, "schedule.critic_updates=1000", "schedule.global_batch=240", "schedule.steps=50"]
    run = ranks.start(1, arguments)
    wait_until(lambda: "watch: tensorboard" in run.log(0), run)
    run.kill(0, signal.SIGINT)
    time.sleep(1.2)
    run.kill(0, signal.SIGINT)
    assert run.wait(20) != [0]
    assert checkpoints(tmp_path / "run") == []


@pytest.mark.slow
def test_a_run_resumed_with_another_world_size_uses_the_same_batches(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    options = ["critic_optimizer.decay=constant", "monitor.log_every=1", "checkpoint.every=1000"]
    arguments = [config, *OPTIONS, *options]
    ranks.run(2, [*arguments, "name=stays", "schedule.steps=12"])
    for world_size, steps in ((2, 5), (1, 9), (2, 12)):
        ranks.run(world_size, [*arguments, "name=moves", f"schedule.steps={steps}"])
    stays, moves = tmp_path / "stays", tmp_path / "moves"
    assert read_state(newest(moves))["counters"] == read_state(newest(stays))["counters"]
    ours, theirs = read_tensors(newest(moves)), read_tensors(newest(stays))
    for name in (name for name in theirs if name.startswith(("generator/", "critic/", "ema/"))):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=2e-5, err_msg=name)
    shown, expected = read_series(moves), read_series(stays)
    for tag in ("wasserstein/estimate", "wasserstein/estimate_smooth", "critic/real", "critic/fake"):
        assert [step for step, _ in shown[tag]] == list(range(1, 13))
        np.testing.assert_allclose(shown[tag], expected[tag], rtol=1e-3, atol=1e-6, err_msg=tag)
