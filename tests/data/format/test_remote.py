"""Shards at a URL: no failure of the network changes a byte or lets the disk overflow."""

from __future__ import annotations

import fcntl
import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.data.format.disk_cache import DiskCache, NoRoomError
from pipeline.data.format.manifest import Manifest, Shard
from pipeline.data.format.remote import RemoteFiles, Transport, check_url, is_url
from pipeline.data.format.shard_set import ShardSet, open_shards
from pipeline.data.reading.cache import Node, decode_all
from pipeline.data.reading.reader import ShardReader
from pipeline.errors import ConfigError, DataError
from pipeline.options import DataOptions, RemoteOptions
from tests.chaos_server import chaos
from tests.shards import digits, reader, write


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,797 digits of 8 x 8 pixels in 18 shards of about 250 kB."""
    out = tmp_path_factory.mktemp("remote") / "set"
    write(digits(), out, 8, 1, 100)
    return out


def options(place: Path, **changes: float) -> RemoteOptions:
    settings: dict[str, Any] = {"directory": str(place), "stall_seconds": 0.3, "deadline_seconds": 30}
    return RemoteOptions(**{**settings, **changes})


def open_remote(url: str, place: Path, **changes: float) -> ShardSet:
    return open_shards(DataOptions(shards=url, shuffle_shards=2, remote=options(place, **changes)))


def assert_equal_to_local(remote: ShardSet, local: Path) -> None:
    ids = np.random.default_rng(0).permutation(remote.manifest.count)
    try:
        assert torch.equal(ShardReader(remote).read(ids), reader(local).read(ids))
    finally:
        remote.files.close()


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
        with pytest.raises(DataError, match=r"s3://bucket/none/manifest\.json does not exist\. Correct data"):
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
        wait_for(lambda: all((tmp_path / digest).exists() for digest in digests))
        remote.files.close()


def wait_for(condition: object, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


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


def files_of(sizes: dict[str, int], root: Path) -> tuple[Manifest, dict[str, str]]:
    """Write files of these sizes, and a manifest that lists them; the index files are not real indexes."""
    entries = []
    for name, size in sizes.items():
        (root / name).write_bytes(name.encode() * (size // len(name)) + b"x" * (size % len(name)))
        digest = hashlib.sha256((root / name).read_bytes()).hexdigest()
        entries.append(Shard(name, 1, size, digest, name + "-index", "0" * 64))
    return Manifest("x", (8, 8), 1, (), "png", tuple(entries)), {
        shard.name: shard.sha256 for shard in entries
    }


@pytest.fixture
def three(tmp_path: Path) -> Iterator[tuple[RemoteFiles, Path, dict[str, str]]]:
    """Three files of 1,000 bytes, a cache for two, and the files' digests."""
    (tmp_path / "root").mkdir()
    manifest, digests = files_of(dict.fromkeys(("a.tar", "b.tar", "c.tar"), 1000), tmp_path / "root")
    with chaos(tmp_path / "root") as server:
        place = tmp_path / "cache"
        files = RemoteFiles(server.url, manifest, options(place, capacity_gb=2.1e-6, deadline_seconds=1.0))
        yield files, place, digests
        files.close()


Three = tuple[RemoteFiles, Path, dict[str, str]]


def test_the_least_recently_used_file_is_deleted_first(three: Three) -> None:
    files, place, digests = three
    for name in ("a.tar", "b.tar", "a.tar", "c.tar"):
        files.open(name).close()
        time.sleep(0.01)
    assert {name for name, digest in digests.items() if (place / digest).exists()} == {"a.tar", "c.tar"}


def test_files_in_use_are_kept_and_a_full_cache_is_reported(three: Three) -> None:
    files, place, digests = three
    with files.open("a.tar"), files.open("b.tar") as b:
        with pytest.raises(
            DataError, match=r"no room for .*c\.tar: the 2\.1e-06 GB of .*cache are full of shards"
        ):
            files.open("c.tar")
        assert len(b.read()) == 1000
    files.open("c.tar").close()
    assert (place / digests["c.tar"]).exists()


def test_announced_files_are_kept_until_others_are_announced(three: Three) -> None:
    files, place, digests = three
    files.expect(["a.tar", "b.tar"], ["c.tar"])
    wait_for(lambda: all((place / digests[name]).exists() for name in ("a.tar", "b.tar")))
    time.sleep(0.1)
    with pytest.raises(DataError, match="There is no room for"):
        files.open("c.tar")
    files.expect(["c.tar"], [])
    wait_for(lambda: (place / digests["c.tar"]).exists())


