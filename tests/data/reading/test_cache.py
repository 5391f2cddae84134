"""Caches: which one is chosen, and that they hold the same images as the shards."""

from __future__ import annotations

import hashlib
import multiprocessing
import sys
from collections import namedtuple
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from pipeline.data.format.indexes import load_index
from pipeline.data.format.manifest import load_manifest
from pipeline.data.format.shard_set import open_directory
from pipeline.data.reading import cache
from pipeline.data.reading.cache import Node, ResidentImages, choose_cache, decode_all
from pipeline.data.reading.reader import ShardReader
from pipeline.errors import ConfigError, DataError
from tests.ranks import wait_until
from tests.shards import digits, write
from tests.shards import reader as open_reader

CPU, GPU = torch.device("cpu"), torch.device("cuda")
MIB = 2**20


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,797 digits of 8 x 8 pixels: more than one chunk of decoding."""
    out = tmp_path_factory.mktemp("shards")
    write(digits(), out, 8, 1, 500)
    return out


@pytest.fixture
def reader(shards: Path) -> ShardReader:
    return open_reader(shards)


def assert_equal(images: ResidentImages, reader: ShardReader) -> None:
    for ids in (np.arange(reader.manifest.count), np.array([1796, 0, 1024, 1023, 1024]), np.array([7])):
        found = images.read(ids)
        assert found.dtype == torch.uint8
        assert torch.equal(found, reader.read(ids))
    assert images.image_shape == reader.image_shape


def test_cached_images_equal_those_of_the_reader(reader: ShardReader) -> None:
    assert_equal(decode_all(reader, Node(), show_progress=False), reader)
    assert_equal(decode_all(reader, Node(), show_progress=False).to(CPU), reader)


def free_memory(monkeypatch: pytest.MonkeyPatch, host: int, device: int) -> None:
    """Pretend that this many bytes are free, because tests cannot rely on the machine's memory."""
    memory = namedtuple("memory", ["available"])
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(host))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (device, device))
    monkeypatch.setattr(cache, "CGROUP", Path("/nowhere"))


@pytest.mark.parametrize(
    ("wanted", "node_size", "device", "host_mib", "device_mib", "chosen", "reason"),
    [
        ("auto", 1, GPU, 1000, 1000, "device", "100 MiB fit into device memory"),
        ("auto", 1, GPU, 200, 1000, "none", "100 MiB of decoded images do not fit into memory"),
        ("auto", 1, GPU, 1000, 300, "host", "100 MiB fit into host memory"),
        ("auto", 4, CPU, 1000, 1000, "host", "100 MiB fit into host memory"),
        ("auto", 4, CPU, 200, 1000, "none", "100 MiB of decoded images do not fit into memory"),
        ("auto", 4, GPU, 200, 300, "none", "100 MiB of decoded images do not fit into memory"),
        ("host", 2, GPU, 1000, 1000, "host", "100 MiB, as configured"),
        ("device", 2, GPU, 1000, 1000, "device", "100 MiB, as configured"),
        ("none", 2, GPU, 1000, 1000, "none", "100 MiB, as configured"),
    ],
)
def test_auto_takes_what_fits_and_other_choices_are_kept(
    monkeypatch: pytest.MonkeyPatch,
    wanted: Any,
    node_size: int,
    device: torch.device,
    host_mib: int,
    device_mib: int,
    chosen: str,
    reason: str,
) -> None:
    free_memory(monkeypatch, host_mib * MIB, device_mib * MIB)
    assert choose_cache(wanted, 100 * MIB, node_size, device) == (chosen, reason)


@pytest.mark.parametrize(
    ("wanted", "device", "message"),
    [
        ("device", CPU, "data.cache: device needs a GPU, but this run is on the CPU. Use host or auto."),
        ("device", GPU, "data.cache: device would take 2,000 MiB of 4,000 MiB of free device memory"),
        (
            "host",
            GPU,
            "data.cache: host would take 2,000 MiB of 3,000 MiB of free memory, which is more than half. "
            "Use data.cache: none.",
        ),
    ],
)
def test_an_impossible_cache_is_an_error(
    monkeypatch: pytest.MonkeyPatch, wanted: Any, device: torch.device, message: str
) -> None:
    free_memory(monkeypatch, 3000 * MIB, 4000 * MIB)
    with pytest.raises(ConfigError) as caught:
        choose_cache(wanted, 2000 * MIB, 1, device)
    assert str(caught.value).startswith(message)


