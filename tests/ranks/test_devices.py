"""Devices: which is chosen, what it can do, and that nothing else asks torch about GPUs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.ranks import devices

PACKAGE = Path(devices.__file__).parents[1]
CPU, GPU = torch.device("cpu"), torch.device("cuda")


def calls_cuda(file: Path) -> bool:
    """Whether a file names `torch.cuda` in its code, in whatever way it imports it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.cuda":
            return True
        if isinstance(node, ast.Import) and any(name.name.startswith("torch.cuda") for name in node.names):
            return True
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{name.name}" for name in node.names]
            if any(name.startswith("torch.cuda") for name in names):
                return True
    return False


def test_only_devices_and_the_doctor_call_torch_cuda() -> None:
    found = {str(file.relative_to(PACKAGE)) for file in PACKAGE.rglob("*.py") if calls_cuda(file)}
    assert found == {"ranks/devices.py", "commands/doctor.py"}


def test_each_rank_of_a_machine_needs_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    devices.check_gpu_count(GPU, 2)
    devices.check_gpu_count(CPU, 8)
    with pytest.raises(ConfigError, match="3 processes on this machine need 3 GPUs, and torch finds 2"):
        devices.check_gpu_count(GPU, 3)


def test_the_cpu_has_no_device_memory() -> None:
    assert devices.free_device_memory(CPU) == 0
    assert devices.allocated_memory(CPU) == {}
    assert devices.device_name(CPU) == "CPU"


def test_moments_on_the_cpu_are_milliseconds_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1.0, 1.25])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    first, second = devices.record_moment(CPU), devices.record_moment(CPU)
    assert devices.milliseconds_between(first, second) == 250


@pytest.mark.parametrize(
    ("precision", "device", "message"),
    [
        ("fp16", CPU, "fp16 needs a GPU, and this run is on the CPU. Use bf16 or float32."),
        ("bf16", GPU, "bf16 is not supported by an old GPU. Use fp16 or float32."),
    ],
)
def test_a_precision_that_a_device_lacks_is_refused(
    precision: str, device: torch.device, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda _: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "an old GPU")
    with pytest.raises(ConfigError, match=message):
        devices.check_precision(precision, device)
