"""The engine finds every kind of fault, goes on after it, and repeats an input by its number."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.__main__ import describe, line
from tests.fuzz.engine import Campaign, Limits, Row, Target, make_input
from tests.fuzz.mutations import LONGEST, MUTATIONS, Mutation

PLANTED = {
    "refuse": "refused",
    "raise_type_error": "error",
    "crash": "crash",
    "hang": "hang",
    "grow": "memory",
    "write_beside": "escape",
    "follow_a_link": "escape",
    "start_a_program": "escape",
    "chatter": "chatter",
    "work_inside": "taken",
}


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    limits = Limits(seconds=2, growth=30 << 20)
    campaign = Campaign(inputs=3, limits=limits, package="tests.fuzz.planted")
    return {row.name: row for row in campaign.run(list(PLANTED))}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), PLANTED.items())
def test_each_planted_fault_is_found_at_the_first_mutated_input(
    name: str, kind: str, rows: dict[str, Row]
) -> None:
    row = rows[name]
    found = [(result.number, result.kind) for result in row.findings]
    assert row.inputs == 3
    assert found == ([] if kind in ("refused", "taken") else [(2, kind)])
    assert (row.taken, row.refused) == ((3, 0) if kind == "taken" else (2, int(kind == "refused")))


@pytest.mark.slow
def test_the_report_says_what_was_found_and_how_to_repeat_it(rows: dict[str, Row]) -> None:
    assert line(rows["chatter"]).startswith("| chatter | 3 | 0 | 2 | 1 |")
    (text,) = describe([rows["raise_type_error"]], seed=0)
    assert "error, 1 time (--target raise_type_error --seed 0 --only 2)" in text
    assert "TypeError: a plain defect" in text
    assert rows["crash"].findings[0].text == "SIGSEGV"


@pytest.mark.slow
def test_a_target_whose_seeds_cannot_be_made_ends_the_run() -> None:
    campaign = Campaign(inputs=3, package="tests.fuzz.planted")
    with pytest.raises(
        RuntimeError, match=r"seeds of the target without_seeds cannot be made: .*no room for seeds"
    ):
        campaign.run(["work_inside", "without_seeds"])


def test_an_input_depends_on_seed_target_and_number_only() -> None:
    seeds = [bytes(range(256)), b'{"a": [1, 2]}']
    target = Target(
        "some", lambda data, directory: None, lambda: seeds, repair=lambda data: b"repaired" + data
    )
    inputs = [make_input(target, seeds, 5, number) for number in range(60)]
    assert inputs[:2] == seeds
    assert inputs == [make_input(target, seeds, 5, number) for number in range(60)]
    assert inputs[2:] != [make_input(target, seeds, 6, number) for number in range(2, 60)]
    assert len(set(inputs)) > 50
    assert 15 < sum(data.startswith(b"repaired") for data in inputs) < 45


@pytest.mark.parametrize("mutation", dict.fromkeys(MUTATIONS), ids=lambda mutation: mutation.__name__)
def test_every_mutation_changes_files_and_can_take_empty_ones(mutation: Mutation) -> None:
    chance = random.Random(0)
    seeds = [bytes(range(256)) * 8, b'{"count": 17, "names": ["a", "b"]}']
    changed = [mutation(data, chance, seeds) for data in seeds for _ in range(20)]
    assert sum(data not in seeds for data in changed) > 20
    assert max(map(len, changed)) < 2 * LONGEST
    for _ in range(20):
        mutation(b"", chance, [b""])
