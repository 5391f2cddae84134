"""How many CPU threads torch uses in a rank: fixed, or as many as other processes leave cores for."""

from __future__ import annotations

import os
import time
from typing import Literal

import psutil
import torch

from pipeline.cores import allowed_cores, available_cores, share_of_cores
from pipeline.errors import ConfigError
from pipeline.stderr import say_warning
from pipeline.wording import counted

SECONDS_BETWEEN_LOOKS = 1.0
"""Threads of a step wait for each other, and beside a busy process each wait can take milliseconds: this is how long a
run stays slow after the machine got busy."""


def rank_threads(wanted: int | Literal["adapt"] | None, ranks: int, local_ranks: int | None) -> int:
    """torch's threads in each of this machine's ranks: `wanted`, or torch's default and no more than a fair share.

    torch counts the cores of the machine, also in a container that may use few of them: its threads would then wait
    for each other. Who sets OMP_NUM_THREADS has chosen. `ranks` are those of the run, `local_ranks` those of this
    machine if a launcher has said so. Raises ConfigError if several ranks are to adapt.
    """
    if isinstance(wanted, int):
        return wanted
    if wanted == "adapt" and ranks > 1:
        raise ConfigError(
            f"runtime.threads: adapt is for one rank, and this run has {ranks}. Ranks need the same number of threads "
            "to stay equal: leave runtime.threads out, or set a number."
        )
    default = torch.get_num_threads()
    return default if os.environ.get("OMP_NUM_THREADS") else min(default, share_of_cores(local_ranks or 1))


def machine_threads(threads: int, local_ranks: int) -> int:
    """The threads of all ranks of this machine together, each of which has `threads`, but no more than its cores."""
    return max(threads, min(threads * local_ranks, share_of_cores(1)))


LOOKS_BEFORE_WARNING = 20
"""What runs for a few seconds is not worth a word."""
KINDS = ("user", "system", "irq", "softirq", "steal")
"""What a core does for processes that are not nice, as the system counts it."""


class ThreadCount:
    """Looks at the other processes of the machine while a run of one rank trains.

    If the run `adapts`, torch gets as many threads as the others leave cores for, and at least one. Otherwise its
    number stays, and the user is told once if that is slow.
    """

    def __init__(self, adapts: bool) -> None:
        self._adapts = adapts
        self._most = torch.get_num_threads()
        self._looked = time.monotonic()
        self._used = used_by_others()
        self._slow_looks = 0

    def look(self) -> None:
        """Look, if the last look is a while ago. What is set counts for all that is computed from now on."""
        now = time.monotonic()
        if (seconds := now - self._looked) < SECONDS_BETWEEN_LOOKS:
            return
        used = used_by_others()
        self._looked, busy, self._used = now, (used - self._used) / seconds, used
        cores = available_cores()
        threads = threads_beside(busy, cores, self._most)
        if self._adapts:
            if threads != torch.get_num_threads():
                torch.set_num_threads(threads)
            return
        self._slow_looks = self._slow_looks + 1 if threads < self._most else 0
        if self._slow_looks == LOOKS_BEFORE_WARNING:
            say_warning(
                f"Other processes keep {busy:.1f} of the {counted(cores, 'core')} busy, so that the {self._most} "
                "threads of this run wait for each other. runtime.threads=adapt leaves the others their cores, which "
                "is faster; it changes how sums are rounded."
            )


def threads_beside(busy: float, cores: int, most: int) -> int:
    """The threads, 1 to `most`, that have a core to themselves if others keep `busy` of the `cores` busy."""
    return max(1, min(most, round(cores - busy)))


def used_by_others() -> float:
    """Seconds for which others have used the cores of this process's affinity since the machine's start.

    Work of a lower priority than this process's does not count: the scheduler lets this process pass.
    """
    kinds = [*KINDS, "nice"] if os.getpriority(os.PRIO_PROCESS, 0) > 0 else KINDS
    allowed, own = allowed_cores(), os.times()
    cores = [times for core, times in enumerate(psutil.cpu_times(percpu=True)) if core in allowed]
    return sum(getattr(times, kind, 0.0) for times in cores for kind in kinds) - own.user - own.system
