"""A run on a mixture of two sets: killed and resumed with equal bits, and refused with other weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data.making.selection import Selection
from tests.distributed.test_resume import assert_same_end, killed_at_random
from tests.ranks import Ranks
from tests.shards import digits, write


@pytest.mark.slow
def test_a_killed_run_on_a_mixture_ends_like_one_never_killed(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    places = [tmp_path / name for name in "ab"]
    for place, limit in zip(places, (300, 60), strict=True):
        write(digits(), place, 16, 1, 50, Selection(limit=limit))
    mix = f"data.mix=[{{shards: {places[0]}, weight: 3}}, {{shards: {places[1]}}}]"
    arguments = [config, "data.shards=null", mix, "data.streams=2", "data.validation=0.1", "data.cache=none"]
    arguments += [
        "monitor.log_every=5",
        "checkpoint.every=3",
        "schedule.steps=36",
        "monitor.validation_every=7",
    ]
    whole = ranks.run(2, [*arguments, "name=whole"])
    assert f"{places[0]}: 3 of 4 images drawn, 2" in whole.log(0)
    assert killed_at_random(ranks, 2, [*arguments, "name=killed"], tmp_path / "killed", 3, seed=1) >= 1
    assert_same_end(tmp_path / "killed", tmp_path / "whole")

    other = ranks.start(
        2, [*arguments, mix.replace("weight: 3", "weight: 2"), "name=killed", "schedule.steps=50"]
    )
    assert set(other.wait()) == {4}, other.output
    assert "'weight': 3}" in other.output
    assert "data.mix: " in other.output
    assert "Set these options back, or choose another name for the new run" in other.output
