"""Evaluations on several ranks: equal figures, no influence on the weights, and early ending."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.run.checkpoint import Checkpoint, list_checkpoints
from tests.ranks import (
    Ranks,
    assert_same_bits,
    checkpoints,
    newest,
    read_metrics,
    read_note,
    read_state,
    read_tensors,
)

EVALUATED = ["quality.every=5", "quality.samples=192", "quality.metrics=[fid,recall,swd]"]
# This generator does not change, so its first evaluation stays the best.
FROZEN = [
    "generator_optimizer.lr=1e-30",
    "model.generator_norm=none",
    "quality.every=3",
    "quality.samples=128",
    "quality.metrics=[fid]",
    "quality.keep_best=fid",
    "checkpoint.keep_last=1",
]


def quality(run: Path) -> dict[int, dict[str, float]]:
    """The metrics of evaluations, by step."""
    lines = {
        int(line["step"]): {k: v for k, v in line.items() if k.startswith("quality/")}
        for line in read_metrics(run)
    }
    return {step: figures for step, figures in lines.items() if figures}


def test_one_rank_and_two_measure_the_same(ranks: Ranks, config: str, tmp_path: Path) -> None:
    for world_size in (1, 2):
        ranks.run(world_size, [config, *EVALUATED, f"name=w{world_size}"])
    one, two = quality(tmp_path / "w1"), quality(tmp_path / "w2")
    assert list(one) == list(two) == [5, 10, 15, 20]
    for step, figures in one.items():
        assert figures.keys() == {"quality/fid_pixels2", "quality/recall_pixels2", "quality/swd"}
        # The weights agree to rounding; a recall of 1 in 192 images is one image.
        assert two[step] == pytest.approx(figures, rel=1e-3, abs=2 / 192)


def test_a_run_that_is_evaluated_trains_the_same_weights(ranks: Ranks, config: str, tmp_path: Path) -> None:
    ranks.run(1, [config, "name=plain"])
    ranks.run(1, [config, *EVALUATED, "name=evaluated"])
    plain, evaluated = newest(tmp_path / "plain"), newest(tmp_path / "evaluated")
    assert_same_bits(read_tensors(plain), read_tensors(evaluated))


def test_the_best_checkpoint_stays_and_its_step_is_known(ranks: Ranks, config: str, tmp_path: Path) -> None:
    ranks.run(2, [config, *FROZEN, "checkpoint.every=4"])
    assert checkpoints(tmp_path / "run") == ["step_00000003", "step_00000020"]
    assert read_state(newest(tmp_path / "run"))["best"]["step"] == 3


@pytest.mark.slow
def test_a_run_ends_early_when_nothing_improves(ranks: Ranks, config: str, tmp_path: Path) -> None:
    arguments = [config, *FROZEN, "quality.patience=2"]
    run = ranks.run(2, arguments)
    ending = read_note(tmp_path / "run", "DONE")["reason"]
    assert ending.startswith("ended early at step 9: fid has been no better than ")
    assert ending.endswith(" for 2 evaluations, since step 3")
    assert ending in run.log(0)
    assert checkpoints(tmp_path / "run") == ["step_00000003", "step_00000009"]
    assert (tmp_path / "run" / "samples" / "step_00000009.png").is_file(), "as at any run's end"
    again = ranks.run(2, arguments)
    assert f"is complete: {ending}. To train longer, raise quality.patience." in again.log(0)
    ranks.run(2, [*arguments, "quality.patience=4"])
    assert read_note(tmp_path / "run", "DONE")["reason"].startswith("ended early at step 15:")


def trained(ranks: Ranks, config: str, tmp_path: Path) -> Path:
    """A run with checkpoints of steps 10 and 20."""
    ranks.run(1, [config, "checkpoint.every=10"])
    return tmp_path / "run"


def evaluation_of(run: Path) -> list[str]:
    return ["evaluate", str(run), "--metrics", "fid", "--samples", "128"]


def evaluate(words: list[str]) -> int:
    """A rank of `wgan evaluate`."""
    return main(words)


def evaluate_where_rank_1_sees_only_the_oldest_checkpoint(words: list[str]) -> int:
    from pipeline.run import generator as generator_files

    def oldest(directory: Path, say: object) -> Checkpoint | None:
        return list_checkpoints(directory)[0]

    if os.environ.get("RANK") == "1":
        generator_files.newest_usable = oldest  # type: ignore[attr-defined, assignment]
    return main(words)


def evaluate_where_rank_1_finds_damage(words: list[str]) -> int:
    from pipeline.run import generator as generator_files

    if os.environ.get("RANK") == "1":
        generator_files.find_defect = lambda checkpoint: "a bit is wrong"  # type: ignore[attr-defined]
    return main(words)


def evaluate_where_rank_1_is_killed(words: list[str]) -> int:
    from pipeline.commands import judging

    def end(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if os.environ.get("RANK") == "1":
        judging.read_generator = end  # type: ignore[attr-defined, assignment]
    return main(words)


def evaluate_where_rank_1_is_killed_before_it_sends(words: list[str]) -> int:
    from pipeline.ranks.runtime import Runtime

    def end(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if os.environ.get("RANK") == "1":
        Runtime.to_main = end  # type: ignore[method-assign, assignment]
    return main(words)


def test_ranks_judge_the_checkpoint_that_the_main_rank_finds(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    run = trained(ranks, config, tmp_path)
    words = evaluation_of(run)
    ranks.run(2, words, target=evaluate_where_rank_1_sees_only_the_oldest_checkpoint)
    ranks.run(1, words, target=evaluate)
    two, one = (json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines())
    assert two["step"] == one["step"] == 20
    # Two ranks use the threads of both for the sums, which changes the last bits.
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-12)


def test_an_error_on_one_rank_of_an_evaluation_ends_all_with_its_code(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    run = trained(ranks, config, tmp_path)
    damaged = ranks.start(2, evaluation_of(run), target=evaluate_where_rank_1_finds_damage)
    assert damaged.wait() == [4, 4]
    assert "error (exit 4): rank 1: a bit is wrong" in damaged.log(0)
    assert damaged.output.count("error (exit") == 1
    (run / "evaluations.jsonl").mkdir()
    unwritable = ranks.start(2, evaluation_of(run), target=evaluate)
    assert unwritable.wait() == [7, 7]
    assert "evaluations.jsonl cannot be written: Is a directory" in unwritable.log(0)
    assert unwritable.output.count("error (exit") == 1


def test_an_evaluation_reports_that_a_rank_is_gone(ranks: Ranks, config: str, tmp_path: Path) -> None:
    run = trained(ranks, config, tmp_path)
    for target in (evaluate_where_rank_1_is_killed, evaluate_where_rank_1_is_killed_before_it_sends):
        lost = ranks.start(2, evaluation_of(run), target=target)
        assert lost.wait() == [6, -signal.SIGKILL]
        assert "error (exit 6): Another rank is gone or did not answer in time" in lost.log(0)
