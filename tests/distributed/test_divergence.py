"""Ranks that no longer have the same bits stop the run before anything is saved."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline.data.reading.loader import Staged
from pipeline.objectives import Metrics
from pipeline.training.step import TrainingStep
from pipeline.training.updates import CriticBatch
from tests.ranks import Ranks, checkpoints, read_note

STEP = 6


def flip_a_bit(arguments: list[str], group: str, name: str) -> int:
    """Train; after step 6, rank 1 has one wrong bit in one element of one tensor."""
    from pipeline.train import main

    take = TrainingStep.take

    def take_then_flip(self: TrainingStep, batches: Iterator[Staged]) -> tuple[Metrics, CriticBatch]:
        result = take(self, batches)
        if self.state.counters.step == STEP and self.runtime.rank == 1:
            bits = self.state.named_tensors()[group][name].data.view(torch.int32)
            # Not the last bit of the fraction, which the rounding of later steps may set right again.
            bits[(-1,) * bits.ndim] ^= 1 << 16
        return result

    TrainingStep.take = take_then_flip  # type: ignore[method-assign]
    return main(arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("critic", "layers.2.weight"),
        ("generator", "project.weight"),
        ("generator", "layers.0.running_var"),
        ("critic_optimizer", "score.weight/square_avg"),
        ("generator_optimizer", "to_image.bias/square_avg"),
        ("ema", "to_image.weight"),
    ],
)
def test_one_wrong_bit_on_one_rank_stops_both(
    group: str, name: str, ranks: Ranks, config: str, tmp_path: Path
) -> None:
    arguments = [config, "runtime.digest_every=1", "checkpoint.every=5"]
    run = ranks.start(2, arguments, target=flip_a_bit, extra=[group, name])
    assert run.wait() == [10, 10], run.output
    note = read_note(tmp_path / "run", "FAILED")
    assert note["exit_code"] == 10
    assert "Values differ in 1 tensor:" in note["reason"]
    assert f"{group}/{name} on rank 1" in note["reason"]
    assert f"at step {STEP}" in note["reason"]
    assert run.output.count("no longer have the same state") == 1
    assert checkpoints(tmp_path / "run") == ["step_00000005"]


def test_ranks_are_compared_before_every_save(ranks: Ranks, config: str, tmp_path: Path) -> None:
    """A wrong bit has spread to other tensors since the last comparison, and is still not saved."""
    arguments = [config, "runtime.digest_every=1000", "checkpoint.every=4"]
    run = ranks.start(2, arguments, target=flip_a_bit, extra=["critic_optimizer", "score.weight/square_avg"])
    assert run.wait() == [10, 10], run.output
    reason = read_note(tmp_path / "run", "FAILED")["reason"]
    assert "at step 8" in reason
    assert "critic_optimizer/score.weight/square_avg on rank 1" in reason
    assert checkpoints(tmp_path / "run") == ["step_00000004"]


def test_a_run_resumes_from_the_last_save_with_equal_ranks(ranks: Ranks, config: str, tmp_path: Path) -> None:
    arguments = [config, "checkpoint.every=5", "runtime.digest_every=1"]
    run = ranks.start(2, arguments, target=flip_a_bit, extra=["critic", "score.weight"])
    assert run.wait() == [10, 10], run.output
    again = ranks.run(2, arguments)
    assert "resumes from" in again.log(0)
    assert read_note(tmp_path / "run", "DONE")["reason"] == "all 20 steps are done"


def test_the_rank_that_differs_from_all_others_is_named(ranks: Ranks, config: str, tmp_path: Path) -> None:
    run = ranks.start(
        3, [config, "runtime.digest_every=1"], target=flip_a_bit, extra=["ema", "project.weight"]
    )
    assert run.wait() == [10, 10, 10], run.output
    assert "ema/project.weight on rank 1\n" in read_note(tmp_path / "run", "FAILED")["reason"]
