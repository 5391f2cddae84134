"""The table of planted failures says what the metrics saw, and where that is not as it should be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.format.shard_set import open_directory
from pipeline.data.making.selection import Selection
from pipeline.data.reading.reader import ShardReader
from pipeline.pixels import to_uint8
from pipeline.quality.features.classifier import About, TrainingPlan, save, train_classifier
from pipeline.quality.features.labelled import read_labels
from tests.shards import digits, write
from tests.trained import write_run

SAMPLES = 128
IMAGE = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend("benchmarks/studies")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """The options that name two halves of the digits, and a classifier of one."""
    folder = tmp_path_factory.mktemp("sets")
    for name, is_other in (("training", False), ("others", True)):
        write(digits(), folder / name, 8, 1, 500, Selection(validation=0.5, only_validation=is_other))
    shards = open_directory(folder / "training")
    images = ShardReader(shards).read(np.arange(shards.manifest.count)).contiguous()
    network = train_classifier(images, read_labels(shards), 10, TrainingPlan(6, 0), torch.device("cpu"))
    save(network, About(1, 8, 8, tuple("0123456789"), "0" * 64, 6, 0, 0.9), folder / "classifier.safetensors")
    return [
        *("--shards", folder / "training", "--held-out", folder / "others"),
        *("--classifier", folder / "classifier.safetensors"),
    ]


def run(words: Sequence[object]) -> int:
    from planted_failures import main

    return main([*map(str, words)])


def test_each_set_is_measured_by_every_metric(
    sets: Sequence[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made" / "planted.json"
    code = run([*sets, "--samples", SAMPLES, "--run", write_run(tmp_path), "--out", out])
    printed, written = capsys.readouterr().out, json.loads(out.read_text())
    rows = {row["name"]: row for row in written["rows"]}
    assert list(rows)[-2:] == ["run, step 2", "run, step 4"]
    assert [line.count("|") for line in printed.splitlines() if line.startswith("|")] == [19] * (
        2 + len(rows)
    )
    assert code == int(any(row["unexpected"] for row in rows.values()))
    figures = {name: row["figures"] for name, row in rows.items()}
    assert figures["training images"]["copied, pixels"] == 1
    assert figures["other unseen real images"]["copied, pixels"] < 0.1
    assert rows["other unseen real images"]["seen"] == []
    assert figures["collapse to one image"]["modes"] == 1
    assert figures["collapse to three images"]["modes"] == 3
    assert figures["noise"]["precision, pixels"] == 0
    seen = set(rows["collapse to one image"]["seen"])
    assert {"fid, pixels", "kid, classifier", "recall, pixels", "swd", "class_distance"} <= seen


def test_metrics_that_miss_a_failure_or_see_another_one_are_named() -> None:
    from planted_sets import Planted
    from verdicts import Column, judged, table

    fid, recall, copied = (Column(metric, "pixels") for metric in ("fid", "recall", "copied"))
    good = {fid: 1.0, recall: 0.8, copied: 0.01}
    planted = Planted("collapse", IMAGE, frozenset({"fid", "recall"}))
    row = judged(planted, {fid: 3.0, recall: 0.7, copied: 0.5}, good)
    assert list(table([row]))[2:] == [
        "| collapse | **3** | 0.7 (!) | **0.5** (!) |",
        "",
        "- collapse: recall, pixels should detect it and does not.",
        "- collapse: copied, pixels detects it and should not.",
    ]
    is_open = Planted("collapse", IMAGE, frozenset({"fid"}), open_to=frozenset({"recall", "copied"}))
    assert judged(is_open, row.figures, good).unexpected == {}


def test_a_run_should_end_better_than_it_began_by_all_metrics_but_copied() -> None:
    from verdicts import Column, judged_run

    fid, recall, copied = (Column(metric, "pixels") for metric in ("fid", "recall", "copied"))
    good = {fid: 1.0, recall: 0.8, copied: 0.01}
    found = {
        "step 1": {fid: 9.0, recall: 0.5, copied: 0.0},
        "step 2": {fid: 5.0, recall: 0.9, copied: 0.0},
        "step 3": {fid: 6.0, recall: 0.5, copied: 0.0},
    }
    rows = judged_run(found, good)
    assert [dict(row.unexpected) for row in rows] == [
        {},
        {},
        {recall: "is not better than at the first of these steps, 0.5"},
    ]


@pytest.mark.parametrize(
    ("metric", "good", "worse", "as_good"),
    [
        ("precision", 0.8, 0.59, 0.61),
        ("modes", 10, 7, 8),
        ("fid", 0.5, 1.01, 0.99),
        ("kid", -0.01, 0.05, 0.03),
        ("copied", 0.01, 0.12, 0.1),
    ],
)
def test_a_metric_sees_what_is_worse_than_unseen_images_by_its_limit(
    metric: str, good: float, worse: float, as_good: float
) -> None:
    from verdicts import is_seen

    assert is_seen(metric, worse, good)
    assert not is_seen(metric, as_good, good)


def test_images_are_returned_to_the_bit_and_from_the_first_again() -> None:
    from planted_failures import returning

    draw = returning(IMAGE)
    parts = [to_uint8(draw(torch.zeros(3, 1))) for _ in range(2)]
    assert torch.equal(torch.cat(parts), IMAGE[[0, 1, 2, 3, 0, 1]])


def test_what_cannot_be_compared_is_refused(
    sets: Sequence[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(digits(), tmp_path / "wide", (8, 16), 1, 500, Selection(limit=300))
    write(digits(), tmp_path / "two", 8, 1, 500, Selection(classes=("0", "1")))
    refusals = {
        ("--samples", 100): "--samples 100: an evaluation needs at least 128 images",
        ("--samples", 450): "two sets of 450 images without common ones are needed. Choose fewer --samples",
        (
            "--samples",
            128,
            "--held-out",
            tmp_path / "wide",
        ): "they cannot be compared. Name two splits of the same set",
        (
            "--samples",
            128,
            "--shards",
            tmp_path / "two",
            "--held-out",
            tmp_path / "two",
        ): "no image of class number 2 for samples",
        (
            "--samples",
            128,
            "--run",
            write_run(tmp_path),
            "--steps",
            2,
        ): "1 checkpoint cannot show whether a run improves",
        ("--samples", 128, "--run", write_run(tmp_path, resolution=16, name="large")): "(1, 16, 16)",
    }
    for words, message in refusals.items():
        assert run([*sets, *words]) == 2
        assert message in capsys.readouterr().err
