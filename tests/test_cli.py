"""The `wgan` command, as a user types it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pipeline.cli import main
from tests.ranks import Ranks


@pytest.fixture
def trained(config: str, tmp_path: Path, ranks: Ranks) -> Path:
    """A run of 4 steps with checkpoints of steps 2 and 4."""
    ranks.run(1, [config, "schedule.steps=4", "checkpoint.every=2"])
    return tmp_path / "run"


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; from pipeline.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as e: print(e.code, 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "0 False"
    for command in ("shards", "train", "sample", "doctor"):
        assert command in result.stdout


def test_sample_writes_a_grid_of_the_newest_moving_average(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", str(trained), "--count", "9"]) == 0
    path = trained / "samples" / "step_00000004-ema-seed0.png"
    assert str(path) in capsys.readouterr().out
    with Image.open(path) as grid:
        assert grid.size == (3 * 34 + 2, 3 * 34 + 2)


def test_the_same_seed_draws_the_same_images_and_another_seed_others(trained: Path, tmp_path: Path) -> None:
    pictures = []
    for number, seed in enumerate(("3", "3", "4")):
        out = tmp_path / f"{number}.png"
        assert main(["sample", str(trained), "--count", "4", "--seed", seed, "--out", str(out)]) == 0
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


def test_sample_can_take_an_older_checkpoint_and_the_last_weights(trained: Path, tmp_path: Path) -> None:
    pictures = set()
    for number, words in enumerate(([], ["--checkpoint", "2"], ["--no-ema"])):
        out = tmp_path / f"{number}.png"
        assert main(["sample", str(trained), "--count", "4", "--out", str(out), *words]) == 0
        pictures.add(out.read_bytes())
    assert len(pictures) == 3


def test_sample_writes_one_file_for_each_image(trained: Path, tmp_path: Path) -> None:
    assert main(["sample", str(trained), "--count", "5", "--files", "--out", str(tmp_path / "images")]) == 0
    files = sorted((tmp_path / "images").iterdir())
    assert [path.name for path in files] == [f"{number:06d}.png" for number in range(5)]
    with Image.open(files[0]) as image:
        assert (image.size, image.mode) == ((16, 16), "L")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["sample", "{run}", "--checkpoint", "3"], 4, "has no checkpoint of step 3; it has 2, 4"),
        (["sample", "{run}/samples"], 2, "is no run: it holds no config.yaml"),
        (["sample", "{run}", "--count", "0"], 2, "at least one image must be drawn"),
        (["train", "{run}/config.yaml", "schedule.step=5"], 2, "did you mean schedule.steps?"),
        (["train", "{run}/config.yaml", "--processes", "0"], 2, "at least one process is needed"),
        (["doctor", "{run}/absent.yaml"], 2, "There is no config"),
    ],
)
def test_mistakes_are_said_with_their_exit_code(
    trained: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    assert main([word.format(run=trained) for word in words]) == code
    assert message in capsys.readouterr().err


def test_sample_says_which_file_of_a_checkpoint_is_damaged(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = trained / "checkpoints" / "step_00000002" / "ema.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["sample", str(trained), "--checkpoint", "2"]) == 4
    assert "ema.safetensors has changed" in capsys.readouterr().err


def test_doctor_shows_versions_devices_ranks_and_what_a_config_would_use(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", config, "runtime.device=cpu", "data.cache=none"]) == 0
    shown = capsys.readouterr().out
    for text in ("torch", "accelerate", "logical cores", "gloo", "600 of 16x16x1 in 5 shards", "none:"):
        assert text in shown


def test_train_with_two_processes_becomes_the_launcher(config: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "train", config, "schedule.steps=2", "--processes", "2"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "2 x CPU (gloo)" in result.stdout
    assert (tmp_path / "run" / "DONE").exists()
