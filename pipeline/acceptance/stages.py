"""The stages of an acceptance, in the order in which they run: the cheap and telling ones come first."""

from __future__ import annotations

from dataclasses import dataclass

HERE = "pipeline.acceptance"


@dataclass(frozen=True)
class Stage:
    """One stage: a function of a `Bench`, run in a process of its own.

    seconds: about how long it takes; it is not begun with less time left. deadline: after how long it counts as hung.
    """

    name: str
    function: str
    """Its import path, module:function"""
    seconds: float
    deadline: float


STAGES = (
    Stage("preflight", f"{HERE}.preflight:run", 20, 90),
    Stage("resume", f"{HERE}.repeats:run", 20, 120),
)
