"""A few hundred mutated inputs for every target: none may do more than end or raise an error of ours."""

from __future__ import annotations

import pytest

from tests.fuzz.__main__ import describe
from tests.fuzz.engine import Campaign, load_targets

INPUTS = 25
TAKE_ALL = ["lock", "notes", "record", "records", "report"]
"""Targets for which a damaged file is as good as none."""

REFUSE_NEARLY_ALL = {
    "card",
    "compressed-tar",
    "config",
    "http",
    "manifest",
    "other-formats",
    "plan",
    "shard-index",
    "state",
}
"""Targets of whose damaged files so few are as good as whole ones that these inputs may hold none."""


@pytest.mark.slow
def test_no_target_does_more_than_end_or_refuse() -> None:
    campaign = Campaign(seed=1, inputs=INPUTS, workers=1)
    rows = campaign.run(sorted(load_targets()))
    assert [row.inputs for row in rows] == [INPUTS] * len(rows)
    assert {row.name for row in rows if not row.taken} <= REFUSE_NEARLY_ALL
    assert [row.name for row in rows if not row.refused] == TAKE_ALL
    assert "".join(describe(rows, campaign.seed)) == ""