def test_a_device_cache_needs_enough_host_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    free_memory(monkeypatch, 3000 * MIB, 40_000 * MIB)
    with pytest.raises(
        ConfigError,
        match="decodes all images into 2,000 MiB of host memory, of which only 3,000 MiB are free",
    ):
        choose_cache("device", 2000 * MIB, 1, GPU)


@pytest.mark.parametrize(
    ("limit", "free_mib"),
    [(f"{600 * MIB}\n", 450), (f"{5000 * MIB}\n", 3000), ("max\n", 3000), (f"{100 * MIB}\n", 0)],
)
def test_free_memory_is_limited_by_the_machine_and_by_the_cgroup(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str, free_mib: int
) -> None:
    free_memory(monkeypatch, 3000 * MIB, 0)
    assert cache.free_host_memory() == 3000 * MIB, "without a cgroup"
    monkeypatch.setattr(cache, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text(f"{250 * MIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon {150 * MIB}\ninactive_file {100 * MIB}\n")
    assert cache.free_host_memory() == free_mib * MIB


def test_ranks_share_host_memory_on_linux_only(monkeypatch: pytest.MonkeyPatch) -> None:
    free_memory(monkeypatch, 1000 * MIB, 0)
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ConfigError, match="shared by several ranks on Linux only"):
        choose_cache("host", MIB, 2, CPU)
    assert choose_cache("auto", MIB, 2, CPU)[0] == "none"
    assert choose_cache("auto", MIB, 1, CPU)[0] == "host"


def node_of(rank: int, other: Connection) -> Node:
    """One of two ranks on this machine, connected by a pipe. The global ranks are 6 and 7."""

    def exchange(value: Any) -> list[Any]:
        other.send(value)
        theirs = other.recv()
        return [None] * 6 + ([value, theirs] if rank == 0 else [theirs, value])

    def all_agree(error: Exception | None) -> None:
        errors = [str(value) for value in exchange(error)[6:] if value is not None]
        if errors:
            raise DataError(errors[0])

    return Node(rank=rank, size=2, first_rank=6, exchange=exchange, all_agree=all_agree)


def run_two_ranks(work: Callable[[Node], str]) -> list[str]:
    """The results of `work` in two processes that run it at the same time."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    results, put = context.Pipe(duplex=False)

    def be_rank_1() -> None:
        # The threads of the parent's OpenMP pool do not survive a fork.
        torch.set_num_threads(1)
        put.send(work(node_of(1, theirs)))

    other = context.Process(target=be_rank_1)
    other.start()
    try:
        return [work(node_of(0, ours)), results.recv() if results.poll(60) else "nothing"]
    finally:
        other.join(10)
        assert other.exitcode == 0


def test_two_processes_share_one_copy_and_leave_nothing_behind(reader: ShardReader) -> None:
    everything = np.arange(reader.manifest.count)

    def work(node: Node) -> str:
        images = decode_all(reader, node, show_progress=False)
        mapped = Path("/proc/self/maps").read_text().count("memfd:wgan-images")
        return f"{mapped} {hashlib.sha256(images.read(everything).numpy().tobytes()).hexdigest()}"

    reader.read(everything)
    files = set(Path("/dev/shm").iterdir())
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    expected = hashlib.sha256(reader.read(everything).numpy().tobytes()).hexdigest()
    assert run_two_ranks(work) == [f"1 {expected}"] * 2
    # Tests in other workers use shared memory too, but only for a short time.
    wait_until(lambda: set(Path("/dev/shm").iterdir()) <= files)
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors
    assert "memfd:wgan-images" not in Path("/proc/self/maps").read_text()


def test_each_process_decodes_its_own_half(shards: Path) -> None:
    def work(node: Node) -> str:
        read: list[int] = []

        class Counting(ShardReader):
            def read(self, ids: Any, epochs: Any = None) -> torch.Tensor:
                read.extend(ids.tolist())
                return super().read(ids, epochs)

        decode_all(Counting(open_directory(shards)), node, show_progress=False)
        return f"{min(read)} {max(read)} {len(read)}"

    assert run_two_ranks(work) == ["0 897 898", "898 1796 899"]


def test_an_image_that_one_process_cannot_decode_fails_on_both(shards: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in shards.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    manifest = load_manifest(damaged)
    with (damaged / "000003.tar").open("r+b") as file:
        file.seek(load_index(damaged, manifest.shards[3])[0, 0])
        file.write(bytes(8))

    def work(node: Node) -> str:
        try:
            decode_all(open_reader(damaged, manifest), node, show_progress=False)
        except DataError as error:
            return str(error)
        return "no error"

    first, second = run_two_ranks(work)
    assert first == second
    assert first.startswith(f"Sample 0 of {damaged / '000003.tar'} is damaged: its CRC-32 differs")
