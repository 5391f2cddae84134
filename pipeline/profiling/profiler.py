"""How the time of a step is spent, measured in a few steps of an ordinary run: `profile=true`."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Self

import torch
from torch.profiler import ProfilerActivity

from pipeline.durable import storage_errors, write_text
from pipeline.profiling.flops import forward_flops, measure_rates, step_flops
from pipeline.profiling.trace import StepTimes, step_times
from pipeline.ranks.devices import milliseconds_between, record_moment
from pipeline.training.context import RunContext
from pipeline.training.profile_window import RECORDED, STEPS, TIMED, WARM_UP
from pipeline.wording import counted


@dataclass(frozen=True)
class Profile:
    """What was measured of a run's ordinary step, on the main rank.

    first_step, last_step: the recorded steps, counted from 1; step_ms: the median step without the profiler, in
    milliseconds; rates: the highest FLOP/s of all ranks together.
    """

    first_step: int
    last_step: int
    ranks: int
    device: str
    precision: str
    threads: int
    step_ms: float
    recorded: StepTimes
    flops: dict[str, int]
    forward_flops: dict[str, int]
    rates: dict[str, float]

    @property
    def achieved(self) -> float:
        """FLOP/s of the step without the profiler."""
        return sum(self.flops.values()) / (self.step_ms / 1e3)


@dataclass
class StepProfiler:
    """Measures `STEPS` steps of one rank, from `window.start` on, and does not change what they compute.

    Every rank takes part; the main rank records a trace, and writes trace.json and profile.json.
    """

    run: RunContext
    image_shape: tuple[int, int, int]
    window: range
    _moments: list[Any] = field(default_factory=list, init=False)
    _profiler: Any = field(default=None, init=False)
    _is_done: bool = field(default=False, init=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._profiler is not None:
            self._profiler.stop()
        if not self._is_done and error is None:
            self.run.say(f"no profile was written: the run ended before step {self.window.stop}")

    def after_step(self, step: int) -> None:
        """Measure, after `step` steps of the run are done. Raises StorageError."""
        done = step - self.window.start
        if WARM_UP <= done <= WARM_UP + TIMED:
            self._moments.append(record_moment(self.run.runtime.device))
        if self._profiler is not None:
            self._profiler.step()
        elif done == WARM_UP + TIMED and self.run.runtime.is_main:
            self._profiler = start_profiler(self.run.runtime.device)
        if done == STEPS:
            self._finish()
            self._is_done = True

    def _finish(self) -> None:
        with self.run.runtime.step_arithmetic():
            rates = measure_rates(self.run.runtime.device, self.run.runtime.precision)
        everyones = self.run.runtime.gather_json(rates)
        with self.run.runtime.agreement():
            if self.run.runtime.is_main:
                trace = read_trace(self._profiler)
                self._profiler = None
                write_text(self.run.directory.path / "trace.json", trace)
                rates = {name: sum(own[name] for own in everyones) for name in rates}
                profile = self._profile(json.loads(trace)["traceEvents"], rates)
                write_text(self.run.directory.path / "profile.json", as_json(profile))
                self.run.say(*as_table(profile))

    def _profile(self, events: list[dict[str, Any]], rates: dict[str, float]) -> Profile:
        channels, *size = self.image_shape
        form = ((size[0], size[1]), channels, len(self.run.classes))
        setup = self.run.runtime.describe()
        return Profile(
            first_step=self.window.stop - RECORDED + 1,
            last_step=self.window.stop,
            ranks=self.run.runtime.world_size,
            device=setup["device_name"],
            precision=setup["precision"],
            threads=setup["threads"],
            step_ms=median(milliseconds_between(*pair) for pair in pairwise(self._moments)),
            recorded=step_times(events),
            flops=step_flops(self.run.config, *form),
            forward_flops=forward_flops(self.run.config, *form),
            rates=rates,
        )


def start_profiler(device: torch.device) -> torch.profiler.profile:
    """A profiler that records `RECORDED` steps after the next one."""
    # By default its library prints messages about itself that look like errors of the run.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    schedule = torch.profiler.schedule(wait=0, warmup=1, active=RECORDED, repeat=1)
    profiler = torch.profiler.profile(activities=activities, schedule=schedule, acc_events=True)
    profiler.start()
    return profiler


def read_trace(profiler: torch.profiler.profile) -> str:
    """The Chrome trace (JSON) of a profiler that has recorded its steps. Raises StorageError."""
    with tempfile.TemporaryDirectory() as folder, storage_errors(Path(folder)):
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        return path.read_text(encoding="utf-8")


def as_json(profile: Profile) -> str:
    """The content of profile.json."""
    achieved = {
        "flops_per_second": profile.achieved,
        "shares": {name: profile.achieved / rate for name, rate in profile.rates.items()},
    }
    return json.dumps({**asdict(profile), "achieved": achieved}, indent=1) + "\n"


def as_table(profile: Profile) -> list[str]:
    """The printed profile in lines: time and share of each phase, FLOPs, and the share of this machine's best rate."""
    recorded = profile.recorded
    lines = [
        f"profile of steps {profile.first_step} to {profile.last_step}: {recorded.step:.2f} ms a step; "
        f"{profile.step_ms:.2f} ms without the profiler (median of {TIMED})"
    ]
    columns = {"host": recorded.host, "device": recorded.device}
    for place, times in columns.items():
        if times:
            lines.append(f"  {place:<12}{'ms a step':>10}{'share':>9}")
            lines += [
                f"  {name:<12}{time:>10.2f}{time / recorded.step:>9.1%}" for name, time in times.items()
            ]
    parts = ", ".join(f"{name} {flops / 1e9:.4g}" for name, flops in profile.flops.items())
    lines.append(f"  {sum(profile.flops.values()) / 1e9:.4g} GFLOP a step: {parts}")
    bests = ", ".join(
        f"{profile.achieved / rate:.1%} of {rate / 1e9:,.1f} in {name}"
        for name, rate in profile.rates.items()
    )
    lines.append(
        f"  {profile.achieved / 1e9:,.1f} GFLOP/s without the profiler; share of the best rate just measured here "
        f"({profile.precision}, {profile.ranks} x {profile.device}, {counted(profile.threads, 'thread')} each): {bests}"
    )
    return lines
