"""JSON lines and PNG files hold each step once after any number of resumes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.errors import StorageError
from pipeline.monitor.files import AlarmLines, JsonLines, PngFiles
from pipeline.monitor.grids import encode_png
from pipeline.monitor.records import MOST_LINES, read_alarms, read_lines

GRID = torch.arange(3 * 4 * 5, dtype=torch.uint8).view(3, 4, 5)


def lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def log(path: Path, first_step: int, end: int, value: float = 0.0) -> None:
    sink = JsonLines(path, first_step)
    for step in range(first_step, end):
        sink.scalars(step, {"loss": value})
    sink.close()


def test_there_is_one_line_for_each_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = JsonLines(path, 1)
    sink.scalars(2, {"loss": 0.1, "norm": 1e-30})
    assert lines(path) == [{"step": 2, "loss": 0.1, "norm": 1e-30}], "a line is there as soon as it is logged"
    sink.scalars(4, {"loss": 0.2})
    sink.images(4, "samples", encode_png(GRID))
    sink.histograms(4, {"weights": torch.ones(3)})
    sink.text(4, "note", "x")
    sink.close()
    assert [line["step"] for line in lines(path)] == [2, 4]


def test_a_resumed_run_drops_the_steps_it_will_write_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log(path, 1, 9, value=1.0)
    log(path, 6, 12, value=2.0)
    assert [(line["step"], line["loss"]) for line in lines(path)] == [
        (step, 1.0 if step < 6 else 2.0) for step in range(1, 12)
    ]


def test_a_new_run_drops_all_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log(path, 1, 9)
    log(path, 1, 3)
    assert [line["step"] for line in lines(path)] == [1, 2]


@pytest.mark.parametrize("cut", ["{", '{"step": 3', '{"step": 3, "loss": 0.', '{"step": 3}', ""])
def test_a_line_that_a_crash_cut_short_is_dropped(tmp_path: Path, cut: str) -> None:
    path = tmp_path / "metrics.jsonl"
    log(path, 1, 3)
    with path.open("a") as file:
        file.write(cut)
    log(path, 3, 5)
    assert [line["step"] for line in lines(path)] == [1, 2, 3, 4]


FOREIGN = [
    b"hello",
    b"{}",
    b"3",
    b'{"step": "2"}',
    b'{"step": null}',
    b'{"step": 1, "x": "\xff"}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("foreign", FOREIGN)
def test_lines_that_are_no_records_are_dropped_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], foreign: bytes
) -> None:
    path = tmp_path / "metrics.jsonl"
    log(path, 1, 3)
    path.write_bytes(foreign + b"\n" + path.read_bytes())
    log(path, 3, 5)
    assert [line["step"] for line in lines(path)] == [1, 2, 3, 4]
    warning = f"warning: {path}: dropped 1 line (of 3) that no run has written\n"
    assert capsys.readouterr().err == warning


def test_a_directory_in_the_place_of_the_lines_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(
        StorageError, match=r"metrics\.jsonl cannot be written: it is a directory\. Move away"
    ):
        JsonLines(tmp_path / "metrics.jsonl", 1)


def test_each_alarm_is_a_line_and_other_texts_are_not(tmp_path: Path) -> None:
    sink = AlarmLines(tmp_path / "alarms.jsonl", 1)
    sink.text(0, "run/config", "name: x")
    sink.text(40, "health/collapse", "It has collapsed.")
    sink.scalars(40, {"loss": 1.0})
    sink.close()
    assert lines(tmp_path / "alarms.jsonl") == [{"step": 40, "name": "collapse", "text": "It has collapsed."}]
    AlarmLines(tmp_path / "alarms.jsonl", 40).close()
    assert lines(tmp_path / "alarms.jsonl") == [], "a resumed run raises it again"


def test_pictures_of_one_name_become_files(tmp_path: Path) -> None:
    sink = PngFiles(tmp_path, "samples/ema", 1)
    sink.images(200, "samples/ema", encode_png(GRID))
    sink.images(200, "samples/real", encode_png(GRID))
    sink.scalars(200, {"loss": 1.0})
    sink.close()
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000200.png"]
    with Image.open(tmp_path / "step_00000200.png") as image:
        assert np.array_equal(np.asarray(image), GRID.permute(1, 2, 0).numpy())


def test_pictures_of_steps_that_come_again_are_deleted_and_no_others(tmp_path: Path) -> None:
    for name in (
        "step_00000002.png",
        "step_00000003.png",
        "step_00000010.png",
        "demo.png",
        "step_x.png",
        "step_².png",
    ):
        (tmp_path / name).touch()
    PngFiles(tmp_path, "samples/ema", 3)
    assert {path.name for path in tmp_path.iterdir()} == {
        "step_00000002.png",
        "demo.png",
        "step_x.png",
        "step_².png",
    }


def test_more_lines_than_any_run_writes_are_refused(tmp_path: Path) -> None:
    """Taking them apart would need gigabytes."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n" * (MOST_LINES + 1))
    with pytest.raises(OSError, match="it has more than the 2,000,000 lines"):
        read_lines(path)
    with pytest.raises(StorageError, match="lines that such a file can have"):
        JsonLines(path, 1)


def test_alarms_that_cannot_be_read_are_not_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read_alarms(tmp_path) == []
    assert capsys.readouterr().err == ""
    os.mkfifo(tmp_path / "alarms.jsonl")
    assert read_alarms(tmp_path) == []
    assert (
        "alarms.jsonl cannot be read (it is a named pipe, not a file), so no alarms"
        in capsys.readouterr().err
    )
