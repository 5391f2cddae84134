"""Shards at a URL: no failure of the network changes a byte or lets the disk overflow."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import stopping
from pipeline.data.format import disk_cache
from pipeline.data.format.downloads import Patience
from pipeline.data.format.open_shards import open_shards
from pipeline.data.format.remote import remote_set
from pipeline.data.format.shard_set import ShardSet
from pipeline.data.format.transport import Transport
from pipeline.data.reading.cache import Node, decode_all
from pipeline.data.reading.reader import ShardReader
from pipeline.errors import ConfigError, DataError, Terminated
from pipeline.option_data import DataOptions, RemoteOptions
from tests.chaos_server import chaos
from tests.data.format.downloads import options
from tests.ranks import wait_until
from tests.shards import digits, reader, write


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,797 digits of 8 x 8 pixels in 18 shards of about 250 kB."""
    out = tmp_path_factory.mktemp("remote") / "set"
    write(digits(), out, 8, 1, 100)
    return out


def open_remote(url: str, place: Path, **changes: float) -> ShardSet:
    return open_shards(DataOptions(shards=url, shuffle_shards=2, remote=options(place, **changes)))


def assert_equal_to_local(remote: ShardSet, local: Path) -> None:
    ids = np.random.default_rng(0).permutation(remote.manifest.count)
    try:
        assert torch.equal(ShardReader(remote).read(ids), reader(local).read(ids))
    finally:
        remote.files.close()


@pytest.mark.slow
def test_no_failure_of_the_server_changes_a_sample(shards: Path, tmp_path: Path) -> None:
    with chaos(shards.parent, rate=0.4, seed=2) as server:
        assert_equal_to_local(open_remote(f"{server.url}/set/", tmp_path), shards)
        assert set(server.done) == {"dropped", "cut", "stalled", "unavailable", "altered"}


@pytest.mark.slow
def test_no_failure_of_the_network_to_s3_changes_a_sample(
    shards: Path, tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=s3)
    client.create_bucket(Bucket="bucket")
    for file in shards.iterdir():
        client.upload_file(str(file), "bucket", f"some/set/{file.name}")
    with chaos(upstream=s3, rate=0.3, seed=1) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        assert_equal_to_local(open_remote("s3://bucket/some/set", tmp_path), shards)
        assert len(server.done) >= 4
        with pytest.raises(
            DataError, match=r"s3://bucket/none/manifest\.json does not exist\. Correct the address"
        ):
            open_remote("s3://bucket/none", tmp_path)


def test_a_set_is_downloaded_once_and_then_read_from_the_disk(shards: Path, tmp_path: Path) -> None:
    with chaos(shards.parent) as server:
        for _ in range(2):
            assert_equal_to_local(open_remote(f"{server.url}/set", tmp_path), shards)
        times = {path: count for path, count in server.whole.items() if "manifest" not in path}
        assert len(times) == 36
        assert set(times.values()) == {1}


def test_announced_files_are_downloaded_before_they_are_opened(shards: Path, tmp_path: Path) -> None:
    with chaos(shards.parent) as server:
        remote = open_remote(f"{server.url}/set", tmp_path)
        remote.files.expect(["000003.tar"], ["000007.npy"])
        digests = [remote.manifest.shards[3].sha256, remote.manifest.shards[7].index_sha256]
        wait_until(lambda: all((tmp_path / digest).exists() for digest in digests))
        remote.files.close()


