"""When things happen: pure functions of the step, so that a resumed run needs no saved schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError
from pipeline.options import OptimizerOptions, ScheduleOptions
from pipeline.wording import counted

if TYPE_CHECKING:
    # It imports torch, and the launcher checks batches without it.
    from pipeline.objectives import Penalty


def check_batches(options: ScheduleOptions, ranks: int) -> None:
    """Raise ConfigError unless each of so many ranks can take an equal part of each batch."""
    for name, batch in (("global_batch", options.global_batch), ("critic_batch", options.real_images)):
        if batch % ranks:
            raise ConfigError(
                f"schedule.{name}: {batch} cannot be divided equally among {counted(ranks, 'rank')}. "
                f"Choose a multiple of {ranks}, or start another number of processes."
            )


def critic_updates_at(step: int, options: ScheduleOptions) -> int:
    """The number of critic updates before the generator update of `step` (counted from 0).

    With bursts, the first steps and then steps at regular intervals have more, as in the WGAN authors' published code:
    100 in the first 25 steps and in every 500th step, so that the critic is near its optimum there.
    """
    bursts = options.bursts
    if bursts is None:
        return options.critic_updates
    is_burst = step < bursts.first_steps or (bursts.every > 0 and step % bursts.every == 0)
    return bursts.critic_updates if is_burst else options.critic_updates


def due_penalties(penalties: Sequence[Penalty], first: int, updates: int) -> tuple[tuple[Penalty, ...], ...]:
    """The penalties of each of so many critic updates, the first of which is the run's number `first`, from 0."""
    return tuple(
        tuple(penalty for penalty in penalties if number % penalty.every == 0)
        for number in range(first, first + updates)
    )


def learning_rate(options: OptimizerOptions, progress: float, images: int, batch: int) -> float:
    """The learning rate of a step.

    `progress` is the share of the run's steps that are done, in [0, 1]; `images` are the real images seen before the
    step, and `batch` those of the step.
    """
    rate = options.lr
    if options.decay != "constant":
        if options.decay_images is not None:
            progress = min(1.0, images / options.decay_images)
        left = 1.0 - progress if options.decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
        rate = options.lr * left + options.lr_end * (1.0 - left)
    if images + batch < options.warm_up_images:
        rate *= (images + batch) / options.warm_up_images
    return rate


def is_due(steps_done: int, every: int, steps: int) -> bool:
    """Whether work that is due every `every` steps and at the run's end is due now."""
    return steps_done % every == 0 or steps_done == steps


def is_picture_due(steps_done: int, every: int, steps: int) -> bool:
    """Whether grids are drawn now: every `every` steps, and also once after 1/16, 1/8, 1/4 and 1/2 of `every`."""
    return steps_done in {every // share for share in (16, 8, 4, 2)} or is_due(steps_done, every, steps)
