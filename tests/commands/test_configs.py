"""`wgan configs`, as a user types it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.config import load_config


def test_configs_says_of_each_preset_what_it_is_and_how_to_run_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["configs"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("digits: A first run: scanned digits of 16 x 16 pixels, ")
    blocks = {block.partition(":")[0]: block.splitlines()[1:] for block in shown.split("\n\n")}
    assert blocks["digits"] == [
        "  wgan shards make digits data/digits",
        "  wgan train digits",
        "  duration: about 90 seconds on two cores",
    ]
    assert {"mnist", "mnist-gp", "lsgan", "wgan-cifar10"} <= blocks.keys()


def test_configs_prints_a_preset_that_trains_as_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["configs", "mnist"]) == 0
    copy = tmp_path / "mine.yaml"
    copy.write_text(capsys.readouterr().out)
    assert load_config(copy) == load_config(Path("mnist"))


def test_configs_refuses_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", "digit"]) == 2
    assert "Did you mean digits" in capsys.readouterr().err
