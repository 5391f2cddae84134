"""`wgan evaluate` and `wgan features train`, on a run as training leaves it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from pipeline.cli import main
from tests.ranks import Ranks, read_metrics
from tests.shards import digits as digits_source
from tests.shards import write

SMALL = ["--samples", "128"]


@pytest.fixture
def run(ranks: Ranks, config: str, tmp_path: Path) -> Path:
    """A run of 20 steps that was evaluated at its end, with checkpoints at 10 and 20."""
    options = ["checkpoint.every=10", "quality.every=20", "quality.samples=128", "quality.keep_best=fid"]
    ranks.run(1, [config, *options])
    return tmp_path / "run"


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_evaluations_are_printed_and_kept_with_all_that_they_depend_on(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["evaluate", str(run), "--metrics", "fid", "recall", "--checkpoint", "10", "best", *SMALL]) == 0
    )
    out = capsys.readouterr().out
    assert "128 samples of the moving average (seed 0) against 128 training images" in out
    first, best = lines(run / "evaluations.jsonl")
    assert (first["step"], best["step"]) == (10, 20)
    kept = {name: first[name] for name in ("weights", "samples", "real", "seed", "features")}
    assert kept == {"weights": "ema", "samples": 128, "real": 128, "seed": 0, "features": "pixels"}
    assert set(first["metrics"]) == {"fid", "recall"}  # type: ignore[call-overload]
    assert f"step       10  fid {first['metrics']['fid']:.4g}" in out  # type: ignore[index]


def test_a_run_is_evaluated_afterwards_as_it_was_while_training(run: Path) -> None:
    assert main(["evaluate", str(run)]) == 0
    (line,) = lines(run / "evaluations.jsonl")
    trained = read_metrics(run)[-1]
    figures = line["metrics"]
    assert isinstance(figures, dict)
    assert {name: figures[name] for name in ("fid", "swd")} == pytest.approx(
        {"fid": trained["quality/fid_pixels"], "swd": trained["quality/swd"]}, rel=1e-6
    )


def test_a_picture_shows_what_samples_may_be_copies_of(run: Path) -> None:
    assert main(["evaluate", str(run), "--metrics", "fid", "--neighbours", *SMALL]) == 0
    with Image.open(run / "samples" / "step_00000020-neighbours.png") as picture:
        assert picture.size == (8 * (32 + 2) + 2, 8 * (32 + 2) + 2)


def test_all_checkpoints_and_the_last_weights_can_be_judged(run: Path) -> None:
    assert main(["evaluate", str(run), "--checkpoint", "all", "--no-ema", "--metrics", "swd", *SMALL]) == 0
    assert [(line["step"], line["weights"]) for line in lines(run / "evaluations.jsonl")] == [
        (10, "generator"),
        (20, "generator"),
    ]


def test_a_classifier_is_trained_and_judges(
    run: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "digits.safetensors"
    assert main(["features", "train", str(digits), "--epochs", "12", "--out", str(file)]) == 0
    out = capsys.readouterr().out
    assert float(out.split("right about ")[1].split("%")[0]) > 70
    judged = [
        "--features",
        "classifier",
        "--classifier",
        str(file),
        "--metrics",
        "fid",
        "modes",
        "class_distance",
    ]
    assert main(["evaluate", str(run), *judged, *SMALL]) == 0
    (line,) = lines(run / "evaluations.jsonl")
    assert str(line["features"]).startswith("classifier ")
    assert set(line["metrics"]) == {"fid", "modes", "class_distance"}  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["--checkpoint", "ten"],
            2,
            "--checkpoint ten: give steps, such as 1000 2000, or the word best or all.",
        ),
        (["--checkpoint", "15"], 4, "has no checkpoint of step 15; it has 10, 20."),
        (["--metrics", "speed"], 2, "quality.metrics"),
        (["--metrics", "copied"], 2, "copied compares samples with held-out images, and 0 are held out"),
        (["--features", "classifier"], 2, "quality.features: classifier needs a trained one."),
        (["--samples", "10"], 2, "quality.samples"),
        (["--processes", "0"], 2, "--processes 0: at least one process is needed."),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    arguments: list[str], code: int, message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run), *arguments]) == code
    assert message in capsys.readouterr().err
    assert not (run / "evaluations.jsonl").exists()


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "is no run: it holds no config.yaml" in capsys.readouterr().err


def test_what_the_run_needed_to_train_is_not_needed_to_judge_it(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run / "config.yaml"
    content = yaml.safe_load(config.read_text())
    content["runtime"] |= {"device": "cuda", "processes": 4}
    content["precision"] = "fp16"
    config.write_text(yaml.safe_dump(content))
    assert main(["evaluate", str(run), "--metrics", "swd", *SMALL, "--processes", "1"]) == 0


def test_two_processes_share_the_work_whatever_way_they_are_asked_for(run: Path) -> None:
    for words in (["--proc", "2"], ["--processes=2"]):
        command = [
            sys.executable,
            "-m",
            "pipeline.cli",
            "evaluate",
            str(run),
            "--metrics",
            "swd",
            *SMALL,
            *words,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
    assert main(["evaluate", str(run), "--metrics", "swd", *SMALL]) == 0
    figures = [line["metrics"] for line in lines(run / "evaluations.jsonl")]
    assert figures[0] == figures[1] == figures[2]


def test_shards_of_other_images_than_the_run_draws_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(digits_source(), tmp_path / "other", 8, 1, 500)
    config = run / "config.yaml"
    content = yaml.safe_load(config.read_text())
    content["data"]["shards"] = str(tmp_path / "other")
    config.write_text(yaml.safe_dump(content))
    assert main(["evaluate", str(run), *SMALL]) == 2
    assert "draws images of (channels, height, width) (1, 16, 16), and the shards" in capsys.readouterr().err
