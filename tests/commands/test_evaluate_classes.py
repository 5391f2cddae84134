"""What `wgan evaluate` says beside the figures: the floor, worthless precision, and classes that are not seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli import main
from pipeline.options import DcganOptions
from tests.conftest import CONFIG
from tests.shards import Given, write
from tests.test_old_formats import OLD
from tests.trained import write_run

ALWAYS_CAT = ["--classifier", str(OLD / "classifier-1.safetensors")]


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 images of noise: every tenth is called a dog."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 8, 8), dtype=np.uint8)
    labels: list[int | None] = [int(number % 10 == 0) for number in range(300)]
    out = tmp_path_factory.mktemp("pets") / "pets"
    write(Given(pixels, labels, ("cat", "dog"), "pets"), out, 8, 1, 100)
    return out


def evaluate(tmp_path: Path, pets: Path, *words: str) -> dict[str, object]:
    """The record of an evaluation of a generator that was not trained."""
    run = write_run(tmp_path)
    assert main(["evaluate", str(run), "--shards", str(pets), "--samples", "128", *words]) == 0
    record: dict[str, object] = json.loads((run / "evaluations.jsonl").read_text())
    return record


def test_classes_that_the_classifier_does_not_see_are_named(
    tmp_path: Path, pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = evaluate(tmp_path, pets, "--metrics", "modes", "class_distance", *ALWAYS_CAT)
    *_, real, _, samples, _ = capsys.readouterr().out.splitlines()
    expected = "  modes 1 of 2, the classifier does not see dog  class_distance 0"
    assert real == f"real images  {expected}"
    assert samples == f"step        4{expected}"
    assert (record["classes"], record["unseen_classes"]) == (2, ["dog"])


def test_what_samples_of_each_class_show_is_printed_and_recorded(
    tmp_path: Path, pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The classifier takes everything for a cat, as 270 of 300 images and of as many samples asked for are."""
    run = write_run(tmp_path, DcganOptions(latent=8, width=4, conditional=True), classes=("cat", "dog"))
    words = ["--samples", "300", "--metrics", "class_asked", "intra_fid", *ALWAYS_CAT]
    assert main(["evaluate", str(run), "--shards", str(pets), *words]) == 0
    record = json.loads((run / "evaluations.jsonl").read_text())
    assert record["by_class"]["class_asked"] == {"cat": 1, "dog": 0}
    assert record["metrics"]["class_asked"] == pytest.approx(0.9, abs=0.05)
    distances = record["by_class"]["intra_fid"]
    assert record["metrics"]["intra_fid"] == pytest.approx((distances["cat"] + distances["dog"]) / 2)
    assert record["real_against_real"]["metrics"] == {"class_asked": pytest.approx(0.9, abs=0.05)}
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "class_asked, worst classes: dog 0, cat 1" in lines
    worst = "intra_fid, worst classes: " + ", ".join(
        f"{name} {value:.4g}" for name, value in sorted(distances.items(), key=lambda pair: -pair[1])
    )
    assert worst in lines


def test_shards_of_other_classes_are_refused(
    tmp_path: Path, pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also of the same classes in another order, which would be asked for by wrong labels."""
    run = write_run(tmp_path, DcganOptions(latent=8, width=4, conditional=True), classes=("dog", "cat"))
    assert main(["evaluate", str(run), "--shards", str(pets), "--metrics", "swd"]) == 2
    message = capsys.readouterr().err
    assert "knows the classes dog, cat, in this order, and the shards of" in message
    assert "have cat, dog. Name the run's own with --shards" in message


@pytest.mark.parametrize("name", ["class_asked", "intra_fid"])
def test_figures_of_classes_asked_for_need_a_run_that_knows_classes(
    name: str, tmp_path: Path, pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path)
    assert main(["evaluate", str(run), "--shards", str(pets), "--metrics", name, *ALWAYS_CAT]) == 2
    assert f"{name} is about the classes that samples were asked for" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text(CONFIG.format(root=tmp_path, shards=pets))
    words = [
        "quality.every=2",
        f"quality.metrics=[{name}]",
        f"quality.classifier={ALWAYS_CAT[1]}",
        "name=new",
    ]
    assert main(["train", str(tmp_path / "config.yaml"), *words]) == 2
    assert "Train with model.conditional: true" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_training_warns_once_of_classes_that_the_classifier_does_not_see(
    tmp_path: Path, pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG.format(root=tmp_path, shards=pets))
    options = ["schedule.steps=4", "quality.every=2", "quality.samples=128", "quality.metrics=[modes,swd]"]
    words = [*options, f"quality.classifier={ALWAYS_CAT[1]}", "model.width=4"]
    assert main(["train", str(tmp_path / "config.yaml"), *words]) == 0
    warned = [line for line in capsys.readouterr().err.splitlines() if "does not see" in line]
    assert warned == [
        "warning: the classifier does not see dog in real images, so modes cannot show whether samples have these "
        "classes"
    ]


def test_training_measures_classes_asked_for_and_says_once_which_are_left_out(
    tmp_path: Path, pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 128 samples about 13 are dogs, fewer than the 20 of a class that is compared."""
    (tmp_path / "config.yaml").write_text(CONFIG.format(root=tmp_path, shards=pets))
    options = ["schedule.steps=4", "quality.every=2", "quality.samples=128", "model.conditional=true"]
    options += [
        "quality.metrics=[class_asked,intra_fid]",
        f"quality.classifier={ALWAYS_CAT[1]}",
        "model.width=4",
    ]
    assert main(["train", str(tmp_path / "config.yaml"), *options]) == 0
    warned = [line for line in capsys.readouterr().err.splitlines() if "leave out" in line]
    assert warned == [
        "warning: metrics that compare the images of each class leave out dog, of which there are too few samples or "
        "training images"
    ]
    records = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    measured = [record for record in records if "quality/class_asked" in record]
    assert [record["step"] for record in measured] == [2, 4]
    assert all(0.8 < record["quality/class_asked"] < 1 for record in measured)
    assert all(record["quality/intra_fid_pixels2"] > 0 for record in measured)


def test_real_images_are_compared_with_others_beside_the_samples(
    tmp_path: Path, pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = evaluate(tmp_path, pets, "--metrics", "fid", "precision", "recall")
    _, real, about, samples, remark, _ = capsys.readouterr().out.splitlines()
    floor = record["real_against_real"]
    assert isinstance(floor, dict)
    assert floor["images"] == 128
    assert floor["metrics"]["precision"] > 0.5
    figures = "  ".join(f"{name} {value:.4g}" for name, value in floor["metrics"].items())
    assert real == f"real images    {figures}"
    assert about == f"{'':13}  (128 training images against 128 others, as good as samples can be)"
    assert "recall 0" in samples
    assert remark == f"{'':13}  recall 0: no real image is near a sample, so precision means nothing here"


def test_with_few_real_images_halves_are_compared_and_it_is_said(
    tmp_path: Path, pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = evaluate(tmp_path, pets, "--metrics", "swd", "--samples", "200")
    *_, about, _, _ = capsys.readouterr().out.splitlines()
    assert record["real_against_real"]["images"] == 150  # type: ignore[index]
    assert about == (
        f"{'':13}  (150 training images against 150 others, as good as samples can be; 200 samples can have better "
        "figures, because there are more of them)"
    )
