"""Devices: which is chosen, what it can do, and that nothing else asks torch about GPUs."""

from __future__ import annotations

import ast
from itertools import count
from pathlib import Path

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.options import Config
from pipeline.ranks import devices
from tests.fake_cuda import FakeCuda

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
    FakeCuda(gpus=2).install(monkeypatch)
    devices.check_gpu_count(GPU, 2)
    devices.check_gpu_count(CPU, 8)
    with pytest.raises(ConfigError, match="3 processes on this machine need 3 GPUs, and torch finds 2"):
        devices.check_gpu_count(GPU, 3)


def test_the_cpu_has_no_device_memory() -> None:
    assert devices.free_device_memory(CPU) == 0
    assert devices.allocated_memory(CPU) == {}
    assert devices.used_memory(CPU) == 0
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
        (
            "tf32",
            CPU,
            "tf32 needs an NVIDIA GPU of compute capability 8.0 .* and this run is on CPU. Use float32.",
        ),
        (
            "tf32",
            GPU,
            "tf32 needs an NVIDIA GPU of compute capability 8.0 .* this run is on an old GPU. Use float32.",
        ),
        ("bf16", GPU, "bf16 is not supported by an old GPU. Use fp16 or float32."),
    ],
)
def test_a_precision_that_a_device_lacks_is_refused(
    precision: str, device: torch.device, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeCuda(name="an old GPU", capability=(7, 5), has_bf16=False).install(monkeypatch)
    with pytest.raises(ConfigError, match=message):
        devices.check_precision(precision, device)


OLD_DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.82.01  Wed Oct 27 21:21:55 UTC 2021\nGCC version: 9\n"


def config(device: str) -> Config:
    schedule = {"steps": 1, "global_batch": 2}
    return Config.model_validate(
        {"name": "run", "data": {"shards": "x"}, "schedule": schedule, "runtime": {"device": device}}
    )


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """torch finds no GPU, and the drivers' files are in this folder, which is empty."""
    FakeCuda(gpus=0).install(monkeypatch)
    monkeypatch.setattr(devices, "NVIDIA_DRIVER", tmp_path / "version")
    monkeypatch.setattr(devices, "AMD_DRIVER", tmp_path / "kfd")
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_gpu_that_torch_cannot_use_is_no_reason_to_train_on_the_cpu(no_gpu: Path) -> None:
    (no_gpu / "version").write_text(OLD_DRIVER)
    for wanted in ("auto", "cuda"):
        with pytest.raises(
            ConfigError, match=rf"NVIDIA GPU \(driver 470\.82\.01\), but torch {torch.__version__[:4]}"
        ):
            devices.chosen_device(config(wanted))
    assert devices.chosen_device(config("cpu")) == CPU
    assert devices.best_device() == CPU


def test_a_gpu_of_amd_that_torch_cannot_use_is_named_too(no_gpu: Path) -> None:
    (no_gpu / "kfd").write_text("")
    with pytest.raises(ConfigError, match=r"This machine has an AMD GPU .* set runtime\.device: cpu"):
        devices.chosen_device(config("auto"))


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_gpus_that_are_hidden_from_the_process_are_none(
    no_gpu: Path, hidden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (no_gpu / "version").write_text(OLD_DRIVER)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert devices.chosen_device(config("auto")) == CPU


def test_a_machine_without_gpus_trains_on_the_cpu(no_gpu: Path) -> None:
    assert devices.chosen_device(config("auto")) == CPU
    with pytest.raises(ConfigError, match="torch finds no CUDA device"):
        devices.chosen_device(config("cuda"))


@pytest.mark.parametrize(
    ("built", "capability", "runs"),
    [
        (["sm_75", "sm_80", "sm_90"], (9, 0), True),
        (["sm_75", "sm_80", "sm_90"], (8, 9), True),
        (["sm_75", "sm_80", "sm_90"], (7, 0), False),
        (["sm_75", "sm_80", "sm_90"], (12, 0), False),
        (["sm_80", "compute_90"], (12, 0), True),
        (["sm_90a"], (9, 0), True),
        (["sm_90a"], (10, 0), False),
        (["sm_100", "sm_120"], (12, 0), True),
        (["gfx90a"], (9, 0), True),
    ],
)
def test_a_gpu_needs_code_that_torch_was_built_with(
    built: list[str], capability: tuple[int, int], runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeCuda(built=tuple(built), capability=capability).install(monkeypatch)
    if runs:
        assert devices.chosen_device(config("auto")) == GPU
    else:
        with pytest.raises(
            ConfigError, match=rf"sm_{capability[0]}{capability[1]}, and torch .* has code for sm_"
        ):
            devices.chosen_device(config("auto"))


def test_a_gpu_is_the_best_device_and_computes_in_its_fastest_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = FakeCuda().install(monkeypatch)
    assert devices.best_device() == GPU
    assert devices.gpus_in_use() == [0]
    assert devices.fastest_precision(GPU) == "bf16"
    for precision in ("float32", "tf32", "bf16", "fp16"):
        devices.check_precision(precision, GPU)
    cuda.has_bf16 = False
    assert devices.fastest_precision(GPU) == "float32"


def test_what_a_gpu_says_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(gpus=3, reach=frozenset({(0, 1), (1, 0)})).install(monkeypatch)
    assert [gpu.bus for gpu in devices.gpus()] == ["0000:3b:00.0", "0000:3c:00.0", "0000:3d:00.0"]
    assert devices.gpus()[1].architecture == "sm_90"
    assert devices.strangers() == [(0, 2), (1, 2), (2, 0), (2, 1)]
    first, second = (devices.device_identity(torch.device("cuda", number)) for number in (0, 1))
    assert first != second
    assert devices.free_device_memory(GPU) == 3 << 30
    assert devices.allocated_memory(GPU) == {"peak": 1 << 30, "reserved": 2 << 30}


def test_time_on_a_gpu_is_that_of_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda().install(monkeypatch)
    first, second = devices.record_moment(GPU), devices.record_moment(GPU)
    assert devices.milliseconds_between(first, second) == 1.5
    assert cuda.calls == ["event waited for"]
    devices.synchronize(CPU)
    devices.synchronize(GPU)
    assert cuda.calls[1:] == ["synchronize cuda"]


def test_hidden_waits_are_errors_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda().install(monkeypatch)
    modes = []

    def fail() -> None:
        with devices.hidden_waits_refused():
            modes.append(cuda.sync_debug_mode)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail()
    assert [*modes, cuda.sync_debug_mode] == ["error", 0]


def test_a_captured_function_runs_once_and_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, numbers = FakeCuda().install(monkeypatch), count()
    replay = devices.capture_cuda_graph(lambda: next(numbers))
    assert [replay(), replay(), next(numbers)] == [0, 0, 1]
    # Other threads, which copy images to the GPU, must not end a capture.
    assert cuda.calls == ["capture thread_local", "replay", "replay"]


@pytest.mark.parametrize(
    ("error", "expected", "text"),
    [
        (
            RuntimeError("CUDA error: operation not permitted when stream is capturing.\nmore"),
            ConfigError,
            "cannot be captured as a CUDA graph: CUDA error: .* capturing. A network .*cuda_graph: false",
        ),
        (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError, "out of memory"),
    ],
)
def test_what_cannot_be_captured_is_said(
    error: Exception, expected: type[Exception], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeCuda().install(monkeypatch)

    def fail() -> None:
        raise error

    with pytest.raises(expected, match=text):
        devices.capture_cuda_graph(fail)
