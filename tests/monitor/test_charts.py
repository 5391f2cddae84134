"""TensorBoard's custom scalars show the charts that a run fills, and no empty ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from torch import nn

from pipeline.metric_table import METRICS
from pipeline.monitor.charts import CHARTS, Logged, layout
from pipeline.monitor.tensorboard import TensorBoard
from pipeline.objectives.clipping import WeightClipping
from pipeline.objectives.contract import Constraint, Metrics
from pipeline.objectives.wasserstein import Wasserstein
from pipeline.options import Config
from tests.ranks import Ranks

CLIPPING = ("critic/clipped_fraction",)
EVERYTHING = Logged(True, CLIPPING, tuple(METRICS), adapts_augmentation=True)


def shown(run: Path) -> dict[str, list[str]]:
    """The patterns of each chart that TensorBoard shows for a run, which takes the last layout."""
    events = EventAccumulator(str(run)).Reload()
    content = events.Tensors("custom_scalars__config__")[-1].tensor_proto.string_val[0]
    return {
        f"{category.title}: {chart.title}": list(chart.multiline.tag)
        for category in Layout.FromString(content).category
        for chart in category.chart
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "present", "absent"),
    [
        (
            ["data.validation=0.1"],
            {"wasserstein: estimate", "health: share of clipped weights"},
            {"quality: Frechet distance"},
        ),
        (
            [
                "objective.name=hinge",
                "quality.every=10",
                "quality.samples=128",
                "quality.metrics=[swd,recall]",
            ],
            {"quality: sliced Wasserstein distance", "quality: precision and recall"},
            {"quality: Frechet distance", "wasserstein: estimate", "health: share of clipped weights"},
        ),
        (
            ["objective.name=gradient_penalty", "augment={kinds: [flip], target: 0.8}"],
            {
                "wasserstein: normalized: comparable between runs",
                "health: augmentation: probability, and pairs in which the real image scores higher",
            },
            {"health: share of clipped weights", "quality: precision and recall"},
        ),
    ],
)
def test_every_chart_has_a_curve_and_every_curve_its_chart(
    ranks: Ranks, config: str, tmp_path: Path, options: list[str], present: set[str], absent: set[str]
) -> None:
    ranks.run(1, [config, *options, "schedule.steps=10"])
    charts = shown(tmp_path / "run")
    tags = EventAccumulator(str(tmp_path / "run")).Reload().Tags()["scalars"]
    for title, patterns in charts.items():
        assert any(re.search(pattern, tag) for pattern in patterns for tag in tags), f"{title} is empty"
    assert present <= charts.keys()
    assert absent.isdisjoint(charts)
    all_patterns = [
        pattern
        for titles in layout(EVERYTHING).values()
        for _, patterns in titles.values()
        for pattern in patterns
    ]
    known = {tag for tag in tags for pattern in all_patterns if re.search(pattern, tag)}
    assert known == {tag for tag in tags for found in charts.values() for p in found if re.search(p, tag)}


def test_a_chart_is_the_same_in_every_run_that_has_it() -> None:
    everything = layout(EVERYTHING)
    for run in (
        Logged(measures_wasserstein=False, reports=(), metrics=()),
        Logged(measures_wasserstein=True, reports=(), metrics=["recall"]),
    ):
        for category, charts in layout(run).items():
            for title, chart in charts.items():
                assert chart == everything[category][title]


class SpectralBound(Constraint):
    """A constraint that reports something else."""

    def apply(self, critic: nn.Module) -> None:
        pass

    def report(self, critic: nn.Module) -> Metrics:
        return {"critic/spectral_norm": torch.ones(())}


class OwnObjective(Wasserstein):
    """Not one of the built-in kinds, as a plug-in's is not."""


@pytest.mark.parametrize(
    ("constraint", "is_shown"), [(WeightClipping(0.1), True), (SpectralBound(), False), (None, False)]
)
def test_clipped_weights_have_a_chart_if_the_constraint_reports_them(
    constraint: Constraint | None, is_shown: bool
) -> None:
    objective = OwnObjective(constraint=constraint)
    options = Config.model_validate({"name": "x", "data": {"shards": "x"}, "schedule": {"steps": 1}})
    charts = layout(Logged.by(options, objective, nn.Linear(2, 1)))
    assert ("share of clipped weights" in charts["health"]) == is_shown


def test_a_run_without_evaluations_has_no_charts_of_quality() -> None:
    assert list(layout(EVERYTHING)) == ["wasserstein", "quality", "speed", "health"]
    assert "quality" not in layout(Logged(measures_wasserstein=True, reports=CLIPPING, metrics=()))
    assert sum(map(len, layout(EVERYTHING).values())) == len(CHARTS) + len(
        {metric.chart for metric in METRICS.values()}
    )


def test_a_resumed_run_shows_the_charts_of_its_new_options(tmp_path: Path) -> None:
    for first_step, metrics in ((1, ["fid"]), (7, ["swd"])):
        charts = layout(Logged(measures_wasserstein=False, reports=(), metrics=metrics))
        sink = TensorBoard(tmp_path, first_step, charts)
        sink.options(first_step - 1, {"seed": 0})
        sink.close()
    assert "quality: sliced Wasserstein distance" in shown(tmp_path)
    assert "quality: Frechet distance" not in shown(tmp_path)
