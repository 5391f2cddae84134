"""Times of phases in traces written by hand, in microseconds."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.phases import PHASES
from pipeline.profiling.trace import innermost_operators, intersect, length, step_times, union

LOOP, AUTOGRAD, GLOO, STREAM, NCCL = 1, 2, 3, 7, 8
Event = dict[str, Any]


def event(name: str, category: str, start: float, end: float, thread: int = LOOP, launch: int = 0) -> Event:
    arguments = {"correlation": launch} if launch else {}
    return {
        "ph": "X",
        "name": name,
        "cat": category,
        "ts": start,
        "dur": end - start,
        "tid": thread,
        "args": arguments,
    }


def mark(name: str, start: float, end: float, thread: int = LOOP) -> Event:
    return event(name, "user_annotation", start, end, thread)


def times_of(times: dict[str, float]) -> dict[str, float]:
    """The times that are not 0."""
    return {name: time for name, time in times.items() if time}


STEPS = [mark("ProfilerStep#1", 0, 10_000), mark("ProfilerStep#2", 10_000, 20_000)]


def test_the_times_of_all_phases_and_other_add_up_to_the_mean_step() -> None:
    times = step_times(
        [
            *STEPS,
            mark("data", 1000, 3000),
            mark("data", 11_000, 15_000),
            mark("forward", 15_000, 16_000),
            mark("Optimizer.step#Adam.step", 16_000, 17_000),
            {"ph": "i", "name": "Record Window End", "ts": 0, "tid": LOOP},
        ]
    )
    assert (times.steps, times.step) == (2, 10.0)
    assert times_of(times.host) == {"data": 3.0, "forward": 0.5, "other": 6.5}
    assert times.device == {}
    assert {*PHASES, "all-reduce", "other"} == times.host.keys()


def test_waiting_for_a_transfer_is_subtracted_from_its_phase() -> None:
    times = step_times(
        [
            *STEPS,
            mark("backward", 1000, 9000),
            event("autograd::engine::evaluate_function: AddmmBackward0", "cpu_op", 1000, 8000),
            event("aten::mm", "cpu_op", 1000, 4000),
            event("c10d::allreduce_", "cpu_op", 4000, 5000),
            mark("gloo:all_reduce", 3000, 8000, GLOO),
        ]
    )
    assert times_of(times.host) == {"backward": 2.0, "all-reduce": 2.0, "other": 6.0}


def test_a_transfer_beside_a_matrix_product_costs_nothing() -> None:
    times = step_times(
        [
            *STEPS,
            mark("backward", 1000, 9000),
            event("aten::mm", "cpu_op", 1000, 9000),
            mark("gloo:all_reduce", 2000, 8000, GLOO),
        ]
    )
    assert times_of(times.host) == {"backward": 4.0, "other": 6.0}


def test_a_kernel_belongs_to_the_phase_that_launched_it_in_any_thread() -> None:
    times = step_times(
        [
            *STEPS,
            mark("forward", 0, 1000),
            mark("backward", 1000, 2000),
            event("cudaLaunchKernel", "cuda_runtime", 500, 510, LOOP, launch=1),
            event("cudaLaunchKernel", "cuda_runtime", 1500, 1510, AUTOGRAD, launch=2),
            event("cuLaunchKernel", "cuda_driver", 3000, 3010, LOOP, launch=3),
            event("cudaLaunchKernel", "cuda_runtime", 20_500, 20_510, LOOP, launch=4),
            event("gemm", "kernel", 600, 4600, STREAM, launch=1),
            event("gemm", "kernel", 4600, 12_600, STREAM, launch=2),
            event("fill", "gpu_memset", 12_600, 14_600, STREAM, launch=3),
            event("gemm", "kernel", 21_000, 29_000, STREAM, launch=4),
        ]
    )
    assert times_of(times.device) == {"forward": 2.0, "backward": 4.0, "other": 1.0, "idle": 3.0}


def test_a_gpus_transfer_counts_only_while_no_other_kernel_runs() -> None:
    times = step_times(
        [
            *STEPS,
            mark("backward", 0, 2000),
            event("cudaLaunchKernel", "cuda_runtime", 100, 110, AUTOGRAD, launch=1),
            event("cudaLaunchKernel", "cuda_runtime", 200, 210, AUTOGRAD, launch=2),
            event("gemm", "kernel", 1000, 5000, STREAM, launch=1),
            event("ncclDevKernel_AllReduce_Sum_f32_RING_LL", "kernel", 4000, 8000, NCCL, launch=2),
        ]
    )
    assert times_of(times.device) == {"backward": 2.0, "all-reduce": 1.5, "idle": 6.5}


def test_only_operators_that_call_no_other_are_work() -> None:
    events = [
        event("SumOverRanks", "cpu_op", 0, 100),
        event("aten::clone", "cpu_op", 0, 20),
        event("aten::copy_", "cpu_op", 5, 20),
        event("c10d::allreduce_", "cpu_op", 30, 40),
        event("aten::mm", "cpu_op", 100, 120),
    ]
    assert [found["name"] for found in innermost_operators(events)] == ["aten::copy_", "aten::mm"]


def test_intervals_are_joined_if_they_touch_and_intersected() -> None:
    assert union([(5, 7), (0, 2), (1, 3), (3, 4), (6, 6.5)]) == [(0, 4), (5, 7)]
    assert intersect([(0, 4), (5, 9)], [(1, 2), (3, 6), (8, 12)]) == [(1, 2), (3, 4), (5, 6), (8, 9)]
    assert intersect([], [(1, 2)]) == []
    assert length([(0, 4), (5, 7)]) == pytest.approx(6)


def test_annotations_on_a_gpu_change_no_time() -> None:
    host = [
        *STEPS,
        mark("data", 1000, 3000),
        event("cudaLaunchKernel", "cuda_runtime", 1500, 1600, launch=1),
        event("kernel", "kernel", 2000, 9000, thread=STREAM, launch=1),
    ]
    # As CUPTI writes them: on a stream, whose number may be that of the loop's thread, later and longer.
    shadows = [
        {**event(name, "gpu_user_annotation", start, end), "pid": 0}
        for name, start, end in (
            ("ProfilerStep#1", 2000, 14_000),
            ("data", 2000, 9000),
            ("ProfilerStep#2", 14_000, 30_000),
        )
    ]
    plain = step_times(host)
    assert step_times([*shadows, *host]) == plain
    assert plain.step == 10.0
    assert times_of(plain.host) == {"data": 1.0, "other": 9.0}