def test_files_that_another_process_reads_are_kept(three: Three) -> None:
    files, place, digests = three
    for name in ("a.tar", "b.tar"):
        files.open(name).close()
    program = (
        "import sys, fcntl; file = open(sys.argv[1]); fcntl.flock(file, fcntl.LOCK_SH); "
        "print('locked', flush=True); sys.stdin.read()"
    )
    reading = subprocess.Popen(
        [sys.executable, "-c", program, place / digests["a.tar"]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert reading.stdout is not None
        assert reading.stdout.readline() == b"locked\n"
        files.open("c.tar").close()
        # "a" was the older one.
        assert {name for name, digest in digests.items() if (place / digest).exists()} == {"a.tar", "c.tar"}
    finally:
        reading.communicate()


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
        wait_for(lambda: any(path.name.count(".") == 2 for path in tmp_path.iterdir()), 60)
        assert program.pid is not None
        os.kill(program.pid, signal.SIGKILL)
        program.join()
    assert any(path.name.count(".") == 2 for path in tmp_path.iterdir())
    with chaos(shards.parent) as server:
        assert_equal_to_local(open_remote(f"{server.url}/set", tmp_path), shards)
    assert not [path.name for path in tmp_path.iterdir() if path.name.count(".") == 2]


def stall(url: str, place: Path, manifest: bytes) -> None:
    from pipeline.data.format.manifest import parse_manifest

    files = RemoteFiles(url, parse_manifest(manifest, "x"), options(place, stall_seconds=60))
    files.open("000000.tar")


def test_a_permanent_failure_names_the_file_and_the_last_reason(three: Three) -> None:
    files, _, _ = three
    with pytest.raises(DataError, match=r"http://127.*/a\.tar-index does not exist\. Correct data\.shards"):
        files.open("a.tar-index")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("unavailable", "503"),
        ("cut", r"only [\d,]+ of [\d,]+ bytes arrived"),
        ("altered", "its SHA-256 is not the one in the manifest"),
        ("stalled", "[Tt]ime"),
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
            match=rf"000000\.tar could not be downloaded within 1\.5 s, in \d attempts?; the last error:.*{reason}",
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


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("pipe:curl http://x", "a kind of URL that is not supported"),
        ("file:///etc", "a kind of URL that is not supported"),
        ("ftp://host/x", "a kind of URL that is not supported"),
        ("https:host/x", "a kind of URL that is not supported"),
        ("https://user:secret@host/x", "contains a user name or a password"),
        ("https://host/x::file:///etc", "more than a host and a path, or special characters"),
        ("https://host/{000..999}", "more than a host and a path, or special characters"),
        ("https://host/x;id", "more than a host and a path, or special characters"),
        ("https://host/$(id)", "more than a host and a path, or special characters"),
        ("https://host/x y", "more than a host and a path, or special characters"),
        ("https://host/x?list=1", "more than a host and a path, or special characters"),
        ("https:///x", "more than a host and a path, or special characters"),
        ("s3://bucket/x|id", "more than a host and a path, or special characters"),
    ],
)
def test_only_plain_urls_of_supported_kinds_are_accepted(url: str, message: str) -> None:
    assert is_url(url)
    with pytest.raises(ConfigError, match=message) as caught:
        check_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("place", ["data/mnist", "/data/x:y", "./a", "C", "x"])
def test_paths_are_not_urls(place: str) -> None:
    assert not is_url(place)


def test_a_missing_library_is_named_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*names: object, **arguments: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.filesystem", missing)
    with pytest.raises(
        ConfigError, match=r"s3:// URLs need a library that is not installed .*'wgan-pipeline\[remote\]'"
    ):
        Transport("s3://bucket/x", RemoteOptions())


def test_a_capacity_too_small_for_the_windows_is_refused_at_the_start(shards: Path, tmp_path: Path) -> None:
    with (
        chaos(shards.parent) as server,
        pytest.raises(
            ConfigError,
            match=r"capacity_gb: 0\.0005 is too small: 5 shards must fit at once .* takes 0\.\d+ GB",
        ),
    ):
        open_remote(f"{server.url}/set", tmp_path, capacity_gb=0.0005)


def test_a_file_that_is_not_kept_is_removed_and_takes_no_room(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 100)
    with cache.writing("0" * 64, 80) as (path, _):
        path.write_bytes(b"half")
        # The file that is being written counts with the size that it will have.
        with pytest.raises(NoRoomError), cache.writing("1" * 64, 80):
            pass
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_no_file_is_renamed_while_another_process_counts_files(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 100)
    with cache.writing("0" * 64, 80) as (path, keep):
        path.write_bytes(b"x" * 80)
        keeper = threading.Thread(target=keep)
        with (tmp_path / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keeper.start()
            keeper.join(0.2)
            assert path.exists()
            assert not cache.has("0" * 64)
        keeper.join()
        assert cache.has("0" * 64)


def test_a_manifest_of_many_megabytes_is_downloaded_completely(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(text := b"{" + b" " * 12_000_000 + b"}")
    with chaos(tmp_path) as server:
        transport = Transport(server.url, RemoteOptions())
        assert transport.read("manifest.json", 1 << 24) == text
        with pytest.raises(DataError, match=r"manifest\.json is larger than 1 MiB, so it is not a manifest"):
            transport.read("manifest.json", 1 << 20)


def test_an_existing_manifest_is_never_reported_as_missing(shards: Path, tmp_path: Path) -> None:
    with (
        chaos(shards.parent, rate=1.0, faults=("unavailable",)) as server,
        pytest.raises(DataError, match=r"manifest\.json could not be downloaded within 1 s.*503"),
    ):
        open_remote(f"{server.url}/set", tmp_path, deadline_seconds=1)
    with (
        chaos(shards.parent, rate=1.0, faults=("denied",)) as server,
        pytest.raises(DataError, match=r"manifest\.json may not be read: access was denied \(401"),
    ):
        open_remote(f"{server.url}/set", tmp_path)
