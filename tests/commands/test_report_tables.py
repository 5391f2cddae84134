"""The tables of a report: quality figures, evaluations and times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from pipeline.commands.report_page import training_seconds
from pipeline.commands.report_tables import Quality, newest_of_equal, summarise_quality, tabulate
from tests.commands.reports import EVALUATION


def test_the_best_of_a_figure_is_the_lowest_distance_and_the_highest_share() -> None:
    lines = [
        {"step": step, "quality/fid_pixels": fid, "quality/recall_pixels": recall}
        for step, fid, recall in ((10, 9.0, 0.1), (20, 5.0, 0.4), (30, 7.0, 0.3), (40, float("nan"), 0.2))
    ]
    assert summarise_quality(lines) == [
        Quality("fid_pixels", "fid", last=(30, 7.0), best=(20, 5.0), better="lower"),
        Quality("recall_pixels", "recall", last=(40, 0.2), best=(20, 0.4), better="higher"),
    ]


def test_evaluations_of_different_metrics_share_one_table() -> None:
    first = {"step": 1000, "weights": "ema", "samples": 2000, "seed": 0, "features": "pixels", "time": "noon"}
    second = {**first, "step": 2000, "weights": "last"}
    table = tabulate(
        [{**first, "metrics": {"fid": 12.3456}}, {**second, "metrics": {"swd": 0.5, "fid": 11.0}}]
    )
    assert table == (
        ["step", "weights", "samples", "seed", "features", "fid", "swd", "time"],
        [
            ["1000", "ema", "2000", "0", "pixels", "12.35", "", "noon"],
            ["2000", "last", "2000", "0", "pixels", "11", "0.5", "noon"],
        ],
    )


def test_of_equal_evaluations_the_newest_is_kept() -> None:
    first = {**EVALUATION, "metrics": {"fid": 9.0, "swd": 1.0}, "time": "morning"}
    again = {**EVALUATION, "metrics": {"swd": 1.0, "fid": 8.0}, "time": "noon"}
    assert newest_of_equal([first, again]) == [again]


@pytest.mark.parametrize(
    "change",
    [
        {"step": 2000},
        {"weights": "generator"},
        {"samples": 500},
        {"seed": 1},
        {"features": "inception"},
        {"manifest": "5ea1"},
        {"metrics": {"fid": 9.0, "swd": 1.0}},
    ],
)
def test_evaluations_that_differ_in_what_was_asked_for_are_all_kept(change: Mapping[str, Any]) -> None:
    first = {**EVALUATION, "metrics": {"fid": 9.0}}
    assert newest_of_equal([first, {**first, **change}]) == [first, {**first, **change}]


def test_the_set_is_a_column_where_evaluations_are_of_different_ones() -> None:
    lines = [{**EVALUATION, "manifest": letter * 64} for letter in "ab"]
    assert "manifest" not in tabulate(lines[:1])[0]
    columns, rows = tabulate(lines)
    assert [row[columns.index("manifest")] for row in rows] == ["a" * 24, "b" * 24]
    assert "real" not in columns


def test_the_time_of_steps_that_were_not_logged_counts_too() -> None:
    lines: list[dict[str, float]] = [
        {"step": 10, "speed/step_seconds": 0.5},
        {"step": 15},
        {"step": 30, "speed/step_seconds": 2.0},
    ]
    assert training_seconds(lines) == 10 * 0.5 + 20 * 2.0
