"""What a run tells a person of its images and of what it leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.option_data import DataOptions
from pipeline.options import Config, ScheduleOptions
from pipeline.run.directory import RunDirectory
from pipeline.training.describe import (
    describe_classes,
    describe_images,
    describe_results,
    describe_small_share,
)
from tests.ranks import Ranks


@pytest.mark.parametrize(
    ("data", "used", "count", "said"),
    [
        ({}, 1, 1, "trains on 1 image"),
        ({"classes": ["7"]}, 600, 600, "trains on 600 images"),
        (
            {"classes": ["7"]},
            6_265,
            60_000,
            "trains on 6,265 of 60,000 images; data.classes left the others out",
        ),
        (
            {"classes": ["7"], "validation": 0.1},
            5_638,
            60_000,
            "trains on 5,638 of 60,000 images; data.classes and data.validation left the others out",
        ),
    ],
)
def test_the_images_that_are_used_are_counted(
    data: dict[str, object], used: int, count: int, said: str
) -> None:
    options = DataOptions.model_validate({"shards": "data/mnist", **data})
    config = Config(name="run", data=options, schedule=ScheduleOptions(steps=1))
    held_out = round(options.validation * count)
    assert describe_images(config, used, count, held_out) == said


def test_a_run_names_the_command_for_what_it_has_not_drawn(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    assert describe_results(RunDirectory(tmp_path)) == [
        f"samples: wgan sample {tmp_path}",
        f"curves:  wgan plot {tmp_path}",
        f"report:  wgan report {tmp_path}",
    ]


def test_a_run_ends_with_the_places_of_its_samples_and_curves(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    words = ["schedule.steps=2", "monitor.log_every=1", "monitor.sample_every=1", "monitor.plots=true"]
    said = ranks.run(1, [config, *words, "data.validation=0.1"]).log(0)
    run = tmp_path / "run"
    assert f"all 2 steps are done\nsamples: {run}/samples\n" in said
    assert f"\ncurves:  {run}/curves.png, {run}/training.gif\n" in said
    assert f"\nreport:  wgan report {run}\n" in said
    assert " of 600 images; data.validation left the others out\n" in said
    assert f"watch: tensorboard --samples_per_plugin images=200 --logdir {run}\n" in said
    assert "estimate (smoothed) " in said


def test_a_precision_that_the_launcher_chose_is_called_that(ranks: Ranks, config: str) -> None:
    asked = {"ACCELERATE_MIXED_PRECISION": "bf16"}
    words = [config, "schedule.steps=1"]
    said = ranks.run(1, words, environment=asked).log(0)
    assert "1 x CPU (none), bf16 (the launcher's choice, because the config has no precision), " in said
    said = ranks.run(1, [*words, "name=own", "precision=bf16"], environment=asked).log(0)
    assert "1 x CPU (none), bf16, " in said


@pytest.mark.parametrize(
    ("device", "images", "ranks", "said"),
    [
        (
            "cuda",
            31,
            8,
            "each GPU gets 31 images of a batch, and has little to do with fewer than 32. Fewer ranks or",
        ),
        (
            "cuda",
            1,
            1,
            "each GPU gets 1 image of a batch, and has little to do with fewer than 32. A larger sched",
        ),
        ("cuda", 32, 8, ""),
        ("cpu", 1, 8, ""),
    ],
)
def test_a_gpu_that_gets_few_images_is_named(device: str, images: int, ranks: int, said: str) -> None:
    lines = describe_small_share(device, images, ranks)
    assert [line[: len(said)] for line in lines] == ([said] if said else [])


def test_the_first_classes_are_listed() -> None:
    assert describe_classes([]) == []
    assert describe_classes(["cat", "a\x1bb"]) == [r"the networks know 2 classes: cat, a\x1bb"]
    (line,) = describe_classes([str(number) for number in range(100)])
    assert line.startswith("the networks know 100 classes: 0, 1, ")
    assert line.endswith(", 11, ...")