def stored(place: Path) -> int:
    """The size of all files; some may be removed while they are counted."""
    total = 0
    for path in place.iterdir():
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def test_downloaded_files_never_take_more_than_the_capacity(shards: Path, tmp_path: Path) -> None:
    largest, done = [0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            largest[0] = max(largest[0], stored(tmp_path))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with chaos(shards.parent, rate=0.2) as server:
            remote = open_remote(f"{server.url}/set", tmp_path, capacity_gb=0.0011)
            images = decode_all(ShardReader(remote), Node(), show_progress=False)
            everything = np.arange(1797)
            assert torch.equal(images.read(everything), reader(shards).read(everything))
            remote.files.close()
    finally:
        done.set()
        watcher.join()
    assert 500_000 < largest[0] <= 1_100_000


def fetch_all(url: str, place: Path) -> None:
    remote = open_remote(url, place)
    for shard in remote.manifest.shards:
        remote.files.open(shard.name).close()
        remote.files.open(shard.index).close()
    remote.files.close()


@pytest.mark.slow
def test_two_processes_download_each_file_once(shards: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with chaos(shards.parent) as server:
        both = [context.Process(target=fetch_all, args=(f"{server.url}/set", tmp_path)) for _ in range(2)]
        for process in both:
            process.start()
        for process in both:
            process.join(60)
        assert [process.exitcode for process in both] == [0, 0]
        assert {count for path, count in server.whole.items() if "manifest" not in path} == {1}
        assert len(server.whole) == 37


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_that_stops_the_next_one(shards: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with chaos(shards.parent, rate=1.0, faults=("stalled",)) as server:
        manifest = shards / "manifest.json"
        program = context.Process(target=stall, args=(f"{server.url}/set", tmp_path, manifest.read_bytes()))
        program.start()
        wait_until(lambda: any(path.name.count(".") == 2 for path in tmp_path.iterdir()))
        assert program.pid is not None
        os.kill(program.pid, signal.SIGKILL)
        program.join()
    assert any(path.name.count(".") == 2 for path in tmp_path.iterdir())
    with chaos(shards.parent) as server:
        assert_equal_to_local(open_remote(f"{server.url}/set", tmp_path), shards)
    assert not [path.name for path in tmp_path.iterdir() if path.name.count(".") == 2]


def stall(url: str, place: Path, manifest: bytes) -> None:
    from pipeline.data.format.manifest import parse_manifest

    files = remote_set(url, parse_manifest(manifest, "x"), options(place, stall_seconds=60))
    files.open("000000.tar")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("unavailable", "503"),
        ("cut", r"only [\d,]+ of [\d,]+ bytes arrived"),
        (
            "altered",
            r"its SHA-256 is not the one in the manifest.* replaced on the server \(then run `wgan shards index`",
        ),
        ("stalled", r"[Tt]ime|bytes had arrived by then"),
    ],
)
def test_a_permanent_failure_ends_at_the_deadline_with_its_reason(
    shards: Path, tmp_path: Path, fault: str, reason: str
) -> None:
    with chaos(shards.parent) as server:
        remote = open_remote(f"{server.url}/set", tmp_path, deadline_seconds=1.5)
        server.rate, server.faults = 1.0, (fault,)
        started = time.monotonic()
        with pytest.raises(
            DataError,
            match=rf"000000\.tar could not be downloaded within 1\.5 s, in \d attempts?; the last error:.*(?:{reason})",
        ):
            remote.files.open("000000.tar")
        assert time.monotonic() - started < 5
        remote.files.close()


def test_an_unreachable_server_is_retried_until_the_deadline(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"manifest\.json could not be downloaded within 1\.2 s, in \d attempts"
    ):
        open_remote("http://127.0.0.1:9/set", tmp_path, deadline_seconds=1.2)


def test_room_for_three_shards_is_enough_to_read_any_sample(shards: Path, tmp_path: Path) -> None:
    with chaos(shards.parent) as server:
        options_ = {"shuffle_shards": 1, "remote": options(tmp_path, capacity_gb=0.00065, deadline_seconds=5)}
        remote = open_shards(DataOptions(shards=f"{server.url}/set", **options_))  # type: ignore[arg-type]
        reading = ShardReader(remote)
        reading.expect([0], [1])
        ids = np.arange(0, 1797, 37)
        assert torch.equal(reading.read(ids), reader(shards).read(ids))
        remote.files.close()


def test_closing_ends_a_waiting_download(shards: Path, tmp_path: Path) -> None:
    with chaos(shards.parent) as server:
        remote = open_remote(f"{server.url}/set", tmp_path)
        server.rate, server.faults = 1.0, ("unavailable",)
        threading.Timer(0.3, remote.files.close).start()
        with pytest.raises(DataError, match="the run is ending"):
            remote.files.open("000000.tar")


def test_a_capacity_too_small_for_the_windows_is_refused_at_the_start(shards: Path, tmp_path: Path) -> None:
    with (
        chaos(shards.parent) as server,
        pytest.raises(
            ConfigError,
            match=r"capacity_gb: 0\.0005 is too small: 5 shards must fit at once .* takes 0\.\d+ GB",
        ),
    ):
        open_remote(f"{server.url}/set", tmp_path, capacity_gb=0.0005)


def test_a_manifest_of_many_megabytes_is_downloaded_completely(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(text := b"{" + b" " * 12_000_000 + b"}")
    with chaos(tmp_path) as server:
        transport = Transport(server.url, RemoteOptions())
        patience = Patience.of("the manifest", RemoteOptions())
        assert transport.read("manifest.json", 1 << 24, patience) == text
        with pytest.raises(DataError, match=r"manifest\.json is larger than 1 MiB, so it is not a manifest"):
            transport.read("manifest.json", 1 << 20, patience)


def test_an_existing_manifest_is_never_reported_as_missing(shards: Path, tmp_path: Path) -> None:
    with (
        chaos(shards.parent, rate=1.0, faults=("unavailable",)) as server,
        pytest.raises(DataError, match=r"manifest\.json could not be downloaded within 1 s.*503"),
    ):
        open_remote(f"{server.url}/set", tmp_path, deadline_seconds=1)
    with (
        chaos(shards.parent, rate=1.0, faults=("denied",)) as server,
        pytest.raises(
            DataError, match=r"manifest\.json may not be read: access was denied \(the server answered 401"
        ),
    ):
        open_remote(f"{server.url}/set", tmp_path)


def test_a_copy_that_has_changed_unseen_is_downloaded_again(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A disk that loses bits leaves the time of the last change as it was."""
    monkeypatch.setattr(disk_cache, "SMALL", 0)
    ids = np.arange(100)
    with chaos(shards.parent) as server:
        remote = open_remote(f"{server.url}/set", tmp_path)
        whole = ShardReader(remote).read(ids)
        remote.files.close()
        path = tmp_path / remote.manifest.shards[0].sha256
        content, status = bytearray(path.read_bytes()), path.stat()
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        remote = open_remote(f"{server.url}/set", tmp_path)
        assert torch.equal(ShardReader(remote).read(ids), whole)
        remote.files.close()
        assert server.whole["/set/000000.tar"] == 2
    assert f"warning: {path} has changed since it was downloaded" in capfd.readouterr().err


def test_a_signal_ends_a_download_that_would_take_minutes(shards: Path, tmp_path: Path) -> None:
    with chaos(shards.parent) as server, stopping.listening(saves=False):
        remote = open_remote(f"{server.url}/set", tmp_path, stall_seconds=60)
        server.rate, server.faults = 1.0, ("stalled",)
        threading.Timer(0.3, signal.raise_signal, [signal.SIGTERM]).start()
        began = time.monotonic()
        with pytest.raises(Terminated):
            remote.files.open("000000.tar")
        assert time.monotonic() - began < 20
        remote.files.close()
