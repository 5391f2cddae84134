"""The `wgan` command, as a user types it."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from PIL import Image

from pipeline.cli import _parse, main
from pipeline.commands.train import default_processes
from pipeline.options import RuntimeOptions
from pipeline.run.latents import latent_batches
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
    for command in ("shards", "train", "sample", "plot", "doctor"):
        assert command in result.stdout


def test_the_parser_imports_nothing_heavy_and_is_quick() -> None:
    code = (
        "import sys, time; before = time.process_time(); from pipeline.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "spent = time.process_time() - before\n"
        "heavy = {'torch', 'torchvision', 'matplotlib', 'PIL', 'numpy', 'pydantic', 'yaml', 'accelerate', 'sklearn'}\n"
        "print(sorted(heavy & sys.modules.keys()), spent < 0.5 or spent)"
    )
    # The least of three: the machine may be busy with other tests.
    lines = set()
    for _ in range(3):
        lines.add(subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()[-1])
    assert "[] True" in lines, lines
    assert all(line.startswith("[] ") for line in lines)


def test_the_version_is_of_this_package_and_of_torch_unimported() -> None:
    code = (
        "import sys; from pipeline.cli import main\n"
        "try: main(['--version'])\n"
        "except SystemExit as e: print(e.code, 'torch' in sys.modules)"
    )
    shown = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    assert shown == [f"wgan {version('wgan-pipeline')} (torch {version('torch')})", "0 False"]


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
        (["sample", "{run}/samples"], 2, "is not a run directory: it has no config.yaml"),
        (["sample", "{run}", "--count", "0"], 2, "--count 0: expected a whole number from 1 to 10,000,000"),
        (
            ["sample", "{run}", "--seed", "-1"],
            2,
            "--seed -1: expected a whole number from 0 to 9,223,372,036,854,775,807",
        ),
        (
            ["sample", "{run}", "--count", "10001"],
            2,
            "do not fit into one picture: a grid has at most 10,000. Add --files",
        ),
        (["sample", "{run}", "--out", "{run}"], 2, "is a directory, and a grid is one file"),
        (["plot", "{run}/samples"], 2, "is not a run directory: it has no config.yaml"),
        (["plot", "{run}", "--out", "{run}/config.yaml"], 2, "config.yaml is a file, and plots ("),
        (["train", "{run}/config.yaml", "schedule.step=5"], 2, "did you mean schedule.steps?"),
        (
            ["train", "{run}/config.yaml", "--processes", "0"],
            2,
            "--processes 0: expected a whole number from 1 to 256",
        ),
        (
            ["train", "{run}/config.yaml", "runtime.processes=2000", "schedule.global_batch=2000"],
            2,
            "runtime.processes: 2,000 ranks are more than one machine can hold",
        ),
        (["doctor", "{run}/absent.yaml"], 2, "There is no config"),
        (["train", "nosuch"], 2, "Name a YAML file or a preset: digits, mnist"),
        (
            ["doctor", "{run}/config.yaml", "schedule.global_batch=5000"],
            3,
            "fewer than one batch of 5000",
        ),
        (["doctor", "{run}/config.yaml", "precision=fp16"], 2, "precision: fp16 needs a GPU"),
    ],
)
def test_mistakes_are_reported_with_their_exit_code(
    trained: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    assert main([word.format(run=trained) for word in words]) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["grid", "grid.xyz", "grid.jpg"])
def test_a_grid_is_a_png_and_its_name_says_so(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main(["sample", str(trained), "--count", "4", "--out", str(tmp_path / name)]) == 2
    assert f"{name}: a grid is written as .png, and this name" in capsys.readouterr().err
    assert not (tmp_path / name).exists()
    assert main(["sample", str(trained), "--count", "4", "--out", str(tmp_path / "grid.PNG")]) == 0
    with Image.open(tmp_path / "grid.PNG") as grid:
        assert grid.format == "PNG"


def test_an_image_of_a_seed_does_not_depend_on_how_many_are_drawn() -> None:
    few, many = (torch.cat(list(latent_batches(3, count, seed=2))) for count in (301, 600))
    assert (few.shape, many.shape) == ((301, 3), (600, 3))
    assert torch.equal(few, many[:301])
    assert len(many.unique()) == 1800, "no batch repeats another"


def test_sample_refuses_a_config_that_was_changed_after_training(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = trained / "config.yaml"
    path.write_text(path.read_text().replace("  width: 8\n", "  width: 16\n"))
    assert main(["sample", str(trained)]) == 4
    assert "step_00000004 belongs to other networks" in capsys.readouterr().err


def test_sample_says_which_file_of_a_checkpoint_is_damaged(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = trained / "checkpoints" / "step_00000002" / "ema.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["sample", str(trained), "--checkpoint", "2"]) == 4
    assert "ema.safetensors has changed" in capsys.readouterr().err


def test_plot_draws_what_training_left(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", str(trained)]) == 0
    assert capsys.readouterr().out.split() == [str(trained / "curves.png"), str(trained / "training.gif")]
    with Image.open(trained / "training.gif") as animation:
        assert animation.n_frames == 1  # type: ignore[attr-defined]


def test_doctor_shows_versions_devices_ranks_and_what_a_config_would_use(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", config, "runtime.device=cpu", "data.cache=none", "runtime.threads=3"]) == 0
    shown = capsys.readouterr().out
    for text in (
        "torch",
        "accelerate",
        "logical core",
        "/dev/shm",
        "gloo",
        "600 images of 16x16x1 in 5 shards",
        "none (",
    ):
        assert text in shown
    assert "torch threads  3 in each rank" in shown
    assert "600 training images, 0 held out" in shown
    assert "each checked by its size" in shown


@pytest.mark.parametrize(
    ("override", "code", "message"),
    [
        ("schedule.global_batch=601", 3, "has 600 training images, fewer than one batch of 601"),
        ("data.cache=device", 2, "data.cache: device needs a GPU"),
    ],
)
def test_doctor_ends_with_the_error_that_a_run_would(
    config: str, capsys: pytest.CaptureFixture[str], override: str, code: int, message: str
) -> None:
    assert main(["doctor", config, override]) == code
    shown = capsys.readouterr()
    assert message in shown.err
    assert "torch threads" in shown.out, "the machine is shown in any case"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (RuntimeOptions(processes=3), 3),
        (RuntimeOptions(processes=3, device="cpu"), 3),
        (RuntimeOptions(device="cpu"), 1),
        (RuntimeOptions(device="cuda"), 4),
        (RuntimeOptions(), 4),
    ],
)
def test_without_a_number_the_config_or_the_gpus_choose_how_many_ranks(
    options: RuntimeOptions, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert default_processes(options) == expected


def test_overrides_may_come_before_and_after_flags(capsys: pytest.CaptureFixture[str]) -> None:
    parsed = _parse(["train", "a.yaml", "seed=1", "--processes", "2", "name=b", "data.shards=c"])
    assert (parsed.overrides, parsed.processes) == (["seed=1", "name=b", "data.shards=c"], 2)
    for words in (
        ["train", "a.yaml", "--processes", "2", "--fresh=1"],
        ["plot", "runs/a", "--out", "b", "seed=1"],
    ):
        with pytest.raises(SystemExit):
            _parse(words)
        assert f"unrecognized arguments: {words[-1]}" in capsys.readouterr().err


def test_an_error_is_told_even_if_a_cluster_sets_local_rank(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(["train", "no_such_config"]) == 2
    assert capfd.readouterr().err.count("error (exit 2)") == 1
