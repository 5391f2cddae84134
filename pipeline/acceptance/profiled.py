"""The profile of a run: its phases add up to the step."""

from __future__ import annotations

import json

from pipeline.acceptance.bench import Bench
from pipeline.acceptance.runs import train
from pipeline.profiling.trace import OTHER

LARGEST_GAP = 0.1
"""The share of a step that may be in no phase, or missing from the sum"""


def run(bench: Bench) -> str:
    """Profile an ordinary step, of a network whose step takes some milliseconds."""
    path = train(
        bench, "profiled", "profile=true", "schedule.steps=25", "model.width=32", "schedule.global_batch=64"
    )
    profile = json.loads((path / "profile.json").read_text())
    recorded = profile["recorded"]
    step, host, device = recorded["step"], recorded["host"], recorded["device"]
    bench.figures |= {"step_ms": profile["step_ms"], "recorded": recorded}
    named = sum(time for name, time in host.items() if name != OTHER)
    gaps = {"the host's phases": abs(1 - named / step)}
    if device:
        # Kernels of a phase may run at the same time as those of another one, and then count twice.
        gaps["the GPU's phases and idle time"] = abs(1 - sum(device.values()) / step)
    for name, gap in gaps.items():
        bench.check(gap <= LARGEST_GAP, f"{name} add up to the step's {step:.2f} ms but for {gap:.0%}")
    return f"a step of {step:.2f} ms; " + ", ".join(f"{name} but for {gap:.1%}" for name, gap in gaps.items())
