"""Turns what the loop reports into scalars: means, smoothing, speed and memory."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from torch import Tensor

from pipeline.monitor.alarms import Alarms
from pipeline.monitor.window import Window
from pipeline.ranks.devices import allocated_memory

EARLY_SHARE = 10
"""At first, the moving average is over about one part in so many of the run so far."""
SETTLED = 10**6
"""The log points of a run whose checkpoint does not say how many were smoothed: more than matter."""


class Recorder:
    """Collects a run's figures between log points."""

    def __init__(self, smoothing: float, device: torch.device) -> None:
        self.window, self.alarms = Window(), Alarms()
        self._smoothing, self._device = smoothing, device
        self._smooth, self._smoothed = 0.0, 0
        self.restart_clock()

    def restart_clock(self) -> None:
        """Measure speed from now on."""
        self._since, self._waited, self._steps, self._images = time.perf_counter(), 0.0, 0, 0

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Count the time within as time that the loop waited for its images."""
        started = time.perf_counter()
        yield
        self._waited += time.perf_counter() - started

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time within from the figures of speed, because it is not part of training."""
        started = time.perf_counter()
        yield
        self._since += time.perf_counter() - started

    def add(self, metrics: Mapping[str, Tensor], images: int) -> None:
        """One step's metrics, and how many real images all ranks took for it."""
        self.window.add(metrics)
        self._steps += 1
        self._images += images

    def smooth(self, estimate: float) -> float:
        """A moving average of the logged estimates, over the last tenth or so of the run, and at most `smoothing`.

        The weight of the past grows as the run does. The first estimates are many times as large as later ones: with
        a fixed weight they would show in the average long after the estimate has fallen.
        """
        weight = min(self._smoothing, self._smoothed / (self._smoothed + EARLY_SHARE - 1))
        self._smooth = weight * self._smooth + (1 - weight) * estimate
        self._smoothed += 1
        return self._smooth

    def speed(self) -> dict[str, float]:
        """Figures of the time since the last call, in seconds and real images over all ranks."""
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        values = {
            "speed/images_per_second": self._images / elapsed,
            "speed/data_wait_fraction": self._waited / elapsed,
            "speed/step_seconds": elapsed / max(self._steps, 1),
        }
        self.restart_clock()
        return values

    def memory(self) -> dict[str, float]:
        """This rank's memory in MiB: of the process, and the largest and reserved of the device."""
        values = {"memory/host_mib": psutil.Process().memory_info().rss / 2**20}
        on_device = allocated_memory(self._device)
        return values | {f"memory/device_{name}_mib": size / 2**20 for name, size in on_device.items()}

    def facts(self) -> dict[str, Any]:
        """The plain values that a resumed run needs."""
        return {"smooth": self._smooth, "smoothed": self._smoothed, "health": self.alarms.facts()}

    def restore(self, facts: Mapping[str, Any]) -> None:
        # Earlier versions saved the average with its weight, which was less than 1, and not how many it is of.
        self._smooth = facts["smooth"] / (facts.get("smooth_weight") or 1.0)
        self._smoothed = facts.get("smoothed", SETTLED)
        if "health" in facts:  # checkpoints of earlier versions have none
            self.alarms.restore(facts["health"])


def non_finite(values: Mapping[str, float]) -> list[str]:
    """The names whose values are NaN or infinite."""
    return [name for name, value in values.items() if not math.isfinite(value)]
