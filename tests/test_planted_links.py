"""Links in the place of whatever a run and the commands write: nothing outside is changed, created or removed."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from matplotlib.figure import Figure

from pipeline.cli import main
from pipeline.commands.film import write_animation
from pipeline.commands.judging import append_record, draw_neighbours
from pipeline.data.format.manifest import load_manifest
from pipeline.data.inspecting.check import check_shards
from pipeline.data.inspecting.index_in_place import index_in_place
from pipeline.data.making.shard_directory import (
    DUPLICATES_NAME,
    agree_on_plan,
    find_record,
    read_plan,
)
from pipeline.data.making.shard_writer import Record, write_record
from pipeline.data.making.writer import _write_list
from pipeline.data.sources import Spec, open_source
from pipeline.data.sources.bad_images import BAD_NAME, BadImage
from pipeline.data.sources.class_names import read_class_names
from pipeline.durable import check_writable, remove_tree, write_text
from pipeline.errors import DataError, PipelineError
from pipeline.monitor import event_file
from pipeline.monitor.animation import draw_animation
from pipeline.monitor.files import AlarmLines, JsonLines, PngFiles
from pipeline.monitor.grids import encode_png, save_png
from pipeline.monitor.own_metrics import write_own_metrics
from pipeline.monitor.plots import _save
from pipeline.monitor.sinks import ALARM_PREFIX, Sink
from pipeline.monitor.tensorboard import TensorBoard
from pipeline.options import QualityOptions
from pipeline.quality.features.classifier import About, Classifier, save
from pipeline.run.checkpoint import save_checkpoint
from pipeline.run.directory import Ending, RunDirectory
from pipeline.run.generator import read_generator, write_exported
from tests import shards
from tests.commands.reports import write_lines
from tests.trained import write_run

GREY = torch.zeros(3, 8, 8, dtype=torch.uint8)
SECOND = 1_800_000_000

Write = Callable[[Path], object]
"""Writes the file that is meant into a directory."""


def start(run: Path) -> None:
    with RunDirectory(run) as directory:
        directory.start("name: x\n")


def end(word: Ending) -> Write:
    def write(run: Path) -> None:
        RunDirectory(run).mark(word, "why", 1)

    return write


def record(kind: Callable[[Path, int], Sink], name: str) -> Write:
    def write(run: Path) -> None:
        sink = kind(run / name, 1)
        sink.scalars(1, {"loss": 0.5})
        sink.text(1, f"{ALARM_PREFIX}x", "y")
        sink.close()

    return write


def write_events(run: Path) -> None:
    sink = TensorBoard(run, 1)
    sink.scalars(1, {"loss": 0.5})
    sink.close()


def write_grid(run: Path) -> None:
    with RunDirectory(run) as directory:
        PngFiles(directory.samples, "x", 1).images(1, "x", encode_png(GREY))


def write_classifier(place: Path) -> None:
    about = About(1, 8, 8, ("a", "b"), "5" * 64, 1, 0, 0.5, (0.5, 0.5))
    save(Classifier(1, 8, 8, 2), about, place / "x.classifier.safetensors")


def command(*words: str) -> Write:
    def run_command(run: Path) -> None:
        assert main([words[0], str(run), *words[1:]]) in (0, 2, 7)

    return run_command


def write_neighbours(run: Path) -> None:
    evaluation = SimpleNamespace(nearest_training_images=lambda *_: torch.zeros(8, 8, 3, 8, 8))
    runtime = SimpleNamespace(is_main=True, agreement=lambda: os.scandir(run))
    generator = SimpleNamespace(draw=None)
    draw_neighbours(evaluation, generator, run / "samples" / "neighbours.png", runtime)  # type: ignore[arg-type]


GRID = "samples/step_00000004-ema-seed0"
OF_A_RUN: Mapping[str, Write] = {
    "lock": start,
    "checkpoints": start,
    "samples": start,
    "config.yaml": start,
    ".config.yaml.tmp": start,
    "DONE": end("DONE"),
    "PREEMPTED": end("PREEMPTED"),
    "FAILED": end("FAILED"),
    "environment.json": lambda run: write_text(RunDirectory(run).environment, "{}"),
    "own_metrics.json": lambda run: write_own_metrics(
        run, QualityOptions(every=1, metrics=["tests.monitor.test_own_metrics:Sharpness"])
    ),
    f"events.out.tfevents.{SECOND}.host.7.0": write_events,
    "metrics.jsonl": record(JsonLines, "metrics.jsonl"),
    "alarms.jsonl": record(AlarmLines, "alarms.jsonl"),
    "evaluations.jsonl": lambda run: append_record(run / "evaluations.jsonl", {"step": 1}),
    "samples/step_00000001.png": write_grid,
    "samples/neighbours.png": write_neighbours,
    f"{GRID}.png": command("sample", "--count", "1"),
    f"{GRID}.npz": command("sample", "--count", "1", "--npz"),
    GRID: command("sample", "--count", "1", "--files"),
    "samples/step_00000004-ema-interpolation-seeds0-7.png": command("interpolate", "--positions", "2"),
    "report.html": command("report"),
    "curves.png": lambda run: _save(Figure(), run / "curves.png"),
    "training.gif": lambda run: draw_animation(run, run / "training.gif"),
    "checkpoints/step_00000009": lambda run: save_checkpoint(
        run / "checkpoints", 9, {"generator": {}}, {"step": 9}
    ),
    "checkpoints/.tmp_step_00000009": lambda run: save_checkpoint(
        run / "checkpoints", 9, {"generator": {}}, {"step": 9}
    ),
    "x.safetensors": lambda run: write_exported(read_generator(run), run / "x.safetensors"),
    "x.safetensors.json": lambda run: write_exported(read_generator(run), run / "x.safetensors"),
    "loop.gif": lambda run: write_animation(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), run / "loop.gif"),
    "x.classifier.safetensors": write_classifier,
    ".x.tmp": lambda run: check_writable(run / "x"),
}


WRITERS = {"write_text", "write_bytes", "touch", "mkdir", "makedirs", "symlink", "symlink_to", "hardlink_to"}
WRITERS |= {"link", "copy", "copy2", "copyfile", "copytree", "mkfifo", "mknod"}
WITHOUT_DURABLE = {
    "commands/film.py": "the library writes into a file that is open",
    "data/format/disk_cache.py": "the directory that the user named",
    "data/format/web.py": "into a directory that nobody else can write to",
    "data/making/shard_directory.py": "the directory that the user named",
    "data/making/writer.py": "a second name, which fails if there is anything in its place",
    "data/originals/opening.py": "the directory that the user named",
    "data/originals/records.py": "the directory that the user named",
    "data/reading/cache.py": "memory of this process, by its descriptor",
    "quality/features/inception.py": "torch's own directory for downloads",
    "run/checkpoint.py": "a directory that must be new",
    "run/directory.py": "the directory that the user named",
}


def writes(node: ast.AST) -> bool:
    """Whether this is a call that creates or changes a file or a directory."""
    if not isinstance(node, ast.Call):
        return False
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    values = [*node.args, *(keyword.value for keyword in node.keywords)]
    modes = [
        value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)
    ]
    if name in ("open", "fdopen"):
        return any(re.fullmatch(r"[rb]*[wax+][wax+tb]*", mode) for mode in modes)
    return isinstance(node.func, ast.Attribute) and name in WRITERS


def test_files_are_written_by_durable_alone() -> None:
    package = Path(__file__).parents[1] / "pipeline"
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if any(map(writes, ast.walk(ast.parse(path.read_text(encoding="utf-8")))))
    }
    assert found == {"durable.py", *WITHOUT_DURABLE}


def record_of(number: int) -> Record:
    return Record(None, (BadImage(f"../{number}", "why"),))


def make_set(place: Path) -> object:
    return shards.write(shards.noise(2), place)


OF_A_SET: Mapping[str, Write] = {
    ".making": make_set,
    ".plan.json": lambda place: agree_on_plan(place, {"source": "x"}),
    "000000.json": lambda place: write_record(place / "000000.tar", record_of(0)),
    "000000.tar": make_set,
    "000000.npy": make_set,
    "manifest.json": make_set,
    "bad-images.txt": lambda place: _write_list(place / BAD_NAME, [("x", "why")]),
    "duplicates.txt": lambda place: _write_list(place / DUPLICATES_NAME, [("x", "y")]),
    "sheet.png": lambda place: save_png(GREY, place / "sheet.png"),
}


def content_of(place: Path) -> dict[str, bytes | None]:
    """All that is in a directory, by its path."""
    return {
        str(path.relative_to(place)): path.read_bytes() if path.is_file() else None
        for path in place.rglob("*")
    }


def plant(path: Path, kind: str, outside: Path) -> dict[str, bytes | None]:
    """Put a link in the place of a file. Returns what is outside."""
    (outside / "folder").mkdir(parents=True)
    for precious in (outside / "file", outside / "folder" / "step_00000001.png", outside / "folder" / "lock"):
        precious.write_text('{"step": 0}\n')
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(outside / kind)
    return content_of(outside)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with checkpoints, a grid and a record."""
    shutil.copytree(trained, tmp_path / "run")
    write_lines(tmp_path / "run" / "metrics.jsonl", {"step": 2, "critic/loss": 0.5})
    (tmp_path / "run" / "samples").mkdir()
    save_png(GREY, tmp_path / "run" / "samples" / "step_00000002.png")
    monkeypatch.setattr(event_file, "_NUMBERS", iter(range(9)))
    monkeypatch.setattr(event_file, "time", SimpleNamespace(time=lambda: SECOND))
    monkeypatch.setattr(os, "getpid", lambda: 7)
    monkeypatch.setattr("socket.gethostname", lambda: "host")
    monkeypatch.setattr("pipeline.commands.report_page.render", lambda run: "page")
    monkeypatch.setenv("WGAN_PLUGINS", "tests")
    return tmp_path / "run"


