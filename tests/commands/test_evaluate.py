"""`wgan evaluate` and `wgan features train`, on a run as training leaves it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from PIL import Image

from pipeline.cli import main
from pipeline.commands.judging import append_record, neighbours_name
from pipeline.run.checkpoint import Checkpoint
from tests.ranks import read_metrics
from tests.shards import digits as digits_source
from tests.shards import write
from tests.trained import train

SMALL = ["--samples", "128"]


@pytest.fixture(scope="module")
def trained(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 steps that was evaluated at its end, with checkpoints at 10 and 20."""
    options = ["checkpoint.every=10", "quality.every=20", "quality.samples=128", "quality.keep_best=fid"]
    return train(tmp_path_factory.mktemp("trained"), digits, options)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of that run, for a test to change."""
    return shutil.copytree(trained, tmp_path / "run")


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_evaluations_are_printed_and_recorded_with_all_they_depend_on(
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
    assert kept == {"weights": "ema", "samples": 128, "real": 128, "seed": 0, "features": "pixels 2"}
    assert set(first["metrics"]) == {"fid", "recall"}  # type: ignore[call-overload]
    assert f"step       10  fid {first['metrics']['fid']:.4g}" in out  # type: ignore[index]


def test_a_run_is_evaluated_afterwards_as_it_was_while_training(run: Path) -> None:
    assert main(["evaluate", str(run)]) == 0
    (line,) = lines(run / "evaluations.jsonl")
    trained = read_metrics(run)[-1]
    figures = line["metrics"]
    assert isinstance(figures, dict)
    assert {name: figures[name] for name in ("fid", "swd")} == pytest.approx(
        {"fid": trained["quality/fid_pixels2"], "swd": trained["quality/swd"]}, rel=1e-6
    )


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "checkpoints" / "step_00000020" / "ema.safetensors").unlink()
    assert main(["evaluate", str(run), "--metrics", "swd", *SMALL]) == 0
    assert [line["step"] for line in lines(run / "evaluations.jsonl")] == [10]
    assert (
        capsys.readouterr().err.count("ema.safetensors is missing; the checkpoint of step 10 is used instead")
        == 1
    )


def test_a_picture_shows_what_samples_may_be_copies_of(run: Path) -> None:
    assert main(["evaluate", str(run), "--metrics", "fid", "--neighbours", *SMALL]) == 0
    with Image.open(run / "samples" / "step_00000020-neighbours-ema-seed0-pixels-2.png") as picture:
        assert picture.size == (8 * (32 + 2) + 2, 8 * (32 + 2) + 2)


def test_pictures_of_other_weights_and_seeds_are_kept_apart(run: Path) -> None:
    for words in ([], ["--no-ema"], ["--seed", "3"]):
        assert main(["evaluate", str(run), "--metrics", "swd", "--neighbours", *SMALL, *words]) == 0
    assert sorted(path.name for path in (run / "samples").glob("*neighbours*")) == [
        "step_00000020-neighbours-ema-seed0-pixels-2.png",
        "step_00000020-neighbours-ema-seed3-pixels-2.png",
        "step_00000020-neighbours-generator-seed0-pixels-2.png",
    ]


def test_a_picture_of_named_features_has_a_name_without_spaces() -> None:
    record = {"step": 20, "weights": "ema", "seed": 0, "features": "classifier 1f0c2a9e"}
    assert neighbours_name(record) == "step_00000020-neighbours-ema-seed0-classifier-1f0c2a9e.png"


def test_a_record_after_a_line_that_was_cut_has_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    append_record(path, {"step": 1})
    with path.open("a") as file:
        file.write('{"step": 2, "wei')
    append_record(path, {"step": 3})
    append_record(path, {"step": 4})
    assert path.read_text().split("\n") == [
        '{"step": 1}',
        '{"step": 2, "wei',
        '{"step": 3}',
        '{"step": 4}',
        "",
    ]


def test_all_checkpoints_and_the_last_weights_can_be_evaluated(run: Path) -> None:
    assert main(["evaluate", str(run), "--checkpoint", "all", "--no-ema", "--metrics", "swd", *SMALL]) == 0
    assert [(line["step"], line["weights"]) for line in lines(run / "evaluations.jsonl")] == [
        (10, "generator"),
        (20, "generator"),
    ]


@pytest.mark.slow
def test_a_classifier_is_trained_and_then_measures(
    run: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "digits.safetensors"
    assert main(["features", "train", str(digits), "--epochs", "12", "--out", str(file)]) == 0
    out = capsys.readouterr().out
    assert float(out.split("accuracy ")[1].split("%")[0]) > 70
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
    assert line["classifier"] == line["features"]
    assert set(line["metrics"]) == {"fid", "modes", "class_distance"}  # type: ignore[call-overload]
    for metric in ("modes", "swd"):
        assert main(["evaluate", str(run), "--classifier", str(file), "--metrics", metric, *SMALL]) == 0
    counted, uncounted = lines(run / "evaluations.jsonl")[1:]
    assert (counted["features"], counted["classifier"]) == ("pixels 2", line["classifier"])
    assert "classifier" not in uncounted


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["--checkpoint", "ten"],
            2,
            "--checkpoint: invalid value ten: expected steps, such as 1000 2000, best or all.",
        ),
        (
            ["--checkpoint", "best", "all"],
            2,
            "--checkpoint best all: all already means every checkpoint, so it cannot be combined with others.",
        ),
        (["--checkpoint", "15"], 4, "has no checkpoint of step 15; it has 10, 20."),
        (
            ["--metrics", "speed"],
            2,
            "error (exit 2): --metrics: invalid value 'speed': expected one of 'fid', 'kid'",
        ),
        (["--metrics", "copied"], 2, "copied needs at least 6 held-out images"),
        (["--features", "classifier"], 2, "need a classifier, and the run has none. Make one with"),
        (["--metrics", "fid", "modes"], 2, "and name it with --classifier FILE."),
        (
            ["--samples", "0"],
            2,
            "error (exit 2): --samples 0: expected a whole number from 128 to 1,000,000",
        ),
        (["--shards", "nowhere"], 3, "The shard directory nowhere does not exist."),
        (["--processes", "0"], 2, "--processes 0: expected a whole number from 1 to 256"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    arguments: list[str], code: int, message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run), *arguments]) == code
    assert message in capsys.readouterr().err
    assert not (run / "evaluations.jsonl").exists()


def test_a_directory_that_is_not_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "is not a run directory: it has no config.yaml" in capsys.readouterr().err


def test_evaluation_does_not_need_what_training_needed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = run / "config.yaml"
    content = yaml.safe_load(config.read_text())
    content["runtime"] |= {"device": "cuda", "processes": 4}
    content["precision"] = "fp16"
    config.write_text(yaml.safe_dump(content))
    assert main(["evaluate", str(run), "--metrics", "swd", *SMALL, "--processes", "1"]) == 0


def start(run: Path, words: list[str], **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipeline.cli", "evaluate", str(run), "--metrics", "swd", *words]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
        start_new_session=True,
    )


@pytest.mark.slow
def test_two_processes_share_the_work_and_measure_the_same(run: Path) -> None:
    # Clusters set WORLD_SIZE for processes that are no ranks.
    process = start(run, [*SMALL, "--proc", "2"], WORLD_SIZE="3")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert main(["evaluate", str(run), "--metrics", "swd", *SMALL]) == 0
    figures = [line["metrics"] for line in lines(run / "evaluations.jsonl")]
    assert figures[0] == figures[1]


def test_mistakes_are_reported_once_before_ranks_start(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.commands.judging.launch", lambda *_: pytest.fail("ranks were started"))
    for words, code in ((["--checkpoint", "15"], 4), (["--shards", "nowhere"], 3), (["--seed", "-1"], 2)):
        assert main(["evaluate", str(run), *SMALL, "--processes", "2", *words]) == code
        assert capsys.readouterr().err.count("error (exit") == 1


@pytest.mark.slow
def test_an_interrupt_ends_all_ranks_at_once(run: Path) -> None:
    process = start(run, ["--samples", "1000000", "--processes", "2"])
    assert process.stdout is not None
    assert "1,000,000 samples" in process.stdout.readline()
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    # The ranks hold the other ends of the pipes.
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 15
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("interrupted: Stopped by SIGINT.")
    assert "Traceback" not in errors


def test_a_run_whose_shards_have_moved_is_evaluated_with_named_ones(
    run: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run / "config.yaml"
    content = yaml.safe_load(config.read_text())
    content["data"]["shards"] = "moved/away"
    config.write_text(yaml.safe_dump(content))
    assert main(["evaluate", str(run), "--metrics", "swd", *SMALL]) == 3
    assert "If the run's shards have moved, name their place with --shards." in capsys.readouterr().err
    assert main(["evaluate", str(run), "--metrics", "swd", *SMALL, "--shards", str(digits)]) == 0
    printed = capsys.readouterr()
    assert f"training images of {digits}" in printed.out
    assert "warning" not in printed.err


def test_shards_that_the_run_was_not_trained_on_give_a_warning(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    write(digits_source(), other, 16, 1, 500)
    assert main(["evaluate", str(run), "--metrics", "swd", *SMALL, "--shards", str(other)]) == 0
    (line,) = lines(run / "evaluations.jsonl")
    trained = Checkpoint(run / "checkpoints" / "step_00000020", 20).facts().identity.manifest
    assert capsys.readouterr().err.splitlines() == [
        f"warning: the run was trained on shards {trained[:8]}, and these are {str(line['manifest'])[:8]} (SHA-256 of "
        "the manifest), so the figures are not for the images that it was trained on"
    ]


def test_shards_of_other_images_than_the_run_draws_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    write(digits_source(), other, 8, 1, 500)
    assert main(["evaluate", str(run), *SMALL, "--shards", str(other)]) == 2
    message = capsys.readouterr().err
    assert "draws images of (channels, height, width) (1, 16, 16), and the shards" in message
    assert f"of {other} hold (1, 8, 8). Name the run's own with --shards." in message
