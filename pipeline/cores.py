"""How many CPU cores this process may use: fewer than the machine has in a container, a batch job or under taskset."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def allowed_cores() -> set[int]:
    """The numbers of the cores that this process may run on."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def available_cores() -> int:
    """The cores that the scheduler gives this process, by its affinity and by its cgroups' quotas; at least 1."""
    cores = len(allowed_cores())
    # Half a core is of no use to a thread that waits for the others.
    return max(1, int(min([float(cores), *_quotas()])))


def share_of_cores(processes: int) -> int:
    """The cores of one of so many processes on this machine; at least 1."""
    return max(1, available_cores() // processes)


def _quotas() -> Iterator[float]:
    """The cores that each cgroup of this process may use, in version 1 and 2. Groups without a limit are left out."""
    try:
        lines = OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = CGROUPS / controllers if controllers else CGROUPS
        # In a container, the path can be that of the host, of which only the end is there.
        own = Path(path.lstrip("/"))
        for place in (root / own, *(root / parent for parent in own.parents), root):
            yield from _quota_in(place)


def _quota_in(place: Path) -> Iterator[float]:
    try:
        if (place / "cpu.max").is_file():
            quota, period = (place / "cpu.max").read_text().split()
        else:
            quota, period = ((place / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if quota != "max" and int(quota) > 0 and int(period) > 0:
            yield int(quota) / int(period)
    except (OSError, ValueError):
        return  # this group has no such limit, or it is not written as Linux writes it
