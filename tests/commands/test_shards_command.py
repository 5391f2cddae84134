"""`wgan shards`: what each command prints and returns."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pipeline.commands.shards import add_parser
from pipeline.data.format.manifest import load_manifest
from pipeline.errors import ConfigError, DataError, StorageError
from pipeline.option_types import MAX_SIDE


def run(*words: object) -> int:
    parser = argparse.ArgumentParser(prog="wgan")
    add_parser(parser.add_subparsers(required=True))
    arguments = parser.parse_args(["shards", *map(str, words)])
    arguments.words = ["shards", *map(str, words)]
    return int(arguments.func(arguments))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in (("cat", "brown"), ("dog", "grey")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        Image.new("RGB", (20, 30), colour).save(tmp_path / "pets" / name / "1.png")
    return tmp_path / "pets"


def test_make_check_and_show_work_together(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shards"
    assert run("make", folder, out, "--resolution", 16) == 0
    printed = capsys.readouterr().out
    assert f"made {out}: 2 images of 16 x 16 in colour, 2 classes, 1 shard, " in printed
    assert f"next: wgan shards show {out}" in printed

    assert run("check", out) == 0
    assert f"{out} is valid: 2 images" in capsys.readouterr().out

    assert run("show", out, "--out", tmp_path / "sheet.png", "--rows", 1, "--columns", 2) == 0
    assert f"drew {tmp_path / 'sheet.png'}" in capsys.readouterr().out
    assert Image.open(tmp_path / "sheet.png").mode == "RGB"


def test_the_sheet_is_named_after_the_shards_by_default(
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
    assert "is already complete: nothing to do" in capsys.readouterr().out
    assert run(*command, "--overwrite") == 0
    assert "made " in capsys.readouterr().out


def test_a_named_source_has_its_own_resolution_and_channels(tmp_path: Path) -> None:
    assert run("make", "digits", tmp_path / "own") == 0
    assert run("make", "digits", tmp_path / "chosen", "--resolution", 8, "--channels", 3) == 0
    own, chosen = load_manifest(tmp_path / "own"), load_manifest(tmp_path / "chosen")
    assert (own.resolution, own.channels) == ((16, 16), 1)
    assert (chosen.resolution, chosen.channels) == ((8, 8), 3)


def test_a_missing_resolution_is_that_of_images_of_one_size(folder: Path, tmp_path: Path) -> None:
    run("make", folder, tmp_path / "shards", "--encoding", "jpeg")
    assert load_manifest(tmp_path / "shards").resolution == (30, 20)
    Image.new("RGB", (21, 30)).save(folder / "dog" / "2.png")
    with pytest.raises(
        ConfigError, match=r"--resolution is missing: .* of pets have different sizes \(30 x 2"
    ):
        run("make", folder, tmp_path / "other")
    assert not (tmp_path / "other").exists()


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


def test_every_option_of_make_reaches_the_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    size = ("--resolution", "12x20", "--channels", 3, "--fit", "pad", "--encoding", "jpeg", "--quality", 80)
    which = ("--classes", "7,3", "--validation", 0.2, "--only-validation", "--limit", 50)
    assert run("make", "digits", out, *size, *which, "--samples-per-shard", 20, "--workers", 1) == 0
    manifest = load_manifest(out)
    assert (manifest.resolution, manifest.channels, manifest.classes) == ((12, 20), 3, ("7", "3"))
    assert (manifest.count, len(manifest.shards), manifest.encoding) == (50, 3, "jpeg")
    assert (manifest.plan["fit"], manifest.plan["quality"]) == ("pad", 80)
    assert "50 images of 12 x 20 in colour, 2 classes, 3 shards" in capsys.readouterr().out


def test_merged_parts_are_a_complete_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    for number in (1, 2):
        assert run("make", "digits", out, "--samples-per-shard", 500, "--part", f"{number}/2") == 0
        assert (
            f"made part {number}/2 in {out}; when all parts are made, run: wgan shards merge"
            in capsys.readouterr().out
        )
    assert run("merge", out) == 0
    assert f"merged {out}: 1,797 images of 16 x 16 in grey" in capsys.readouterr().out
    assert run("make", "digits", out, "--samples-per-shard", 500) == 0
    assert "is already complete" in capsys.readouterr().out


def test_images_that_were_left_out_are_counted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "cat" / "2.png").write_bytes(b"no image")
    command = ("make", folder, tmp_path / "out", "--resolution", 16)
    with pytest.raises(
        DataError, match=r"pets: cat/2\.png cannot be used: it is not an image in a supported .*--skip-bad N"
    ):
        run(*command)
    assert run(*command, "--skip-bad", 1) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"left out: 1 image that cannot be used (see {tmp_path}/out/bad-images.txt)"


def test_a_merge_counts_what_its_parts_left_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "cat" / "2.png").write_bytes(b"no image")
    part = ("--resolution", 16, "--samples-per-shard", 2, "--skip-bad", 1, "--part")
    for number in (1, 2):
        assert run("make", folder, tmp_path / f"{number}", *part, f"{number}/2") == 0
    assert run("merge", tmp_path / "out", tmp_path / "1", tmp_path / "2") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"left out: 1 image that cannot be used (see {tmp_path}/out/bad-images.txt)"


def test_the_usage_of_make_shows_one_source(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("make")
    assert " SOURCE OUT\n" in capsys.readouterr().err


def test_labels_background_and_limits_reach_the_shards(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "dog" / "1.json").write_text('{"kind": 1}')
    (folder / "cat" / "1.json").write_text('{"kind": 0}')
    (folder / "dog" / "2.png").write_bytes(b"no image")
    (folder / "dog" / "2.json").write_text('{"kind": 1}')
    (tmp_path / "names.txt").write_text("tabby\npoodle\n")
    form = ("--resolution", 16, "--fit", "pad", "--background", "red", "--skip-bad", "50%")
    which = ("--labels", "json:kind", "--class-names", tmp_path / "names.txt", "--images", "png")
    assert run("make", folder, tmp_path / "out", *form, *which) == 0
    manifest = load_manifest(tmp_path / "out")
    assert (manifest.count, manifest.classes, manifest.plan["background"]) == (
        2,
        ("tabby", "poodle"),
        [255, 0, 0],
    )
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"next: wgan shards show {tmp_path / 'out'}",
        "labels: from KEY.json: kind",
        f"left out: 1 image that cannot be used (see {tmp_path / 'out'}/bad-images.txt)",
    ]


def test_duplicates_are_counted_or_dropped(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(folder / "dog" / "1.png", folder / "dog" / "2.png")
    run("make", folder, tmp_path / "out")
    listed = tmp_path / "out" / "duplicates.txt"
    assert f"duplicates: 1 image equal to others, see {listed} (--drop-dup" in capsys.readouterr().out
    assert set(listed.read_text().split()) == {"dog/1.png", "dog/2.png"}
    run("make", folder, tmp_path / "out", "--drop-duplicates", "--overwrite")
    assert capsys.readouterr().out.splitlines()[-1] == f"left out: 1 copy of other images (see {listed})"


def test_several_sources_get_an_answer_that_fits(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"3 SOURCEs were given \(a\.tar, b\.tar, \.\.\.\), but a set of shards is"
    ):
        run("make", "a.tar", "b.tar", "c.tar", tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--labels", "jsn:x"), "--labels jsn:x is not known"),
        (("--background", "blu"), "--background blu is not a colour"),
        (("--skip-bad", "x"), "--skip-bad x is not a limit"),
        (("--part", "3/2"), "--part 3/2 does not exist"),
        (("--workers", 0), "--workers 0: expected a whole number from 1 to 1,024"),
        (("--validation", 1.5), "--validation 1.5 is out of range"),
        (("--only-validation",), "--only-validation needs --validation"),
        (("--limit", 0), "--limit 0: expected a whole number from 1 to 1,000,000,000"),
        (("--classes", "7,cat"), "digits has no class cat. Its classes: 0, 1, 2"),
        (("--classes", "7,7"), "--classes names a class twice"),
        (("--part", "1/2", "--overwrite"), "--overwrite with --part would remove the finished shards"),
    ],
)
def test_impossible_options_are_refused_before_writing(
    tmp_path: Path, words: tuple[object, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run("make", "digits", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


def test_a_set_is_never_made_in_its_own_source(folder: Path, tmp_path: Path) -> None:
    run("make", folder, tmp_path / "out", "--resolution", 16)
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    for out in (tmp_path / "out", tmp_path / "out" / "deeper"):
        with pytest.raises(ConfigError, match="is inside the other"):
            run("make", tmp_path / "out", out, "--resolution", 8, "--overwrite")
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before


def test_index_and_stats_print_what_they_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("make", "digits", tmp_path / "out", "--samples-per-shard", 500)
    for file in (tmp_path / "out").glob("*.*"):
        if file.suffix != ".tar":
            file.unlink()
    capsys.readouterr()
    assert run("index", tmp_path / "out") == 0
    assert (
        f"indexed {tmp_path / 'out'}: 1,797 images of 16 x 16 in grey, 10 classes" in capsys.readouterr().out
    )
    assert run("stats", tmp_path / "out") == 0
    assert "1,797" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["make", "merge", "index", "check", "show", "stats"])
def test_help_shows_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(command, "--help")
    assert stopped.value.code == 0
    assert f"examples:\n  wgan shards {command} " in capsys.readouterr().out


def test_the_parser_is_built_without_importing_any_heavy_library() -> None:
    program = (
        "import argparse, sys\n"
        "from pipeline.commands.shards import add_parser\n"
        "add_parser(argparse.ArgumentParser().add_subparsers())\n"
        "print({'torch', 'torchvision', 'sklearn', 'webdataset', 'numpy'} & set(sys.modules))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "set()"


def test_images_are_looked_at_in_sizes_that_a_run_can_have() -> None:
    for command in ("show", "stats"):
        with pytest.raises(ConfigError, match=f"--resolution 4097: .* from 1 to {MAX_SIDE:,}"):
            run(command, "data", "--resolution", MAX_SIDE + 1)
