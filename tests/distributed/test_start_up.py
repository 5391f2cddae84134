"""How often ranks speak with each other before the first step, which is what a start on many ranks costs."""

from __future__ import annotations

import re
from typing import Any
from unittest.mock import patch

from torch import Tensor

from pipeline.ranks.runtime import Runtime
from pipeline.training.step import TrainingStep
from tests.ranks import Ranks

MOST_GATHERS, MOST_BYTES = 38, 4096
"""Of a rank with a small run: each gather is one round of messages, and what it gathers arrives on every rank."""


def train_and_count(arguments: list[str]) -> int:
    """Train, and print the sizes of all that was gathered before the first step."""
    from pipeline.train import main

    sizes: list[int] = []
    is_started = False
    gather, take = Runtime.gather, TrainingStep.take

    def counting(runtime: Runtime, values: Tensor) -> Tensor:
        if not is_started:
            sizes.append(values.nbytes)
        return gather(runtime, values)

    def first(step: TrainingStep, *batches: Any) -> Any:
        nonlocal is_started
        is_started = True
        return take(step, *batches)

    with patch.object(Runtime, "gather", counting), patch.object(TrainingStep, "take", first):
        code = main(arguments)
    print(f"gathers {len(sizes)}, bytes {sum(sizes)}")
    return code


def test_a_start_takes_few_exchanges_of_few_bytes(ranks: Ranks, config: str) -> None:
    options = [config, "schedule.steps=1", "quality.every=1", "quality.samples=128", "data.validation=0.1"]
    run = ranks.run(2, options, target=train_and_count)
    for rank in range(2):
        found = re.search(r"^gathers (\d+), bytes (\d+)$", run.log(rank), re.MULTILINE)
        assert found
        assert int(found[1]) <= MOST_GATHERS
        assert int(found[2]) <= MOST_BYTES
