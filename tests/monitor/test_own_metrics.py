"""Plots and reports show metrics that are plug-ins with titles and directions, and run no code of theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from pipeline.commands.report_tables import Quality, summarise_quality
from pipeline.metric_table import Metric, MetricsByTag, Needs
from pipeline.monitor.own_metrics import read_own_metrics, write_own_metrics
from pipeline.monitor.plots import comparison_figure, draw_comparison, draw_curves, panels_of
from pipeline.options import QualityOptions
from tests.monitor.drawing import records, write_records

PLUGIN = "tests.monitor.test_own_metrics:Sharpness"


class Sharpness:
    """A plug-in. What it measures is of no interest here."""

    metric = Metric("sharpness", "how sharp\x1b edges are", "higher", Needs(features=True), "an example")

    @staticmethod
    def measure(sets: object) -> float:
        return 0.0


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MetricsByTag:
    """What a run in tmp_path has noted, and the package is not trusted any more."""
    monkeypatch.setenv("WGAN_PLUGINS", "tests")
    write_own_metrics(tmp_path, QualityOptions(every=2, metrics=["swd", PLUGIN]))
    monkeypatch.setenv("WGAN_PLUGINS", "")
    return read_own_metrics(tmp_path)


LOGGED = records([2, 4], **{"quality/sharpness_pixels2": 0.5, "quality/swd": 1.0})
LOGGED[1] = {**LOGGED[1], "quality/sharpness_pixels2": 0.25}


def test_panels_of_own_metrics_have_titles_and_directions(own: MetricsByTag) -> None:
    assert own.keys() == {"quality/sharpness_pixels2"}
    *_, panel, swd = panels_of(LOGGED, own)
    assert panel.title == "how sharp\\x1b edges are (sharpness_pixels2)"
    assert panel.quantity == "higher is better"
    assert swd.title == "sliced Wasserstein distance (swd)"
    titles = [axes.get_title("left") for axes in comparison_figure({"a": LOGGED}, own).axes]
    assert panel.title in titles


def test_the_best_value_of_an_own_metric_is_known(own: MetricsByTag) -> None:
    found, _ = summarise_quality(LOGGED, own)
    assert found == Quality("sharpness_pixels2", PLUGIN, last=(4, 0.25), best=(2, 0.5), better="higher")
    unknown, _ = summarise_quality(LOGGED)
    assert unknown == Quality("sharpness_pixels2", "", last=(4, 0.25), best=None, better="neither")


def test_a_run_and_a_comparison_are_drawn_with_what_the_runs_have_noted(
    own: MetricsByTag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for run in (tmp_path, other):
        write_records(run, LOGGED)
    figures: list[Figure] = []
    monkeypatch.setattr("pipeline.monitor.plots._save", lambda figure, target: figures.append(figure))
    draw_curves(tmp_path, tmp_path / "curves.png")
    draw_comparison([other, tmp_path], tmp_path / "comparison.png")
    curves, comparison = figures
    assert "higher is better" in [axes.get_ylabel() for axes in curves.axes]
    titles = [axes.get_title("left") for axes in comparison.axes]
    assert "how sharp\\x1b edges are (sharpness_pixels2)" in titles


def test_notes_of_metrics_that_are_no_longer_measured_are_kept(
    own: MetricsByTag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WGAN_PLUGINS", "tests")
    write_own_metrics(tmp_path, QualityOptions(every=2, metrics=["fid"]))
    assert read_own_metrics(tmp_path) == own
    write_own_metrics(tmp_path, QualityOptions(every=2, metrics=[PLUGIN], features="inception"))
    assert read_own_metrics(tmp_path).keys() == {"quality/sharpness_pixels2", "quality/sharpness_inception"}


@pytest.mark.parametrize("options", [QualityOptions(every=2), QualityOptions(metrics=[PLUGIN])])
def test_a_run_that_measures_no_own_metric_notes_nothing(tmp_path: Path, options: QualityOptions) -> None:
    write_own_metrics(tmp_path, options)
    assert list(tmp_path.iterdir()) == []
    assert read_own_metrics(tmp_path) == {}


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"metrics": [{"tag": 3, "name": "x", "title": "x", "better": null}]}']
)
def test_notes_that_cannot_be_used_are_a_warning(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_metrics.json").write_text(content)
    assert read_own_metrics(tmp_path) == {}
    assert "own_metrics.json cannot be read (" in capsys.readouterr().err
