"""How the time of recorded steps is spent, read from the Chrome trace of PyTorch's profiler."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pipeline.phases import PHASES

Event = Mapping[str, Any]
Interval = tuple[float, float]

ALL_REDUCE, OTHER, IDLE = "all-reduce", "other", "idle"
DEVICE_WORK = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
LAUNCHES = frozenset({"cuda_runtime", "cuda_driver"})
SHADOW = "gpu_user_annotation"
"""A second event for each step and phase, with the same name, at the time when the GPU does its work."""


@dataclass(frozen=True)
class StepTimes:
    """Milliseconds of the mean recorded step.

    `host` is the loop's own time in each phase, and adds up to `step`. "all-reduce" is the time spent waiting for other
    ranks, subtracted from the phase that contains it; "other" is the time outside all phases. `device` is empty without
    a GPU. With one, it is how long the kernels launched in each phase ran, "all-reduce" while no other kernel ran, and
    the time that the GPU was "idle".
    """

    steps: int
    step: float
    host: dict[str, float]
    device: dict[str, float]


def step_times(events: Iterable[Event]) -> StepTimes:
    """Times by phase, from the `traceEvents` of a trace that contains whole steps."""
    spans = [event for event in events if event.get("ph") == "X" and event.get("cat") != SHADOW]
    steps = [event for event in spans if event["name"].startswith("ProfilerStep#")]
    loop = [event for event in spans if _thread(event) == _thread(steps[0])]
    bounds = union(map(interval, steps))
    wall = length(bounds)
    phases: dict[str, list[Interval]] = {
        name: [interval(e) for e in loop if e["name"] == name and e["cat"] == "user_annotation"]
        for name in PHASES
    }
    per_step = 1e-3 / len(steps)  # trace events are in microseconds

    def scaled(times: Mapping[str, float]) -> dict[str, float]:
        return {name: time * per_step for name, time in times.items()}

    host = _host_times(spans, loop, phases, bounds)
    device = _device_times(spans, phases, bounds)
    return StepTimes(len(steps), wall * per_step, scaled(host), scaled(device))


def _thread(event: Event) -> tuple[Any, Any]:
    """The thread of an event. A stream of a GPU has the GPU's number in the place of a process."""
    return event.get("pid"), event["tid"]


def _host_times(
    spans: Iterable[Event],
    loop: Iterable[Event],
    phases: Mapping[str, Sequence[Interval]],
    bounds: Sequence[Interval],
) -> dict[str, float]:
    work = union(map(interval, innermost_operators(loop)))
    # Gloo runs each transfer in a thread of its own, so its event covers the whole transfer.
    transfers = intersect(union(interval(e) for e in spans if e["name"].startswith("gloo:")), bounds)

    def waiting(within: Sequence[Interval]) -> float:
        shared = intersect(transfers, within)
        return length(shared) - length(intersect(shared, work))

    times = {name: length(union(found)) - waiting(union(found)) for name, found in phases.items()}
    times[ALL_REDUCE] = waiting(bounds)
    return {**times, OTHER: length(bounds) - sum(times.values())}


def _device_times(
    spans: Sequence[Event], phases: Mapping[str, Sequence[Interval]], bounds: Sequence[Interval]
) -> dict[str, float]:
    launched = {e["args"]["correlation"]: e["ts"] for e in spans if e.get("cat") in LAUNCHES}
    in_order = sorted((start, end, name) for name, found in phases.items() for start, end in found)
    starts = [start for start, _, _ in in_order]

    def phase_of(moment: float) -> str:
        index = bisect_right(starts, moment) - 1
        return in_order[index][2] if index >= 0 and moment < in_order[index][1] else OTHER

    # An autograd thread launches the kernels of a backward pass while the loop waits for it, so the phase is known from
    # the time of the launch, not from the thread.
    work = [
        (event, moment)
        for event in spans
        if event.get("cat") in DEVICE_WORK
        and (moment := launched.get(event["args"]["correlation"])) is not None
        and any(start <= moment < end for start, end in bounds)
    ]
    if not work:
        return {}
    transfers = union(interval(event) for event, _ in work if _is_transfer(event))
    others = [(event, moment) for event, moment in work if not _is_transfer(event)]
    times = dict.fromkeys([*phases, OTHER], 0.0)
    for event, moment in others:
        times[phase_of(moment)] += event["dur"]
    computing = union(interval(event) for event, _ in others)
    times[ALL_REDUCE] = length(transfers) - length(intersect(transfers, computing))
    busy = length(union(interval(event) for event, _ in work))
    return {**times, IDLE: max(length(bounds) - busy, 0.0)}


def innermost_operators(events: Iterable[Event]) -> list[Event]:
    """The operators of one thread that call no others, without those that only start a transfer.

    The time of an outer operator may include waiting: for example, an autograd function that sums over ranks.
    """
    calls = sorted(
        (e for e in events if e.get("cat") == "cpu_op"), key=lambda event: (event["ts"], -event["dur"])
    )
    last = calls[-1:]
    inner = [e for e, following in pairwise(calls) if following["ts"] >= e["ts"] + e["dur"]] + last
    return [event for event in inner if not event["name"].startswith("c10d::")]


def interval(event: Event) -> Interval:
    """Start and end in microseconds."""
    return event["ts"], event["ts"] + event["dur"]


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The times that are in any of the intervals, as disjoint intervals in order."""
    found: list[Interval] = []
    for start, end in sorted(intervals):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def intersect(first: Sequence[Interval], second: Sequence[Interval]) -> list[Interval]:
    """The times that are in both lists of disjoint, ordered intervals."""
    found, i, j = list[Interval](), 0, 0
    while i < len(first) and j < len(second):
        start, end = max(first[i][0], second[j][0]), min(first[i][1], second[j][1])
        if start < end:
            found.append((start, end))
        if first[i][1] < second[j][1]:
            i += 1
        else:
            j += 1
    return found


def length(intervals: Iterable[Interval]) -> float:
    """The total length of disjoint intervals."""
    return sum(end - start for start, end in intervals)


def _is_transfer(event: Event) -> bool:
    return str(event["name"]).startswith("nccl")
