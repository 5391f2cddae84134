"""Ten steps twice, and ten steps with a stop in the middle: the same bits."""

from __future__ import annotations

from pipeline.acceptance.bench import Bench
from pipeline.acceptance.runs import check_same_bits, train


def run(bench: Bench) -> str:
    """Compare the last checkpoints of whole, repeated and resumed runs, in each precision that a run may choose."""
    kinds = {"float32": ["precision=float32"], "auto": ["precision=auto", "critic_optimizer.name=adam"]}
    for name, overrides in kinds.items():
        whole = train(bench, f"whole-{name}", *overrides)
        check_same_bits(bench, whole, train(bench, f"again-{name}", *overrides), f"ten steps twice ({name})")
        train(bench, f"moved-{name}", *overrides, "schedule.steps=5")
        moved = train(bench, f"moved-{name}", *overrides)
        check_same_bits(bench, whole, moved, f"stopped after 5 steps and resumed ({name})")
    return "ten steps twice, and stopped after five and resumed: equal digests in float32 and auto"
