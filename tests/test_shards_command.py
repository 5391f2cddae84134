"""`wgan shards`: what each command prints and returns."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pipeline.data.manifest import load_manifest
from pipeline.errors import ConfigError, StorageError
from pipeline.shards_command import add_parser


def run(*words: object) -> int:
    parser = argparse.ArgumentParser(prog="wgan")
    add_parser(parser.add_subparsers(required=True))
    arguments = parser.parse_args(["shards", *map(str, words)])
    return int(arguments.func(arguments))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        Image.new("RGB", (20, 30), "brown").save(tmp_path / "pets" / name / "1.png")
    return tmp_path / "pets"


def test_make_check_and_show_work_one_after_the_other(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shards"
    assert run("make", folder, out, "--resolution", 16) == 0
    printed = capsys.readouterr().out
    assert f"made {out}: 2 images of 16 x 16 colour, 2 classes, 1 shard, " in printed
    assert f"next: wgan shards show {out}" in printed

    assert run("check", out) == 0
    assert f"{out} is sound: 2 images" in capsys.readouterr().out

    assert run("show", out, "--out", tmp_path / "sheet.png", "--rows", 1, "--columns", 2) == 0
    assert f"drew {tmp_path / 'sheet.png'}" in capsys.readouterr().out
    assert Image.open(tmp_path / "sheet.png").mode == "RGB"


def test_the_sheet_is_called_after_the_shards_by_default(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("make", folder, tmp_path / "shards", "--resolution", 16)
    monkeypatch.chdir(tmp_path)
    assert run("show", "shards") == 0
    assert (tmp_path / "shards.png").is_file()


def test_a_second_make_says_that_there_is_nothing_to_do(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("make", folder, tmp_path / "shards", "--resolution", 16)
    run(*command)
    capsys.readouterr()
    assert run(*command) == 0
    assert "is complete already: nothing to do" in capsys.readouterr().out
    assert run(*command, "--overwrite") == 0
    assert "made " in capsys.readouterr().out


def test_a_named_source_brings_its_own_resolution_and_channels(tmp_path: Path) -> None:
    assert run("make", "digits", tmp_path / "own") == 0
    assert run("make", "digits", tmp_path / "chosen", "--resolution", 8, "--channels", 3) == 0
    own, chosen = load_manifest(tmp_path / "own"), load_manifest(tmp_path / "chosen")
    assert (own.resolution, own.channels) == ((16, 16), 1)
    assert (chosen.resolution, chosen.channels) == ((8, 8), 3)


def test_a_folder_needs_a_resolution(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no resolution of its own\. Give one: --resolution 64"):
        run("make", folder, tmp_path / "shards")
    assert not (tmp_path / "shards").exists()


def test_check_prints_each_finding_and_returns_3(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shards"
    run("make", folder, out, "--resolution", 16, "--samples-per-shard", 1)
    for name in ("000000.tar", "000001.npy"):
        (out / name).unlink()
    capsys.readouterr()
    assert run("check", out) == 3
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [f"{out / '000000.tar'}: missing", f"{out / '000001.npy'}: missing"]
    assert "2 defects found. Copy the files again" in captured.err


def test_a_sheet_that_cannot_be_written_is_a_storage_error(folder: Path, tmp_path: Path) -> None:
    run("make", folder, tmp_path / "shards", "--resolution", 16)
    with pytest.raises(StorageError, match=r"none/sheet\.png cannot be written: No such file"):
        run("show", tmp_path / "shards", "--out", tmp_path / "none" / "sheet.png")


@pytest.mark.parametrize("command", ["make", "check", "show"])
def test_help_shows_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(command, "--help")
    assert stopped.value.code == 0
    assert f"examples:\n  wgan shards {command} " in capsys.readouterr().out


def test_the_parser_is_built_without_importing_any_heavy_library() -> None:
    program = (
        "import argparse, sys\n"
        "from pipeline.shards_command import add_parser\n"
        "add_parser(argparse.ArgumentParser().add_subparsers())\n"
        "print({'torch', 'torchvision', 'sklearn', 'webdataset', 'numpy'} & set(sys.modules))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "set()"
