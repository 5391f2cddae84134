"""The cores that a process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from pipeline import cores
from pipeline.cores import available_cores, share_of_cores
from pipeline.ranks.thread_count import machine_threads, rank_threads

V1 = "12:cpuset:/\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n"


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of the cgroups of a machine with 64 cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(cores, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "OWN_CGROUPS", tmp_path / "own")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {}, 64),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/a/b\n", {"a/cpu.max": "350000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3),
        ("0::/a/b\n", {"a/cpu.max": "800000 100000\n", "a/b/cpu.max": "400000 100000\n"}, 4),
        ("0::/on/the/host\n", {"cpu.max": "500000 100000\n"}, 5),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "600000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 6),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 64),
        ("0::/\n", {"cpu.max": "what?"}, 64),
    ],
)
def test_the_smallest_quota_of_all_cgroups_counts(
    own: str, files: dict[str, str], expected: int, groups: Path
) -> None:
    write(groups / "own", own)
    for name, text in files.items():
        write(groups / "cgroup" / name, text)
    assert available_cores() == expected


def test_the_affinity_counts_where_there_are_no_cgroups(
    groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 9})
    assert available_cores() == 3
    assert share_of_cores(2) == 1
    assert share_of_cores(8) == 1


def test_a_rank_has_no_more_threads_than_its_share(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(groups / "own", "0::/\n")
    write(groups / "cgroup/cpu.max", "400000 100000\n")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 32)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [rank_threads(None, ranks, ranks) for ranks in (1, 2, 8)] == [4, 2, 1]
    assert rank_threads(7, 2, 2) == 7
    assert [machine_threads(*pair) for pair in ((2, 2), (1, 3), (3, 2), (1, 8), (9, 2))] == [4, 3, 4, 4, 9]
    monkeypatch.setenv("OMP_NUM_THREADS", "32")
    assert rank_threads(None, 2, None) == 32
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert rank_threads(None, 2, None) == 1
