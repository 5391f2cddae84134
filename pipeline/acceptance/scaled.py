"""float16: a scale that is too high skips steps and is halved until they work, and it is part of a checkpoint."""

from __future__ import annotations

from pipeline.acceptance.bench import Bench
from pipeline.acceptance.captured import take
from pipeline.acceptance.outcome import Skip
from pipeline.acceptance.runs import check_same_bits, options, train, trainer_of
from pipeline.acceptance.updates import precisions
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
    if PRECISION not in precisions():
        raise Skip("float16 needs a GPU")
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
    whole = train(bench, "whole-fp16", *overrides)
    train(bench, "moved-fp16", *overrides, "schedule.steps=5")
    moved = train(bench, "moved-fp16", *overrides)
    check_same_bits(bench, whole, moved, "stopped after 5 steps and resumed")
    scales = [
        list_checkpoints(RunDirectory(path).checkpoints)[-1].resumable_facts().scaler
        for path in (whole, moved)
    ]
    bench.check(scales[0] == scales[1], f"the scale is {scales[1]} after a resume and {scales[0]} without")
    return f"a scale of {TOO_HIGH:g} was halved for {steps} steps; resumed with equal bits and scale"


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
