"""Commands whose output nobody reads: `wgan ... | head` ends without a traceback, and training goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.unread_output import EXIT_CODE, exit_code_of
from tests.ranks import read_note


def run_unread(*words: str, errors_too: bool = False) -> subprocess.CompletedProcess[str]:
    """A command that writes to a pipe without a reader."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(
            [sys.executable, *words],
            stdout=writer,
            stderr=writer if errors_too else subprocess.PIPE,
            text=True,
            check=False,
            env=os.environ | {"PYTHONUNBUFFERED": ""},
        )
    finally:
        os.close(writer)


@pytest.mark.parametrize(
    "words",
    [
        ("-m", "pipeline.cli", "--version"),
        ("-m", "pipeline.cli", "--help"),
        ("-m", "pipeline.train", "--help"),
    ],
)
def test_a_command_that_has_said_all_ends_as_always(words: tuple[str, ...]) -> None:
    done = run_unread(*words)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_command_that_cannot_go_on_talking_ends_with_141() -> None:
    done = run_unread("-u", "-m", "pipeline.cli", "configs")
    assert (done.returncode, done.stderr) == (EXIT_CODE, "")
    assert EXIT_CODE == 141


def test_an_error_that_nobody_reads_ends_without_a_traceback() -> None:
    assert run_unread("-m", "pipeline.cli", "train", "nosuch", errors_too=True).returncode == EXIT_CODE


def test_a_pipe_of_ours_that_breaks_is_an_error() -> None:
    def main() -> int:
        raise BrokenPipeError("a pipe between processes")

    with pytest.raises(BrokenPipeError, match="between processes"):
        exit_code_of(main)


@pytest.mark.slow
def test_training_goes_on_when_nobody_reads_its_output(config: str, tmp_path: Path) -> None:
    done = run_unread("-m", "pipeline.train", config, "schedule.steps=3")
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0)
    assert read_note(tmp_path / "run", "DONE")["reason"] == "all 3 steps are done"
