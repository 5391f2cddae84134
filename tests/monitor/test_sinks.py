"""Where figures go: each step once after any number of resumes, and no failure that stops a run."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from pipeline.errors import StorageError
from pipeline.monitor.grids import encode_png
from pipeline.monitor.sinks import LAYOUT, AlarmLines, JsonLines, PngFiles, Sinks, TensorBoard

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
    warning = f"warning: {path}: 1 of 3 lines are no records of a run and are dropped\n"
    assert capsys.readouterr().err == warning


def test_a_directory_in_the_place_of_the_lines_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(StorageError, match=r"metrics\.jsonl cannot be written: Is a directory\. Move away"):
        JsonLines(tmp_path / "metrics.jsonl", 1)


def scalars(directory: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def run_steps(directory: Path, first_step: int, end: int, value: float) -> None:
    """One process's part of a run, which logs every second step."""
    sink = TensorBoard(directory, first_step)
    sink.text(first_step - 1, "run/config", "seed: 1\nname: x")
    for step in range(first_step, end):
        if step % 2 == 0:
            sink.scalars(step, {"estimate": value, "lr": 0.5})
    sink.close()


def test_after_resumes_tensorboard_shows_each_step_once_and_none_is_missing(tmp_path: Path) -> None:
    run_steps(tmp_path, 1, 14, value=1.0)
    run_steps(tmp_path, 7, 11, value=2.0)
    run_steps(tmp_path, 9, 21, value=3.0)
    values = {**dict.fromkeys((2, 4, 6), 1.0), 8: 2.0, **dict.fromkeys(range(10, 21, 2), 3.0)}
    assert scalars(tmp_path, "estimate") == list(values.items())
    assert [step for step, _ in scalars(tmp_path, "lr")] == list(values)


