"""CPUs and GPUs: what this machine has, and how a GPU is asked. The only file that calls `torch.cuda`."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from pipeline.errors import ConfigError
from pipeline.foreign_text import printable
from pipeline.options import Config

NVIDIA_DRIVER, AMD_DRIVER = Path("/proc/driver/nvidia/version"), Path("/dev/kfd")
"""What is there if a driver is loaded, whether or not torch can use it."""

Result = TypeVar("Result")


def gpu_count() -> int:
    """How many GPUs torch can use."""
    return torch.cuda.device_count()


def gpus_in_use() -> list[int]:
    """The GPUs that this process may have used: all of them, or none if torch has not started CUDA yet."""
    is_started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return list(range(gpu_count())) if is_started else []


def best_device() -> torch.device:
    """A GPU if torch can use one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def unusable_gpus() -> str | None:
    """Why torch cannot use a GPU that this machine has and this process may see; None if there is no such GPU."""
    hidden = [
        os.environ.get(name)
        for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
    ]
    if any(value is not None and value.strip() in ("", "-1") for value in hidden):
        return None
    if (version := nvidia_driver()) is not None:
        return f"This machine has an NVIDIA GPU ({version}), but torch {_build()} cannot use it"
    if AMD_DRIVER.exists():
        return f"This machine has an AMD GPU ({AMD_DRIVER}), but torch {_build()} cannot use it"
    return None


def nvidia_driver() -> str | None:
    """The loaded driver of NVIDIA and its version; None if there is none."""
    if not NVIDIA_DRIVER.is_file():
        return None
    driver = re.search(r"Kernel Module\D*([\d.]+)", NVIDIA_DRIVER.read_text(errors="replace"))
    return f"driver {driver[1]}" if driver else "a driver of unknown version"


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch can use."""

    name: str
    identity: str
    architecture: str
    """Such as sm_90"""
    memory: int
    """bytes"""
    bus: str
    """Its address on the PCI bus, as in /sys/bus/pci/devices"""


def gpus() -> list[Gpu]:
    """The GPUs that torch can use, by number."""
    return [_gpu(torch.cuda.get_device_properties(number)) for number in range(gpu_count())]


def _gpu(found: Any) -> Gpu:
    bus = f"{found.pci_domain_id:04x}:{found.pci_bus_id:02x}:{found.pci_device_id:02x}.0"
    return Gpu(found.name, str(found.uuid), f"sm_{found.major}{found.minor}", found.total_memory, bus)


def strangers() -> list[tuple[int, int]]:
    """The pairs of GPUs that cannot reach each other's memory, by their numbers."""
    numbers = range(gpu_count())
    pairs = [(first, second) for first in numbers for second in numbers if first != second]
    return [pair for pair in pairs if not torch.cuda.can_device_access_peer(*pair)]


def built_architectures() -> list[str]:
    """What torch has GPU code for, such as sm_90."""
    return torch.cuda.get_arch_list()


def _build() -> str:
    """The version of torch and what it was built for."""
    if torch.version.hip:
        return f"{torch.__version__}, built for ROCm {torch.version.hip},"
    return f"{torch.__version__}, " + (
        f"built for CUDA {torch.version.cuda}," if torch.version.cuda else "built for CPUs only,"
    )


def check_architecture() -> None:
    """Raise ConfigError if torch was built without code for one of the GPUs."""
    built = torch.cuda.get_arch_list()
    for number in range(gpu_count()) if built else ():
        major, minor = torch.cuda.get_device_capability(number)
        if not any(_runs_on(name, major, minor) for name in built):
            raise ConfigError(
                f"GPU {number}, {torch.cuda.get_device_name(number)}, has the architecture sm_{major}{minor}, and "
                f"torch {_build()} has code for {', '.join(built)} only. Install a build of torch that has it, "
                "hide this GPU with CUDA_VISIBLE_DEVICES, or set runtime.device: cpu."
            )


