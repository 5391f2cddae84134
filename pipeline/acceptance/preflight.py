"""What can be known of a machine before it trains: drivers, GPUs, how they are connected, and limits of the system."""

from __future__ import annotations

import os
import platform
import resource
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil

from pipeline.acceptance.exchange import exchange
from pipeline.cores import available_cores
from pipeline.errors import ConfigError
from pipeline.ranks import devices
from pipeline.ranks.interface import NAME, interface_to
from pipeline.stdout import say
from pipeline.wording import counted

if TYPE_CHECKING:
    from pipeline.acceptance.bench import Bench

SHARED_MEMORY, PCI, NODES = Path("/dev/shm"), Path("/sys/bus/pci/devices"), Path("/sys/devices/system/node")
LEAST_SHARED = 2**30
"""Bytes of /dev/shm for the ranks of a machine with several GPUs: NCCL exchanges through it what takes no other way."""
LEAST_FILES = 1024


class Finding(NamedTuple):
    """What was found, and what is wrong with it; None if nothing is."""

    text: str
    problem: str | None = None

    def __str__(self) -> str:
        return self.text if self.problem is None else f"{self.text}. PROBLEM: {self.problem}"


def look_over() -> dict[str, Finding]:
    """All findings that need no second process, by name."""
    return {name: look() for name, look in LOOKS.items()}


def exchange_over(ranks: int) -> Finding:
    """A checked all-reduce over this many ranks of this machine. A single one has nothing to exchange."""
    if ranks < 2:
        return Finding("none, because there is one GPU")
    figures, problem = exchange(ranks)
    if not figures:
        return Finding("none", problem)
    rate = f"{figures['gigabytes_per_second']:g} GB/s"
    return Finding(f"{counted(ranks, 'rank')} over {figures['backend']}, {rate}", problem)


def run(bench: Bench) -> str:
    """The stage: everything above, between as many ranks as there are GPUs, and at least two on CPUs."""
    # First, because other stages need it, whatever becomes of this one.
    bench.figures["hardware"] = _hardware()
    number = devices.gpu_count()
    findings = look_over() | {"all-reduce": exchange_over(number or 2)}
    bench.figures["findings"] = {name: str(finding) for name, finding in findings.items()}
    for name, finding in findings.items():
        say(f"{name:14} {finding}")
        bench.check(finding.problem is None, f"{name}: {finding.problem}")
    found = ", ".join(sorted({gpu.name for gpu in devices.gpus()})) or "no GPU"
    return f"{counted(number, 'GPU')} ({found}); all-reduce: {findings['all-reduce'].text}"


def _hardware() -> dict[str, object]:
    memory = psutil.virtual_memory()
    return {
        "processor": platform.machine(),
        "cores": available_cores(),
        "memory_gib": round(memory.total / 2**30, 1),
        "gpus": [asdict(gpu) for gpu in devices.gpus()],
    }


def _driver() -> Finding:
    text = devices.nvidia_driver() or "no driver of NVIDIA"
    if devices.gpu_count() or (why := devices.unusable_gpus()) is None:
        return Finding(text)
    return Finding(text, f"{why}. Update the driver, or install a build of torch that fits it")


def _architectures() -> Finding:
    found = ", ".join(sorted({gpu.architecture for gpu in devices.gpus()})) or "no GPU"
    text = f"{found}; torch has code for {', '.join(devices.built_architectures()) or 'no GPU'}"
    try:
        devices.check_architecture()
    except ConfigError as error:
        return Finding(text, str(error))
    return Finding(text)


def _identities() -> Finding:
    identities = [gpu.identity for gpu in devices.gpus()]
    is_repeated = len(set(identities)) < len(identities)
    return Finding(
        ", ".join(identities) or "no GPU",
        "two GPUs have one UUID, and ranks on them would be refused. Look at CUDA_VISIBLE_DEVICES"
        if is_repeated
        else None,
    )


def _peers() -> Finding:
    number, strangers = devices.gpu_count(), devices.strangers()
    if number < 2:
        return Finding("fewer than two GPUs")
    if not strangers:
        return Finding(f"all {number} GPUs reach each other's memory")
    return Finding(
        f"{len(strangers)} of {number * (number - 1)} pairs of GPUs exchange through the host, which is slower"
    )


def _numa() -> Finding:
    nodes = sorted(NODES.glob("node[0-9]*"))
    found = [_node_of(gpu.bus) for gpu in devices.gpus()]
    places = "; ".join(f"GPU {number} at node {node}" for number, node in enumerate(found))
    return Finding(counted(len(nodes) or 1, "node") + (f"; {places}" if places else ""))


def _node_of(bus: str) -> str:
    file = PCI / bus / "numa_node"
    node = file.read_text().strip() if file.is_file() else "-1"
    return "unknown" if node == "-1" else node


def _shared_memory() -> Finding:
    if not SHARED_MEMORY.is_dir():
        return Finding("there is no /dev/shm")
    disk = shutil.disk_usage(SHARED_MEMORY)
    is_small = devices.gpu_count() > 1 and disk.free < LEAST_SHARED
    return Finding(
        f"{disk.free / 2**30:.2f} of {disk.total / 2**30:.2f} GiB free",
        "NCCL may need more. Start the container with --shm-size=2g or --ipc=host" if is_small else None,
    )


def _limits() -> Finding:
    kinds = {
        "files": resource.RLIMIT_NOFILE,
        "processes": resource.RLIMIT_NPROC,
        "locked memory": resource.RLIMIT_MEMLOCK,
    }
    soft = {name: resource.getrlimit(kind)[0] for name, kind in kinds.items()}
    shown = {
        name: "unlimited" if value == resource.RLIM_INFINITY else f"{value:,}" for name, value in soft.items()
    }
    is_small = soft["files"] != resource.RLIM_INFINITY and soft["files"] < LEAST_FILES
    return Finding(
        ", ".join(f"{name} {value}" for name, value in shown.items()),
        f"ranks need {LEAST_FILES} open files. Raise the limit with `ulimit -n`" if is_small else None,
    )


def _interface() -> Finding:
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    named = {name: os.environ[name] for name in (NAME, "NCCL_SOCKET_IFNAME") if os.environ.get(name)}
    text = f"up: {', '.join(sorted(up)) or 'none'}"
    if address := os.environ.get("MASTER_ADDR"):
        text += f"; to MASTER_ADDR by {interface_to(address, False) or 'none that is known'}"
    text += "".join(f"; {name}={value}" for name, value in named.items())
    # NCCL's names may begin with = or ^ and be the beginnings of names; gloo's are whole.
    missing = [name for name in named.get(NAME, "").split(",") if name and name not in up]
    return Finding(
        text, f"{NAME} names {missing[0]}, which is not up. Unset it or name another one" if missing else None
    )


LOOKS: Mapping[str, Callable[[], Finding]] = {
    "driver": _driver,
    "architectures": _architectures,
    "UUIDs": _identities,
    "peer access": _peers,
    "NUMA": _numa,
    "/dev/shm": _shared_memory,
    "limits": _limits,
    "interface": _interface,
}
