"""Which steps of a run the profiler looks at."""

from __future__ import annotations

from pipeline.errors import ConfigError
from pipeline.options import ScheduleOptions
from pipeline.training.schedule import critic_updates_at
from pipeline.wording import counted

WARM_UP, TIMED, RECORDED = 4, 10, 5
STEPS = WARM_UP + TIMED + 1 + RECORDED
"""One more than these three: the profiler starts in the step between the timed and the recorded ones."""


def choose_window(first_step: int, schedule: ScheduleOptions) -> range:
    """The first `STEPS` steps in a row, counted from 0, without a burst of critic updates.

    `first_step` is the run's next step, counted from 1. Raises ConfigError if too few are left.
    """
    start = first_step - 1
    for step in range(start, schedule.steps):
        if critic_updates_at(step, schedule) != schedule.critic_updates:
            start = step + 1
        elif step + 1 - start == STEPS:
            return range(start, step + 1)
    left = schedule.steps - (first_step - 1)
    bursts = " without a burst of critic updates" if schedule.bursts else ""
    raise ConfigError(
        f"profile: the profiler needs {STEPS} steps in a row{bursts}, and the {counted(left, 'step')} until "
        f"schedule.steps: {schedule.steps} do not contain them. Raise schedule.steps, or leave profile=true out."
    )
