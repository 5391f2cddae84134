"""A machine with GPUs, as far as `pipeline.ranks.devices` asks torch about them. It computes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch


@dataclass
class FakeCuda:
    """What stands in the place of torch.cuda's functions, and what was asked of it."""

    gpus: int = 1
    name: str = "a GPU"
    capability: tuple[int, int] = (9, 0)
    built: tuple[str, ...] = ("sm_80", "sm_90")
    has_bf16: bool = True
    reach: frozenset[tuple[int, int]] = frozenset()
    """Pairs of GPUs that reach each other's memory."""
    milliseconds: float = 0.0
    """What the GPU's clock shows; whoever records an event moves it on by 1.5."""
    calls: list[str] = field(default_factory=list)
    sync_debug_mode: int | str = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
        """Take the place of torch.cuda's functions until the end of the test."""
        functions = {
            "is_available": lambda: self.gpus > 0,
            "is_initialized": lambda: self.gpus > 0,
            "device_count": lambda: self.gpus,
            "get_arch_list": lambda: list(self.built),
            "get_device_capability": lambda _: self.capability,
            "get_device_name": lambda _: self.name,
            "get_device_properties": self._properties,
            "can_device_access_peer": lambda *pair: pair in self.reach,
            "is_bf16_supported": lambda _: self.has_bf16,
            "mem_get_info": lambda _: (3 << 30, 8 << 30),
            "memory_allocated": lambda _: 1 << 29,
            "max_memory_allocated": lambda _: 1 << 30,
            "memory_reserved": lambda _: 2 << 30,
            "synchronize": lambda device: self.calls.append(f"synchronize {device}"),
            "get_sync_debug_mode": lambda: self.sync_debug_mode,
            "set_sync_debug_mode": self._set_sync_debug_mode,
            "Event": self._event_type(),
            "CUDAGraph": lambda: SimpleNamespace(replay=lambda: self.calls.append("replay")),
            "graph": self._capture,
        }
        for name, function in functions.items():
            # Those that torch does not have cannot be what the code calls.
            monkeypatch.setattr(torch.cuda, name, function, raising=True)
        return self

    def _properties(self, number: Any) -> SimpleNamespace:
        index = torch.device(number).index if not isinstance(number, int) else number
        major, minor = self.capability
        return SimpleNamespace(
            name=self.name,
            uuid=f"uuid-{index or 0}",
            major=major,
            minor=minor,
            total_memory=8 << 30,
            pci_domain_id=0,
            pci_bus_id=0x3B + (index or 0),
            pci_device_id=0,
        )

    def _set_sync_debug_mode(self, mode: int | str) -> None:
        self.sync_debug_mode = mode

    def _event_type(self) -> type:
        cuda = self

        class Event:
            def __init__(self, enable_timing: bool = False) -> None:
                assert enable_timing, "only such events have a time"

            def record(self) -> None:
                cuda.milliseconds += 1.5
                self.at = cuda.milliseconds

            def synchronize(self) -> None:
                cuda.calls.append("event waited for")

            def elapsed_time(self, end: Any) -> float:
                return float(end.at - self.at)

        return Event

    @contextmanager
    def _capture(self, graph: Any, capture_error_mode: str) -> Iterator[None]:
        self.calls.append(f"capture {capture_error_mode}")
        yield
