"""Evaluations while training: alike on any number of ranks, without influence, and able to end a run."""

from __future__ import annotations

from pathlib import Path

import pytest

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
# Nothing about this generator changes, so its first evaluation stays the best.
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
    """The figures of quality by step."""
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
        assert figures.keys() == {"quality/fid_pixels", "quality/recall_pixels", "quality/swd"}
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


def test_a_run_ends_early_once_nothing_gets_better(ranks: Ranks, config: str, tmp_path: Path) -> None:
    arguments = [config, *FROZEN, "quality.patience=2"]
    run = ranks.run(2, arguments)
    ending = read_note(tmp_path / "run", "DONE")["reason"]
    assert ending.startswith("ended early at step 9: fid has been no better than ")
    assert ending.endswith(" for 2 evaluations, since step 3")
    assert ending in run.log(0)
    assert checkpoints(tmp_path / "run") == ["step_00000003", "step_00000009"]
    assert (tmp_path / "run" / "samples" / "step_00000009.png").is_file(), "as at any run's end"
    again = ranks.run(2, arguments)
    assert f"is complete: {ending}. To go on, raise quality.patience." in again.log(0)
    ranks.run(2, [*arguments, "quality.patience=4"])
    assert read_note(tmp_path / "run", "DONE")["reason"].startswith("ended early at step 15:")
