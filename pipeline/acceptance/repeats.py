"""Ten steps twice, and ten steps with a stop in the middle: the same bits."""

from __future__ import annotations

from pipeline.acceptance.bench import Bench
from pipeline.acceptance.runs import check_same_bits, forget_last, last_tensors, train


def run(bench: Bench) -> str:
    """Compare the last checkpoints of whole, repeated and resumed runs, in each precision that a run may choose."""
    kinds = {"float32": ["precision=float32"], "auto": ["precision=auto", "critic_optimizer.name=adam"]}
    for name, overrides in kinds.items():
        check_repeats(bench, name, *overrides)
    return "ten steps twice, and resumed after five: equal digests in float32 and auto"


def check_repeats(bench: Bench, name: str, *overrides: str) -> None:
    """Train a run, train it again, and resume it from its middle, each to the same end."""
    whole = train(bench, f"whole-{name}", *overrides)
    expected = last_tensors(whole)
    again = last_tensors(train(bench, f"again-{name}", *overrides))
    check_same_bits(bench, again, expected, f"ten steps twice ({name})")
    forget_last(whole)
    resumed = last_tensors(train(bench, f"whole-{name}", *overrides))
    check_same_bits(bench, resumed, expected, f"resumed after five steps ({name})")
