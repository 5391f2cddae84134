"""Event files show each step once after any number of resumes, and a full disk stops nothing."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from pipeline.monitor import tensorboard
from pipeline.monitor.files import JsonLines
from pipeline.monitor.grids import encode_png
from pipeline.monitor.sinks import Sinks
from pipeline.monitor.tensorboard import TensorBoard
from tests.limits import no_file_over

GRID = torch.arange(3 * 4 * 5, dtype=torch.uint8).view(3, 4, 5)


def lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


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


def test_tensorboard_shows_each_step_once_after_resumes(tmp_path: Path) -> None:
    run_steps(tmp_path, 1, 14, value=1.0)
    run_steps(tmp_path, 7, 11, value=2.0)
    run_steps(tmp_path, 9, 21, value=3.0)
    values = {**dict.fromkeys((2, 4, 6), 1.0), 8: 2.0, **dict.fromkeys(range(10, 21, 2), 3.0)}
    assert scalars(tmp_path, "estimate") == list(values.items())
    assert [step for step, _ in scalars(tmp_path, "lr")] == list(values)


def test_curves_stay_whole_if_process_ids_are_not_in_order_of_starts(
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
    # As float32, 0.2 is greater than as float64.
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


def test_options_and_the_layout_of_charts_are_in_the_run_itself(tmp_path: Path) -> None:
    sink = TensorBoard(tmp_path, 1, {"speed": {"images": ["Multiline", ["^speed/images$"]]}})
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
    assert [category.title for category in categories] == ["speed"]


@pytest.fixture
def full_disk(mount_disk: Callable[[str], Path]) -> Path:
    """A file system with 8 KiB of free space."""
    disk = mount_disk("size=64k")
    (disk / "filler").write_bytes(bytes(56 * 1024))
    return disk


def test_tensorboard_on_a_full_disk_stops_nothing(full_disk: Path, tmp_path: Path) -> None:
    sinks = Sinks([TensorBoard(full_disk, 1), JsonLines(tmp_path / "metrics.jsonl", 1)])
    noise = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    for step in range(1, 30):
        sinks.images(step, "x", noise)
        sinks.scalars(step, {"loss": 0.5})
    sinks.close()
    assert sinks.failures > 0
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == list(range(1, 30))


def test_tensorboard_goes_on_once_there_is_space_again(
    full_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(monotonic=lambda: 100.0, time=time.time, sleep=time.sleep)
    monkeypatch.setattr(tensorboard, "time", clock)
    sinks = Sinks([TensorBoard(full_disk, 1, pause=10.0)])
    noise = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    for step in range(1, 20):
        sinks.images(step, "x", noise)
        sinks.flush()
    failures = sinks.failures
    assert failures > 0
    clock.monotonic = lambda: 110.0
    (full_disk / "filler").unlink()
    for step in range(20, 24):
        sinks.scalars(step, {"loss": 0.5})
    sinks.close()
    assert sinks.failures == failures
    assert [step for step, _ in scalars(full_disk, "loss")] == [20, 21, 22, 23]


def test_a_failed_write_of_events_is_one_warning_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = threading.active_count()
    sinks = Sinks([TensorBoard(tmp_path, 1)])
    sinks.scalars(1, {"loss": 0.5})
    (path,) = tmp_path.iterdir()
    with no_file_over(path.stat().st_size + 10):
        for step in range(2, 5):
            sinks.scalars(step, {"loss": 0.5})
    assert threading.active_count() == threads
    sinks.close()
    warnings = capsys.readouterr().err.splitlines()
    assert warnings == [
        "warning: TensorBoard cannot write: File too large. Training continues.",
        "warning: records could not be written 3 times, so plots may have gaps",
    ]
    assert scalars(tmp_path, "loss") == [(1, 0.5)], "a record that was cut short hides none before it"


def test_what_was_flushed_can_be_read_while_the_writer_is_open(tmp_path: Path) -> None:
    sinks = Sinks([TensorBoard(tmp_path, 1)])
    sinks.scalars(1, {"loss": 0.5})
    sinks.flush()
    assert scalars(tmp_path, "loss") == [(1, 0.5)]
    sinks.close()
