"""`wgan features train`: what it trains on and tests with, and what it refuses before it starts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.cli import main
from pipeline.data.format.shard_set import open_directory
from pipeline.quality.features.classifier import ClassifierFeatures
from pipeline.quality.features.labelled import read_labels, split
from tests import shards


@pytest.fixture(scope="module")
def sorted_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,000 images in the order of their ten classes."""
    out = tmp_path_factory.mktemp("data") / "sorted"
    pixels = np.zeros((1000, 8, 8), dtype=np.uint8)
    labels: list[int | None] = [number // 100 for number in range(1000)]
    shards.write(shards.Given(pixels, labels, tuple("abcdefghij")), out, 8, 1, 300)
    return out


@pytest.mark.parametrize("seed", [0, 1])
def test_few_images_of_a_sorted_set_are_of_all_its_classes(sorted_set: Path, seed: int) -> None:
    opened = open_directory(sorted_set)
    labels = read_labels(opened)
    for ids in split(opened, sorted_set, 60, seed):
        assert len(set(ids.tolist())) == 60
        assert len(labels[ids].unique()) >= 9


def test_no_image_is_both_trained_on_and_tested_with(sorted_set: Path) -> None:
    train, test = split(open_directory(sorted_set), sorted_set, 10_000, 0)
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(1000))
    assert 50 < len(test) < 150


def test_the_seed_alone_chooses_the_images(sorted_set: Path) -> None:
    opened = open_directory(sorted_set)
    first, again, other = (split(opened, sorted_set, 60, seed) for seed in (0, 0, 1))
    for ours, same, different in zip(first, again, other, strict=True):
        assert ours.tolist() == same.tolist()
        assert set(ours.tolist()) != set(different.tolist())


def test_a_file_that_cannot_be_written_is_refused_before_training(
    sorted_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        pytest.fail("it trains")

    monkeypatch.setattr("pipeline.quality.features.classifier.train_classifier", never)
    assert main(["features", "train", str(sorted_set), "--out", str(tmp_path)]) == 2
    assert f"--out {tmp_path} is a directory, and a classifier is a file. Name a file in it." in (
        capsys.readouterr().err
    )
    (tmp_path / "file").touch()
    assert (
        main(["features", "train", str(sorted_set), "--out", str(tmp_path / "file" / "c.safetensors")]) == 7
    )
    assert "cannot be written" in capsys.readouterr().err


def test_shards_without_labels_or_with_too_few_images_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards.write(shards.noise(20, labelled=False), tmp_path / "plain", 8, 3)
    assert main(["features", "train", str(tmp_path / "plain")]) == 3
    assert "plain has no classes, and a classifier needs two or more" in capsys.readouterr().err
    shards.write(shards.noise(2), tmp_path / "few", 8, 3)
    assert main(["features", "train", str(tmp_path / "few")]) == 3
    assert (
        "few has 2 images, too few to hold out one in 10 for the test. Make shards of"
        in capsys.readouterr().err
    )


def test_the_recall_of_each_class_is_printed_and_kept_and_an_unseen_class_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All images are alike, so every image is taken for one of the more frequent class."""
    labels: list[int | None] = [int(number % 5 == 0) for number in range(600)]
    pets = shards.Given(np.zeros((600, 8, 8), dtype=np.uint8), labels, ("cat", "dog\x1b[31m"))
    shards.write(pets, tmp_path / "pets", 8, 1, 300)
    assert main(["features", "train", str(tmp_path / "pets"), "--epochs", "2"]) == 0
    printed = capsys.readouterr()
    assert "recall by class, lowest first: dog\\x1b[31m 0%, cat 100%" in printed.out.splitlines()
    warning = (
        "warning: it does not see dog\\x1b[31m: of these classes it finds fewer than one held-out image in 10"
    )
    assert [line for line in printed.err.splitlines() if line.startswith(warning)]
    found = ClassifierFeatures.load(tmp_path / "pets.classifier.safetensors", torch.device("cpu")).about
    assert found.recall_by_class == {"cat": 1.0, "dog\x1b[31m": 0.0}


def test_a_classifier_is_trained_at_the_shape_of_a_run(sorted_set: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.safetensors"
    words = ["features", "train", str(sorted_set), "--out", str(out), "--epochs", "1"]
    assert main([*words, "--resolution", "8x12", "--channels", "4"]) == 0
    about = ClassifierFeatures.load(out, torch.device("cpu")).about
    assert (about.channels, about.height, about.width) == (3, 8, 12)


def test_a_size_that_no_run_can_have_is_named(sorted_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features", "train", str(sorted_set), "--resolution", "5000"]) == 2
    message = capsys.readouterr().err
    assert "--resolution: invalid value [5000, 5000]: expected a side in pixels" in message
