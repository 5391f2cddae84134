"""What is found of a machine and what is a problem of it, on fakes of machines that are not here."""

from __future__ import annotations

import resource
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from pipeline.acceptance import preflight
from pipeline.acceptance.bench import Bench
from pipeline.acceptance.preflight import Finding, look_over
from pipeline.errors import ConfigError
from pipeline.ranks import devices
from pipeline.ranks.devices import Gpu

Disk = namedtuple("Disk", "total used free")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[Gpu]:
    found = [Gpu("H", f"GPU-{n}", "sm_90", 80 * 2**30, f"0000:0{n}:00.0") for n in range(2)]
    monkeypatch.setattr(devices, "gpu_count", lambda: len(found))
    monkeypatch.setattr(devices, "gpus", lambda: found)
    monkeypatch.setattr(devices, "strangers", list)
    monkeypatch.setattr(devices, "built_architectures", lambda: ["sm_80", "sm_90"])
    monkeypatch.setattr(devices, "check_architecture", lambda: None)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(2**34, 0, 2**34))
    return found


def problems() -> dict[str, str]:
    return {name: finding.problem for name, finding in look_over().items() if finding.problem is not None}


def test_a_good_machine_has_no_problem(two_gpus: list[Gpu]) -> None:
    assert problems() == {}
    assert look_over()["UUIDs"].text == "GPU-0, GPU-1"
    assert look_over()["peer access"].text == "all 2 GPUs reach each other's memory"
    assert look_over()["architectures"].text == "sm_90; torch has code for sm_80, sm_90"


def test_gpus_that_torch_cannot_use_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "gpu_count", lambda: 0)
    monkeypatch.setattr(devices, "unusable_gpus", lambda: "an old driver")
    assert problems()["driver"].startswith("an old driver. Update the driver, or install a build of torch")


def test_a_missing_architecture_is_a_problem(two_gpus: list[Gpu], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise ConfigError("no code for sm_120")

    monkeypatch.setattr(devices, "check_architecture", refuse)
    assert problems() == {"architectures": "no code for sm_120"}


def test_one_identity_for_two_gpus_is_a_problem(two_gpus: list[Gpu]) -> None:
    two_gpus[1] = two_gpus[0]
    assert "two GPUs have one UUID" in problems()["UUIDs"]


def test_a_small_shm_is_a_problem_of_several_gpus_only(
    two_gpus: list[Gpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(2**26, 0, 2**26))
    assert "--shm-size=2g" in problems()["/dev/shm"]
    del two_gpus[1]
    assert problems() == {}


def test_gpus_that_do_not_reach_each_other_are_told_and_no_problem(
    two_gpus: list[Gpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "strangers", lambda: [(0, 1), (1, 0)])
    found = look_over()["peer access"]
    assert found == Finding("2 of 2 pairs of GPUs exchange through the host, which is slower")


def test_the_numa_node_of_a_gpu_is_read_from_the_system(
    two_gpus: list[Gpu], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "PCI", tmp_path)
    for number, gpu in enumerate(two_gpus):
        (tmp_path / gpu.bus).mkdir()
        (tmp_path / gpu.bus / "numa_node").write_text(f"{-number}\n")
    assert look_over()["NUMA"].text.endswith("node; GPU 0 at node 0; GPU 1 at node unknown")


def test_few_open_files_and_a_wrong_interface_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, 4096))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "absent9")
    assert "ulimit -n" in problems()["limits"]
    assert "names absent9, which is not up" in problems()["interface"]


def test_problems_fail_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "exchange_over", lambda ranks: Finding(f"{ranks} ranks", "a sum is wrong"))
    bench = Bench(tmp_path)
    preflight.run(bench)
    assert bench.failures == ["all-reduce: a sum is wrong"]
    assert bench.figures["hardware"]["cores"] >= 1


def test_a_single_gpu_exchanges_nothing(
    two_gpus: list[Gpu], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del two_gpus[1]
    monkeypatch.setattr(preflight, "exchange", lambda ranks: pytest.fail(f"{ranks} ranks were started"))
    bench = Bench(tmp_path)
    assert preflight.run(bench) == "1 GPU (H); all-reduce: none, because there is one GPU"
    assert bench.failures == []
