"""CPUs and GPUs: what this machine has, and how a GPU is asked. The only file that calls `torch.cuda`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from pipeline.errors import ConfigError
from pipeline.options import Config

Result = TypeVar("Result")


def gpu_count() -> int:
    """How many GPUs torch can use."""
    return torch.cuda.device_count()


def gpus_in_use() -> list[int]:
    """The GPUs that this process may have used: all of them, or none if torch has not started CUDA yet."""
    is_started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return list(range(gpu_count())) if is_started else []


def best_device() -> torch.device:
    """A GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def chosen_device(config: Config) -> torch.device:
    """The kind of device that a run uses. Raises ConfigError if it is missing or cannot compute in the precision."""
    wanted = config.runtime.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "runtime.device is cuda, but torch finds no CUDA device. Set runtime.device: cpu, or install a driver "
            "and a CUDA build of torch (see `wgan doctor`)."
        )
    device = torch.device("cpu") if wanted == "cpu" else best_device()
    if config.precision not in (None, "auto"):
        check_precision(config.precision, device)
    return device


def check_gpu_count(device: torch.device, processes: int) -> None:
    """Raise ConfigError unless each of this machine's ranks has a GPU to itself."""
    if device.type == "cuda" and processes > gpu_count():
        raise ConfigError(
            f"{processes} processes on this machine need {processes} GPUs, and torch finds {gpu_count()}. Start "
            "fewer processes, or set runtime.device: cpu."
        )


def check_precision(precision: str, device: torch.device) -> None:
    """Raise ConfigError if the device cannot compute in this precision."""
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision: fp16 needs a GPU, and this run is on the CPU. Use bf16 or float32.")
    if precision == "bf16" and device.type == "cuda" and not supports_bf16():
        raise ConfigError(f"precision: bf16 is not supported by {device_name(device)}. Use fp16 or float32.")


def fastest_precision(device: torch.device) -> str:
    """bf16 if the device has instructions for it, else float32."""
    if device.type == "cuda":
        return "bf16" if supports_bf16() else "float32"
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if has_bf16 else "float32"


def supports_bf16() -> bool:
    """Whether the current GPU has instructions for bf16; emulating them does not count."""
    return bool(torch.cuda.is_bf16_supported(False))


def device_name(device: torch.device) -> str:
    """The GPU's model, or "CPU"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def device_identity(device: torch.device) -> str:
    """What tells a GPU from all others, however the processes of a machine number them; "" for the CPU."""
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else ""


def free_device_memory(device: torch.device) -> int:
    """Bytes that are free on a GPU; 0 for the CPU."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def allocated_memory(device: torch.device) -> dict[str, int]:
    """Bytes that torch has taken of a GPU: the most that tensors used, and what it reserves. Empty for the CPU."""
    if device.type != "cuda":
        return {}
    return {
        "peak": torch.cuda.max_memory_allocated(device),
        "reserved": torch.cuda.memory_reserved(device),
    }


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all work that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def record_moment(device: torch.device) -> Any:
    """This moment, for `milliseconds_between`. On a GPU it is when the work given so far is finished."""
    if device.type != "cuda":
        return time.perf_counter()
    moment = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    moment.record()
    return moment


def milliseconds_between(start: Any, end: Any) -> float:
    """The time from one moment to a later one. On a GPU it waits for the later one."""
    if isinstance(start, torch.cuda.Event):
        end.synchronize()
        return float(start.elapsed_time(end))
    return float(1e3 * (end - start))


def capture_cuda_graph(run: Callable[[], Result]) -> Callable[[], Result]:
    """Capture what `run` does on the GPU. The returned function repeats it on the same tensors, without Python.

    Capturing changes no tensor. The repeated result is the one that `run` returned, with new content.
    """
    graph = torch.cuda.CUDAGraph()
    # Threads that decode images may use the device meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = run()

    def replay() -> Result:
        graph.replay()
        return result

    return replay
