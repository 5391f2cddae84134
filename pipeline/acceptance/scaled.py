"""float16: a scale that is too high skips steps and is halved until they work, and it is part of a checkpoint."""

from __future__ import annotations

from pathlib import Path

from pipeline.acceptance.bench import Bench
from pipeline.acceptance.captured import take
from pipeline.acceptance.repeats import check_repeats
from pipeline.acceptance.runs import options, trainer_of
from pipeline.ranks.digest import digest
from pipeline.run.checkpoint import list_checkpoints
from pipeline.run.directory import RunDirectory
from pipeline.training.trainer import Trainer

PRECISION = "fp16"
TOO_HIGH = 2.0**60
MOST_STEPS = 60
"""Each halves the scale several times, so that it is low enough long before."""


def run(bench: Bench) -> str:
    """Skip, halve and recover in one trainer; then resume a run, with its scale."""
    # A skipped step is constrained like any other, and must not have anything to clip.
    overrides = [f"precision={PRECISION}", "objective.clip=100"]
    with trainer_of(options(bench, "name=scaled", *overrides)) as trainer:
        runtime = trainer.runtime
        runtime.restore_scaler({**runtime.scaler_state(), "scale": TOO_HIGH})
        before = _weights(trainer)
        take(trainer, 1)
        scale = runtime.scaler_state()["scale"]
        expected = TOO_HIGH * 0.5**trainer.config.schedule.optimizer_steps
        bench.check(_weights(trainer) == before, "a step whose gradients overflow has changed weights")
        bench.check(scale == expected, f"the scale is {scale:g} after an overflow, not {expected:g}")
        steps = 1
        while _weights(trainer) == before and steps < MOST_STEPS:
            take(trainer, 1)
            steps += 1
        bench.figures |= {"steps": steps, "scale": runtime.scaler_state()["scale"]}
        bench.check(_weights(trainer) != before, f"no weight has changed after {steps} steps")
    check_repeats(bench, "float16", *overrides)
    resumed, whole = (_saved_scale(bench.scratch / name) for name in ("whole-float16", "again-float16"))
    bench.check(resumed == whole, f"the scale is {resumed} after a resume, and {whole} without")
    return f"a scale of {TOO_HIGH:g} was halved for {steps} steps; equal digests and scale after a resume"


def _saved_scale(run: Path) -> dict[str, float]:
    return list_checkpoints(RunDirectory(run).checkpoints)[-1].resumable_facts().scaler


def _weights(trainer: Trainer) -> list[int]:
    """The digests of all trained weights."""
    players = {"generator": trainer.state.generator, "critic": trainer.state.critic}
    weights = {
        f"{name}/{key}": weight
        for name, player in players.items()
        for key, weight in player.module.named_parameters()
    }
    found: list[int] = digest(weights).tolist()
    return found