@pytest.mark.parametrize("kind", ["file", "folder", "nowhere"])
@pytest.mark.parametrize("name", OF_A_RUN)
def test_a_run_and_its_commands_write_nothing_through_links(
    name: str, kind: str, run: Path, tmp_path: Path
) -> None:
    place = run / name
    if os.path.lexists(place):
        remove_tree(place)
    before = plant(place, kind, tmp_path / "outside")
    with suppress(PipelineError):
        OF_A_RUN[name](run)
    assert content_of(tmp_path / "outside") == before


@pytest.mark.parametrize("kind", ["file", "folder", "nowhere"])
@pytest.mark.parametrize("name", OF_A_SET)
def test_shards_are_not_written_through_links(name: str, kind: str, tmp_path: Path) -> None:
    before = plant(tmp_path / "set" / name, kind, tmp_path / "outside")
    with suppress(PipelineError):
        OF_A_SET[name](tmp_path / "set")
    assert content_of(tmp_path / "outside") == before


@pytest.mark.parametrize("name", ["manifest.json", "000000.npy"])
def test_an_index_is_not_written_through_a_link(name: str, tmp_path: Path) -> None:
    make_set(tmp_path / "set")
    for written in ("manifest.json", "000000.npy"):
        (tmp_path / "set" / written).unlink()
    before = plant(tmp_path / "set" / name, "file", tmp_path / "outside")
    with suppress(PipelineError):
        index_in_place(tmp_path / "set")
    assert content_of(tmp_path / "outside") == before


