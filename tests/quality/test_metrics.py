"""The table of metrics: everything that knows a metric takes it from there, and the docs list the same."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline import metric_table
from pipeline.config import parse_config
from pipeline.errors import ConfigError
from pipeline.metric_table import (
    METRICS,
    Metric,
    Needs,
    charts_of,
    describe_metrics,
    direction_of_tag,
    find_metric,
    metric_of_tag,
    title_of_tag,
)
from pipeline.quality import metrics
from pipeline.quality.best import Best
from pipeline.quality.evaluation import Evaluation
from pipeline.quality.metrics import MEASURES, MOST_IMAGES
from pipeline.quality.neighbours import SCALE_NEIGHBOURS
from pipeline.quality.sets import Sets
from pipeline.quality.sliced_wasserstein import SMALLEST_IMAGE
from tests.quality.together import Rank, Together, draw, options, real

DOCS = Path(__file__).parents[2] / "docs" / "quality.md"


def test_every_metric_of_the_table_has_a_function() -> None:
    assert MEASURES.keys() == METRICS.keys()


def test_the_limits_in_the_table_are_those_of_the_mathematics() -> None:
    assert METRICS["swd"].needs.side == SMALLEST_IMAGE
    assert METRICS["copied"].needs.held_out == SCALE_NEIGHBOURS + 1
    assert f"at most {MOST_IMAGES:,} of each set" in Path(metric_table.__file__).read_text()


def test_the_docs_list_the_metrics_of_the_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \| (.*) \|$", DOCS.read_text(), re.MULTILINE)
    assert rows == [
        (metric.name, metric.help, str(metric.needs), metric.better or "neither")
        for metric in METRICS.values()
    ]


def test_the_help_explains_every_metric_within_the_width() -> None:
    lines = describe_metrics(80).splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == list(METRICS)
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    for metric in METRICS.values():
        assert f"{metric.name} {metric.help}; {metric.direction}" in text


@pytest.mark.parametrize("features", ["pixels", "classifier", "inception"])
@pytest.mark.parametrize("name", METRICS)
def test_a_tag_leads_back_to_its_metric(name: str, features: str) -> None:
    metric = METRICS[name]
    tag = metric.tag(features)
    assert metric_of_tag(tag) == metric
    assert title_of_tag(tag) == f"{metric.title} ({tag.removeprefix('quality/')})"
    assert direction_of_tag(tag) == metric.direction


@pytest.mark.parametrize("tag", ["quality/speed", "quality/", "critic/loss", "fid_pixels", "quality/x_fid"])
def test_a_tag_of_no_metric_is_its_own_title(tag: str) -> None:
    assert metric_of_tag(tag) is None
    assert title_of_tag(tag) == tag
    assert direction_of_tag(tag) == ""


def test_related_metrics_share_a_chart() -> None:
    assert charts_of(["recall", "fid", "swd"]) == {
        "precision and recall": ["quality/precision_.*", "quality/recall_.*"],
        "Frechet distance": ["quality/fid_.*"],
        "sliced Wasserstein distance": ["quality/swd"],
    }


def test_an_unknown_metric_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"invalid value 'speed': expected one of 'fid', 'kid', .*'modes'"):
        find_metric("speed")


def test_the_table_is_read_without_torch() -> None:
    code = "import sys, pipeline.metric_table, pipeline.options; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_what_two_metrics_need_is_needed_together() -> None:
    first, second = Needs(features=True, held_out=6), Needs(images=True, side=8, held_out=2)
    assert first | second == second | first == Needs(features=True, images=True, held_out=6, side=8)


def test_what_is_found_of_real_images_is_found_once() -> None:
    calls: list[Sets] = []

    def count(sets: Sets) -> int:
        calls.append(sets)
        return len(calls)

    collected = Evaluation(options(["fid"]), real(), Rank(0, Together(1)), 4, 0)
    sets = Sets(collected._collect_real_sets(), collected.samples(draw))
    assert (sets.once(count), sets.once(count)) == (1, 1)
    assert Sets(sets.real, sets.fake).once(count) == 2


@pytest.fixture
def brightness(monkeypatch: pytest.MonkeyPatch) -> Metric:
    """A metric that is added as a developer would: a line in the table and a function."""
    metric = Metric(
        "brightness", "brightness", "higher", Needs(images=True, side=4, held_out=1), "mean of all pixels"
    )
    monkeypatch.setitem(METRICS, "brightness", metric)
    monkeypatch.setitem(metrics.MEASURES, "brightness", lambda sets: sets.fake.images.float().mean().item())
    return metric


def test_a_line_and_a_function_make_a_metric_known_everywhere(brightness: Metric) -> None:
    content = {
        "name": "x",
        "data": {"shards": "x"},
        "schedule": {"steps": 1},
        "quality": {"every": 1, "metrics": ["brightness"], "keep_best": "brightness"},
    }
    with pytest.raises(ConfigError, match="brightness needs held-out images"):
        parse_config(content, "here")
    content["data"] = {"shards": "x", "validation": 0.1}
    quality = parse_config(content, "here").quality.model_copy(update={"samples": 300})
    evaluation = Evaluation(quality, real(), Rank(0, Together(1)), 4, 0)
    figures = evaluation.measure(draw)
    assert figures["brightness"] == evaluation.samples(draw).images.float().mean().item() > 0
    best = Best.of(quality)
    assert best.update(1, figures)
    assert not best.update(2, {"brightness": figures["brightness"] - 1})
    assert "brightness      mean of all pixels; higher is better" in describe_metrics()
    assert title_of_tag("quality/brightness") == "brightness (brightness)"
    assert charts_of(["brightness"]) == {"brightness": ["quality/brightness"]}
    small = replace(
        real(), shape=(1, 2, 2), read=lambda ids: torch.zeros(len(ids), 1, 2, 2, dtype=torch.uint8)
    )
    with pytest.raises(ConfigError, match="brightness needs images of at least 4 x 4 pixels"):
        Evaluation(quality, small, Rank(0, Together(1)), 4, 0)
