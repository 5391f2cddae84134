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


def weights_of(smoothing: float, count: int) -> list[float]:
    """How much each of so many estimates counts in the smoothed one, first to last: the answer to a unit impulse."""
    weights = []
    for place in range(count):
        recorder = Recorder(smoothing, CPU)
        *_, weight = (recorder.smooth(float(number == place)) for number in range(count))
        weights.append(weight)
    return weights


def test_the_smoothed_estimate_is_over_the_last_tenth_of_the_run() -> None:
    for count in (20, 40, 80):
        weights = weights_of(0.9, count)
        assert sum(weights) == pytest.approx(1)
        age = sum(weight * (count - 1 - place) for place, weight in enumerate(weights))
        assert age == pytest.approx(count / 11, rel=0.1), "the mean age of what it is over"
        assert sum(weights[: count // 2]) < 0.01, "the first half of the run has left no trace"


def test_the_smoothed_estimate_of_the_demo_follows_its_fall() -> None:
    """Its first 15 log points. With a fixed weight of 0.9 it ended at 7.2."""
    estimates = [30.3, 16.0, 15.6, 18.8, 23.9, 5.7, 6.5, 6.6, 4.7, 3.8, 3.9, 2.9, 3.5, 3.4, 3.8]
    recorder = Recorder(0.9, CPU)
    smooth = [recorder.smooth(estimate) for estimate in estimates]
    assert smooth[-4:] == pytest.approx([3.75, 3.65, 3.54, 3.65], abs=0.05)


def test_smoothing_is_the_most_weight_that_the_past_gets() -> None:
    weights = weights_of(0.5, 200)
    assert weights[-4:] == pytest.approx([1 / 16, 1 / 8, 1 / 4, 1 / 2])
    assert weights_of(0.9, 200)[-2:] == pytest.approx([0.09, 0.1])


def test_an_average_of_an_earlier_version_goes_on_from_its_value() -> None:
    recorder = Recorder(0.9, CPU)
    recorder.restore({"smooth": 1.0, "smooth_weight": 0.5})
    assert recorder.smooth(4.0) == pytest.approx(0.9 * 2.0 + 0.1 * 4.0)
    fresh = Recorder(0.9, CPU)
    fresh.restore({"smooth": 0.0, "smooth_weight": 0.0})
    assert fresh.smooth(0.0) == 0


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