def _runs_on(built: str, major: int, minor: int) -> bool:
    """Whether code for sm_90 or compute_90, for example, runs on this architecture. Names of AMD's are not compared."""
    name = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", built)
    if name is None:
        return True
    kind, *version = name[1], int(name[2]), int(name[3])
    if name[4] == "a":
        return version == [major, minor]
    # Binary code runs on later minor versions, intermediate code on all later versions.
    return version <= [major, minor] and (kind == "compute" or version[0] == major)


def chosen_device(config: Config) -> torch.device:
    """The kind of device that a run uses.

    Raises ConfigError if it is missing, cannot compute in the precision, or would be the CPU only because torch cannot
    use the machine's GPUs.
    """
    wanted = config.runtime.device
    device = torch.device("cpu") if wanted == "cpu" else best_device()
    if device.type == "cuda":
        check_architecture()
    elif wanted != "cpu" and (why := unusable_gpus()) is not None:
        raise ConfigError(
            f"{why}, so this run would be on the CPU. Update the driver, install a build of torch that fits it (see "
            "`wgan doctor`), or set runtime.device: cpu to train on the CPU."
        )
    elif wanted == "cuda":
        raise ConfigError(
            "runtime.device is cuda, but torch finds no CUDA device. Set runtime.device: cpu, or install a driver "
            "and a CUDA build of torch (see `wgan doctor`)."
        )
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


def refuse_shared_gpus(homes: Sequence[Sequence[str]]) -> None:
    """Raise ConfigError if two ranks have one GPU. For each rank: its host's name, and its `device_identity`."""
    shared = [rank for rank, home in enumerate(homes) if home[1] and homes.index(home) < rank]
    if shared:
        first, second = homes.index(homes[shared[0]]), shared[0]
        host, gpu = homes[first]
        raise ConfigError(
            f"Ranks {first} and {second} both have the GPU {gpu} of {host}, and each needs one to itself. Start "
            "fewer ranks there, let each task see its own GPU, or set LOCAL_RANK to 0, 1, ... on each machine."
        )


def check_precision(precision: str, device: torch.device, option: str = "precision") -> None:
    """Raise ConfigError, which names the option, if the device cannot compute in this precision."""
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision: fp16 needs a GPU, and this run is on the CPU. Use bf16 or float32.")
    if precision == "tf32" and not supports_tf32(device):
        raise ConfigError(
            f"{option}: tf32 needs an NVIDIA GPU of compute capability 8.0 (A100) or later, and this run is on "
            f"{device_name(device)}. Use float32."
        )
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


def supports_tf32(device: torch.device) -> bool:
    """Whether the current GPU computes products of float32 in TF32 if it may."""
    if device.type != "cuda" or torch.version.hip:
        return False
    return torch.cuda.get_device_capability(device)[0] >= 8


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


def used_memory(device: torch.device) -> int:
    """Bytes of a GPU that tensors use now; 0 for the CPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all work that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def hidden_waits_refused() -> Iterator[None]:
    """Within it, an operation that makes the host wait for a GPU raises RuntimeError."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


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

    Capturing changes no tensor. The repeated result is the one that `run` returned, with new content. Raises
    ConfigError if `run` does what cannot be captured.
    """
    graph = torch.cuda.CUDAGraph()
    try:
        # Threads that decode images may use the device meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = run()
    except RuntimeError as error:
        # Lost ranks and missing memory are errors of their own.
        if "captur" not in str(error):
            raise
        reason = printable(str(error).strip().partition("\n")[0].rstrip("."))
        raise ConfigError(
            f"A training step cannot be captured as a CUDA graph: {reason}. A network or objective of your own that "
            "reads from the GPU (.item(), .cpu(), if tensor: ...) cannot. Set runtime.cuda_graph: false."
        ) from error

    def replay() -> Result:
        graph.replay()
        return result

    return replay