@pytest.mark.parametrize("command", ["sample", "interpolate"])
def test_pictures_go_into_no_directory_that_is_a_link(
    command: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run / "samples")
    before = plant(run / "samples", "folder", tmp_path / "outside")
    assert main([command, str(run)]) == 7
    assert "samples cannot be written: it is a link to" in capsys.readouterr().err
    assert content_of(tmp_path / "outside") == before


def test_a_directory_that_the_user_names_may_be_a_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "near").symlink_to("far")
    assert main(["sample", str(run), "--count", "1", "--files", "--out", str(tmp_path / "near")]) == 0
    assert main(["sample", str(run), "--count", "1", "--out", str(tmp_path / "near" / "grid.png")]) == 0
    assert sorted(path.name for path in (tmp_path / "far").iterdir()) == ["000000.png", "grid.png"]


UNSAFE: Mapping[str, Callable[[Path], None]] = {
    "link": lambda path: path.symlink_to("../outside"),
    "pipe": os.mkfifo,
    "directory": Path.mkdir,
}


@pytest.mark.parametrize("kind", UNSAFE)
def test_what_lies_in_a_set_is_read_from_plain_files_only(kind: str, tmp_path: Path) -> None:
    """A named pipe would block for ever."""
    (tmp_path / "outside").write_text("a\nb\n")
    place = tmp_path / "set"
    place.mkdir()
    for name in (".plan.json", "classes.txt", "000000.json"):
        UNSAFE[kind](place / name)
    with pytest.raises(DataError, match=r"\.plan\.json cannot be read \(it is a"):
        read_plan(place)
    with pytest.raises(DataError, match=r"classes\.txt cannot be read \(it is a"):
        read_class_names(place / "classes.txt", within=place)
    assert find_record(place, 0) is None


@pytest.mark.parametrize("kind", UNSAFE)
@pytest.mark.parametrize("name", ["000000.tar", "000000.npy"])
def test_a_check_says_what_is_in_the_place_of_a_shard(kind: str, name: str, tmp_path: Path) -> None:
    make_set(tmp_path / "set")
    (tmp_path / "set" / name).rename(tmp_path / "outside")
    UNSAFE[kind](tmp_path / "set" / name)
    findings = check_shards(tmp_path / "set").findings
    assert findings[0].startswith(f"{tmp_path / 'set' / name}: it is a ")
    assert len(findings) == 1


def test_a_plan_that_no_command_wrote_is_refused(tmp_path: Path) -> None:
    for text in ("[]", "{", '{"shards": 1000000000}', json.dumps({"source": "x", "shards": 2, "classes": 7})):
        (tmp_path / ".plan.json").write_text(text)
        with pytest.raises(DataError, match=r"\.plan\.json cannot be read"):
            read_plan(tmp_path)


def test_a_set_of_names_that_are_no_utf_8_can_be_used(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"set\xfe")
    (folder / os.fsdecode(b"cat\xff")).mkdir(parents=True)
    save_png(GREY, folder / os.fsdecode(b"cat\xff") / os.fsdecode(b"1\xfd.png"))
    shards.write(open_source(Spec(str(folder))), tmp_path / "out")
    manifest = load_manifest(tmp_path / "out")
    assert (manifest.source, manifest.classes) == (r"set\xfe", (r"cat\xff",))
