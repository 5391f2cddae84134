"""Every command that takes the newest checkpoint says so if it takes an earlier one, because the newest is damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import pipeline
from pipeline.cli import main
from pipeline.errors import CheckpointError
from pipeline.models import build_critic, build_generator
from pipeline.options import InitOptions
from pipeline.run.checkpoint import Checkpoint, list_checkpoints
from pipeline.run.generator import checkpoint_of, open_run
from pipeline.run.initial_weights import load_initial_weights
from tests.trained import SMALL, newest, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with checkpoints at steps 2 and 4; one bit of the second has changed."""
    run = write_run(tmp_path)
    file = newest(run) / "ema.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    return run


def load_into_new_networks(run: Path) -> int:
    networks = build_generator(SMALL, 8, 1), build_critic(SMALL, 8, 1)
    return len(load_initial_weights(InitOptions(generator=str(run)), *networks, (1, 8, 8))) - 1


@pytest.mark.parametrize(
    "act",
    [
        lambda run: main(["sample", str(run), "--count", "1"]),
        lambda run: main(["interpolate", str(run), "--seeds", "0-1", "--positions", "2"]),
        lambda run: main(["export", str(run), "--format", "safetensors", "--out", str(run / "g.safetensors")]),
        lambda run: pipeline.load_generator(run).card.step - 2,
        lambda run: open_run(run, None)[1].step - 2,
        lambda run: checkpoint_of(run) != Checkpoint(run / "checkpoints" / "step_00000002", 2),
        load_into_new_networks,
    ],
    ids=["sample", "interpolate", "export", "load_generator", "open_run", "checkpoint_of", "init_from"],
)  # fmt: skip
def test_it_is_said_that_the_newest_checkpoint_is_passed_over(
    act: Callable[[Path], int], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert act(run) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {newest(run) / 'ema.safetensors'} has changed: ")
    assert line.endswith("; the checkpoint of step 2 is used instead")


def test_a_step_that_is_named_is_used_or_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", str(run), "--count", "1", "--checkpoint", "2"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["sample", str(run), "--count", "1", "--checkpoint", "4"]) == 4
    assert "has changed" in capsys.readouterr().err


def test_a_run_without_a_checkpoint_that_can_be_used_is_refused_with_every_reason(run: Path) -> None:
    (run / "checkpoints" / "step_00000002" / "state.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"(?s)None of .* can be used:.*ema.*changed.*state\.json is missing"
    ):
        pipeline.load_generator(run)
    for checkpoint in list_checkpoints(run / "checkpoints"):
        shutil.rmtree(checkpoint.path)
    with pytest.raises(CheckpointError, match="has no checkpoint: the run has saved none yet"):
        pipeline.load_generator(run)
