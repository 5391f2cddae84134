"""What the loop reports, as scalars."""

from __future__ import annotations

import math
import mmap

import pytest
import torch

from pipeline.monitor import recorder as recorder_module
from pipeline.monitor.recorder import Recorder, non_finite

CPU = torch.device("cpu")


class Clock:
    """Takes the place of the module `time`; moves only when a test says so."""

    seconds = 1000.0

    def perf_counter(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(recorder_module, "time", clock)
    return clock


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 0.99])
def test_a_constant_is_smoothed_to_itself_from_the_start(smoothing: float) -> None:
    recorder = Recorder(smoothing, CPU)
    for _ in range(50):
        assert recorder.smooth(3.5) == pytest.approx(3.5, rel=1e-12)


def test_the_smooth_value_is_the_weighted_mean_of_all_that_came() -> None:
    recorder, values = Recorder(0.8, CPU), [1.0, -4.0, 2.5, 0.0, 9.0]
    for count in range(1, len(values) + 1):
        weights = [0.8 ** (count - 1 - place) for place in range(count)]
        expected = sum(w * v for w, v in zip(weights, values, strict=False)) / sum(weights)
        assert recorder.smooth(values[count - 1]) == pytest.approx(expected)


def test_without_smoothing_the_value_is_the_last() -> None:
    recorder = Recorder(0.0, CPU)
    assert [recorder.smooth(value) for value in (1.0, 5.0, -2.0)] == [1.0, 5.0, -2.0]


def test_a_restored_recorder_smooths_on_with_the_same_bits() -> None:
    values = [math.sin(number) for number in range(20)]
    whole = Recorder(0.9, CPU)
    expected = [whole.smooth(value) for value in values]
    first, second = Recorder(0.9, CPU), Recorder(0.9, CPU)
    found = [first.smooth(value) for value in values[:7]]
    second.restore(first.facts())
    assert found + [second.smooth(value) for value in values[7:]] == expected


def test_speed_counts_images_steps_and_data_wait_since_the_last_log(clock: Clock) -> None:
    recorder = Recorder(0.9, CPU)
    clock.seconds += 5
    recorder.restart_clock()
    for _ in range(4):
        with recorder.waiting_for_data():
            clock.seconds += 0.5
        clock.seconds += 1.5
        recorder.add({"loss": torch.tensor(1.0)}, images=30)
    assert recorder.speed() == {
        "speed/step_seconds": 2.0,
        "speed/images_per_second": 15.0,
        "speed/data_wait_fraction": 0.25,
    }
    assert recorder.window.means(lambda values: values) == {"loss": 1.0}
    clock.seconds += 1
    assert recorder.speed()["speed/images_per_second"] == 0
    assert recorder.speed()["speed/data_wait_fraction"] == 0


def test_memory_on_the_cpu_is_that_of_the_process() -> None:
    recorder = Recorder(0.9, CPU)
    before = recorder.memory()
    assert before.keys() == {"memory/host_mib"}
    # Fresh pages: an ordinary tensor may get memory that the process has already.
    block = mmap.mmap(-1, 64 * 2**20)
    block.write(b"x" * len(block))
    assert recorder.memory()["memory/host_mib"] > before["memory/host_mib"] + 32
    block.close()


def test_values_that_are_not_finite_are_named() -> None:
    values = {"a": 1.0, "b": math.nan, "c": -math.inf, "d": 0.0, "e": math.inf}
    assert non_finite(values) == ["b", "c", "e"]
    assert non_finite({}) == []


def test_what_is_no_training_is_left_out_of_the_speed(clock: Clock) -> None:
    recorder = Recorder(0.9, CPU)
    clock.seconds += 2
    with recorder.paused():
        clock.seconds += 50
    recorder.add({"loss": torch.tensor(1.0)}, images=10)
    assert recorder.speed()["speed/step_seconds"] == 2.0
