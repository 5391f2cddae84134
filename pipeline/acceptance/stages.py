"""The stages of an acceptance, in the order in which they run: the cheap and telling ones come first."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.acceptance.outcome import PREFLIGHT

HERE = "pipeline.acceptance"


@dataclass(frozen=True)
class Stage:
    """One stage: a function of a `Bench`, run in a process of its own.

    seconds: about how long it takes; it is not begun with less time left. deadline: after how long it counts as hung.
    gpus: how many it needs.
    """

    name: str
    function: str
    """Its import path, module:function"""
    seconds: float
    deadline: float
    gpus: int = 0


STAGES = (
    Stage(PREFLIGHT, f"{HERE}.preflight:run", 15, 120),
    Stage("resume", f"{HERE}.repeats:run", 15, 150),
    Stage("no-waits", f"{HERE}.captured:no_waits", 15, 120, 1),
    Stage("graph", f"{HERE}.captured:same_as_eager", 15, 150, 1),
    Stage("float16", f"{HERE}.scaled:run", 15, 120, 1),
    Stage("world-of-one", f"{HERE}.alone:run", 10, 120, 1),
    Stage("ranks", f"{HERE}.together:run", 50, 450),
    Stage("sigterm", f"{HERE}.faults:terminate", 15, 150),
    Stage("sigkill", f"{HERE}.faults:kill", 15, 150),
    Stage("sigstop", f"{HERE}.faults:stop", 100, 300),
    Stage("not-finite", f"{HERE}.faults:diverge", 15, 150),
    Stage("out-of-memory", f"{HERE}.faults:run_out_of_memory", 15, 150),
    Stage("updates", f"{HERE}.updates:run", 30, 300),
    Stage("profile", f"{HERE}.profiled:run", 15, 150),
    Stage("evaluation", f"{HERE}.together:evaluate", 20, 200),
    Stage("speed-1", f"{HERE}.speed:on_one", 90, 400, 1),
    Stage("speed-8", f"{HERE}.speed:on_eight", 90, 400, 8),
    Stage("speed-2", f"{HERE}.speed:on_two", 90, 400, 2),
    Stage("speed-4", f"{HERE}.speed:on_four", 90, 400, 4),
)
