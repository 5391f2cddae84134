"""A few hundred mutated inputs for every target: none may do more than end or raise an error of ours."""

from __future__ import annotations

import pytest

from tests.fuzz.__main__ import describe
from tests.fuzz.engine import Campaign, load_targets

INPUTS = 200


@pytest.mark.slow
def test_no_target_does_more_than_end_or_refuse() -> None:
    campaign = Campaign(seed=1, inputs=INPUTS, workers=2)
    rows = campaign.run(sorted(load_targets()))
    assert [row.inputs for row in rows] == [INPUTS] * len(rows)
    assert all(row.refused for row in rows)
    assert "".join(describe(rows, campaign.seed)) == ""