def test_curves_stay_whole_where_ids_of_processes_do_not_sort_as_their_starts_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is started again within a second, by a process whose id has a digit more."""
    monkeypatch.setattr(os, "getpid", lambda: 9999)
    run_steps(tmp_path, 1, 14, value=1.0)
    monkeypatch.setattr(os, "getpid", lambda: 10000)
    run_steps(tmp_path, 9, 21, value=2.0)
    assert [step for step, _ in scalars(tmp_path, "estimate")] == list(range(2, 21, 2))


def test_event_files_of_a_clock_that_is_ahead_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / f"events.out.tfevents.{int(time.time()) + 600}.host.1.0").write_bytes(b"")
    TensorBoard(tmp_path, 1).close()
    assert "ahead of this machine's clock" in " ".join(capsys.readouterr().err.split())


def test_a_run_that_starts_again_hides_the_one_before(tmp_path: Path) -> None:
    run_steps(tmp_path, 1, 14, value=1.0)
    run_steps(tmp_path, 1, 5, value=2.0)
    assert scalars(tmp_path, "estimate") == [(2, 2.0), (4, 2.0)]


def test_images_histograms_and_text_reach_tensorboard(tmp_path: Path) -> None:
    sink = TensorBoard(tmp_path, 1)
    sink.images(3, "samples/ema", encode_png(GRID))
    sink.histograms(3, {"critic/weights/score": torch.linspace(-1, 1, 50)})
    sink.text(0, "run/config", "seed: 1\nname: x")
    sink.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (image,) = events.Images("samples/ema")
    assert (image.step, image.width, image.height) == (3, 5, 4)
    assert events.Histograms("critic/weights/score")[0].histogram_value.num == 50
    (text,) = events.Tensors("run/config/text_summary")
    assert text.tensor_proto.string_val[0] == b"    seed: 1\n    name: x"


def test_weights_are_shown_against_the_box_that_holds_them(tmp_path: Path) -> None:
    # As float32, 0.2 lies above the float64 of the same name.
    clipped = torch.tensor([-0.2, 0.0, 0.1, 0.2, 0.2])
    sink = TensorBoard(tmp_path, 1)
    sink.histograms(
        3, {"all_at_the_edge": torch.full((7,), 0.2), "clipped": clipped, "free": 5 * clipped}, 0.2
    )
    sink.close()
    events = EventAccumulator(str(tmp_path), size_guidance={"histograms": 0}).Reload()
    shown = {tag: events.Histograms(tag)[0].histogram_value for tag in events.Tags()["histograms"]}
    assert shown["all_at_the_edge"].num == 7
    assert shown["clipped"].bucket_limit[-1] == pytest.approx(0.2)
    assert sum(shown["clipped"].bucket) == sum(shown["free"].bucket) == 5
    assert shown["free"].bucket_limit[-1] > 0.9


def test_the_options_stand_in_the_run_itself_and_the_charts_have_their_layout(tmp_path: Path) -> None:
    sink = TensorBoard(tmp_path, 1)
    sink.options(
        0, {"seed": 3, "model.name": "dcgan", "data.classes": ["7"], "data.workers": None, "flip": True}
    )
    sink.close()
    assert [path.is_dir() for path in tmp_path.iterdir()] == [False], "no folder for the hparams"
    plugins = EventAccumulator(str(tmp_path)).Reload().PluginTagToContent("hparams")
    entry = HParamsPluginData.FromString(plugins["_hparams_/session_start_info"]).session_start_info.hparams
    assert {name: value.WhichOneof("kind") for name, value in entry.items()} == {
        "seed": "number_value",
        "model.name": "string_value",
        "data.classes": "string_value",
        "data.workers": "string_value",
        "flip": "string_value",
    }
    layout = EventAccumulator(str(tmp_path)).Reload().Tensors("custom_scalars__config__")[0].tensor_proto
    categories = Layout.FromString(layout.string_val[0]).category
    assert [category.title for category in categories] == list(LAYOUT)


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
    for name in ("step_00000002.png", "step_00000003.png", "step_00000010.png", "demo.png", "step_x.png"):
        (tmp_path / name).touch()
    PngFiles(tmp_path, "samples/ema", 3)
    assert {path.name for path in tmp_path.iterdir()} == {"step_00000002.png", "demo.png", "step_x.png"}


def test_a_full_disk_costs_pictures_and_not_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (2, 3):
        # What a picture is called until all of it is written.
        (tmp_path / f".step_{step:08d}.png.tmp").symlink_to("/dev/full")
    sinks = Sinks([PngFiles(tmp_path, "x", 5), JsonLines(tmp_path / "metrics.jsonl", 1)])
    for step in range(1, 5):
        sinks.images(step, "x", GRID)
        sinks.scalars(step, {"loss": 0.5})
    assert sinks.failures == 2
    sinks.close()
    written = capsys.readouterr().err.splitlines()
    assert len(written) == 2
    picture = tmp_path / "step_00000002.png"
    assert f"PngFiles cannot write, and training goes on: {picture} cannot be written" in written[0]
    assert "No space left on device" in written[0]
    assert "writing records failed 2 times" in written[1]
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
    assert sorted(path.name for path in tmp_path.glob("*step*")) == ["step_00000001.png", "step_00000004.png"]


def test_lines_that_cannot_be_written_are_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    """The log that would tell of it cannot be written either: the limit holds for every file."""
    sinks = Sinks([JsonLines(tmp_path / "metrics.jsonl", 1)])
    sinks.scalars(1, {"loss": 0.5})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "metrics.jsonl").stat().st_size, hard))
    try:
        sinks.scalars(2, {"loss": 0.5})
        sinks.scalars(3, {"loss": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sinks.failures == 2
    sinks.scalars(4, {"loss": 0.5})
    sinks.close()
    steps = [line["step"] for line in lines(tmp_path / "metrics.jsonl")]
    assert (steps[0], steps[-1]) == (1, 4)
    assert steps == sorted(set(steps))


@pytest.fixture
def full_disk(mount_disk: Callable[[str], Path]) -> Path:
    """A file system of which 8 KiB are free."""
    disk = mount_disk("size=64k")
    (disk / "filler").write_bytes(bytes(56 * 1024))
    return disk


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_tensorboard_on_a_full_disk_stops_nothing(full_disk: Path, tmp_path: Path) -> None:
    sinks = Sinks([TensorBoard(full_disk, 1), JsonLines(tmp_path / "metrics.jsonl", 1)])
    noise = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    for step in range(1, 30):
        sinks.images(step, "x", noise)
        sinks.scalars(step, {"loss": 0.5})
    sinks.close()
    assert sinks.failures > 0
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == list(range(1, 30))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_tensorboard_goes_on_once_there_is_space_again(full_disk: Path) -> None:
    sinks = Sinks([TensorBoard(full_disk, 1, pause=1.1)])
    noise = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    for step in range(1, 20):
        sinks.images(step, "x", noise)
        sinks.flush()
    failures = sinks.failures
    assert failures > 0
    time.sleep(1.2)
    (full_disk / "filler").unlink()
    for step in range(20, 24):
        sinks.scalars(step, {"loss": 0.5})
    sinks.close()
    assert sinks.failures == failures
    assert [step for step, _ in scalars(full_disk, "loss")] == [20, 21, 22, 23]


def test_what_was_flushed_can_be_read_while_the_writer_is_open(tmp_path: Path) -> None:
    sinks = Sinks([TensorBoard(tmp_path, 1)])
    sinks.scalars(1, {"loss": 0.5})
    sinks.flush()
    assert scalars(tmp_path, "loss") == [(1, 0.5)]
    sinks.close()


def test_defects_of_the_program_are_not_swallowed(tmp_path: Path) -> None:
    sinks = Sinks([JsonLines(tmp_path / "metrics.jsonl", 1)])
    with pytest.raises(TypeError):
        sinks.scalars(1, {"loss": torch.tensor(1.0)})  # type: ignore[dict-item]
    sinks.close()


def test_no_sinks_take_everything_and_do_nothing() -> None:
    sinks = Sinks([])
    sinks.scalars(1, {})
    sinks.images(1, "x", GRID)
    sinks.histograms(1, {})
    sinks.text(1, "x", "y")
    sinks.close()
    assert sinks.failures == 0
