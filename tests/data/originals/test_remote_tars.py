"""Tar files of others at URLs: whatever the network does, each sample arrives once and unchanged."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from multiprocessing.queues import Queue
from pathlib import Path

import pytest

import pipeline
from pipeline.data.format.open_shards import open_shards
from pipeline.data.format.shard_set import open_directory
from pipeline.data.inspecting.check import check_shards
from pipeline.data.originals.index_set import Wanted, index_originals
from pipeline.data.originals.opening import place_of, settled
from pipeline.errors import ConfigError, DataError
from pipeline.option_data import DataOptions, RemoteOptions
from tests.chaos_server import chaos
from tests.data.format.downloads import options
from tests.data.originals.corpus import made, pack, pairs

COUNT, PER_TAR = 12, 9
FAULTS = ("dropped", "cut", "stalled", "unavailable")
"""A changed byte of a file that nobody has read before could not be told from the file"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("originals") / "served"
    (root / "d").mkdir(parents=True)
    for number in range(COUNT):
        keys = [f"{number:02d}/{place:03d}" for place in range(PER_TAR)]
        (root / "d" / f"{number:02d}.tar").write_bytes(pack(pairs(*keys)))
    return root


def local(served: Path, place: Path) -> str:
    """What identifies the set if its tar files are on a disk."""
    return index_originals([f"{served}/d/*.tar"], place, Wanted()).manifest.sha256


def crcs(out: Path, remote: RemoteOptions) -> list[int]:
    """The checksums of all images, which are compared with those of the index when they are read."""
    import zlib

    shards, found = open_shards(DataOptions(shards=str(out), shuffle_shards=1, remote=remote)), []
    for shard in shards.manifest.shards:
        with shards.files.open(shard.name) as file:
            content = file.read()
        for offset, size, _, checksum in shards.load_index(shard).tolist():
            assert zlib.crc32(content[offset : offset + size]) == checksum
            found.append(checksum)
    shards.files.close()
    return found


def test_a_web_server_that_fails_gives_the_same_set(served: Path, tmp_path: Path) -> None:
    with chaos(served, rate=0.3, seed=3, faults=FAULTS) as server:
        remote = options(tmp_path / "cache")
        pattern = f"{server.url}/d/{{00..{COUNT - 1}}}.tar"
        found = index_originals([pattern], tmp_path / "out", Wanted(remote=remote)).manifest
        assert len(server.done) >= 3
        assert found.sha256 == local(served, tmp_path / "local")
        assert all(shard.is_remote and len(shard.sha256) == 64 for shard in found.shards)
        whole = dict(server.whole)
        assert len(crcs(tmp_path / "out", remote)) == COUNT * PER_TAR
        # What was downloaded for the index is read from the disk.
        assert dict(server.whole) == whole


def test_a_copy_that_arrives_changed_later_is_found_by_its_hash(served: Path, tmp_path: Path) -> None:
    with chaos(served) as server:
        wanted = Wanted(remote=options(tmp_path / "cache"))
        index_originals([f"{server.url}/d/{{02..03}}.tar"], tmp_path / "out", wanted)
        before = crcs(tmp_path / "out", wanted.remote)
        server.rate, server.faults = 0.6, ("altered",)
        assert crcs(tmp_path / "out", options(tmp_path / "another")) == before
        assert server.done["altered"]
        (served / "d" / "03.tar").rename(served / "gone")
        try:
            with pytest.raises(DataError, match=r"d/03\.tar does not exist"):
                crcs(tmp_path / "out", options(tmp_path / "third"))
        finally:
            (served / "gone").rename(served / "d" / "03.tar")


def test_only_what_the_server_says_has_changed_is_downloaded_again(served: Path, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    for name in ("a.tar", "b.tar"):
        (tmp_path / "root" / name).write_bytes((served / "d" / "00.tar").read_bytes())
    with chaos(tmp_path / "root") as server:
        wanted, pattern = Wanted(remote=options(tmp_path / "cache")), f"{server.url}/{{a,b}}.tar"
        first = index_originals([pattern], tmp_path / "out", wanted)
        (tmp_path / "root" / "b.tar").write_bytes(pack(made("x.jpg x.cls=1 y.png y.cls=0 z.jpg z.cls=1")))
        second = index_originals([pattern], tmp_path / "out", wanted)
    assert second.changes == "1 tar file changed"
    assert second.manifest.shards[0] == first.manifest.shards[0]
    assert second.manifest.shards[1].count == 3


def list_samples(
    environment: dict[str, str], pattern: list[str], cache: Path, found: Queue[list[str]]
) -> None:
    """What one of two processes reads of a pattern, which both index and open by themselves."""
    os.environ |= environment
    stream = pipeline.as_webdataset(pattern, options(cache))
    found.put([f"{s['__key__']} {s['cls']!r} {hashlib.sha256(s['jpg']).hexdigest()}" for s in stream])


def read_by_two(pattern: list[str], cache: Path) -> list[str]:
    context = multiprocessing.get_context("spawn")
    found: Queue[list[str]] = context.Queue()
    both = [
        context.Process(
            target=list_samples, args=({"RANK": str(rank), "WORLD_SIZE": "2"}, pattern, cache, found)
        )
        for rank in range(2)
    ]
    for process in both:
        process.start()
    halves = [found.get(timeout=60) for _ in both]
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert len(halves[0]) == len(halves[1])
    return sorted(halves[0] + halves[1])


@pytest.mark.slow
def test_two_processes_lose_repeat_and_change_nothing(
    served: Path, tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sorted(
        f"{sample['__key__']} {sample['cls']!r} {hashlib.sha256(sample['jpg']).hexdigest()}"
        for sample in pipeline.as_webdataset(f"{served}/d/*.tar", options(tmp_path / "plain"))
    )
    assert len(whole) == COUNT * PER_TAR
    with chaos(served, rate=0.3, seed=1, faults=FAULTS) as server:
        assert read_by_two([f"{server.url}/d/{{00..{COUNT - 1}}}.tar"], tmp_path / "web") == whole
        assert server.done
    import boto3

    client = boto3.client("s3", endpoint_url=s3)
    client.create_bucket(Bucket="bucket")
    for file in (served / "d").iterdir():
        client.upload_file(str(file), "bucket", f"tars/of/others/{file.name}")
    with chaos(upstream=s3, rate=0.25, seed=1, faults=FAULTS) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        assert read_by_two(["s3://bucket/tars/of/others/*.tar"], tmp_path / "s3") == whole
        assert server.done


def test_a_pattern_is_indexed_once_and_kept(
    served: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = DataOptions(shards=f"{served}/d/*.tar", remote=options(tmp_path / "cache"))
    place = place_of([f"{served}/d/*.tar"], data.remote)
    first = settled(data)
    assert first.shards == str(place)
    assert str(place) in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in Path(str(first.shards)).glob("*.index")}
    assert settled(first) == first == settled(data)
    assert {path: path.stat().st_mtime_ns for path in place.glob("*.index")} == before
    assert place_of([f"{served}/d/00.tar"], data.remote) != place


def test_an_index_at_a_url_is_refused(served: Path, tmp_path: Path) -> None:
    index_originals([f"{served}/d/00.tar"], tmp_path / "out", Wanted())
    with chaos(tmp_path) as server, pytest.raises(DataError, match="manifest names places on other machines"):
        open_shards(DataOptions(shards=f"{server.url}/out", remote=options(tmp_path / "cache")))


def test_a_tar_file_larger_than_the_room_for_downloads_is_refused(served: Path, tmp_path: Path) -> None:
    with chaos(served) as server, pytest.raises(ConfigError, match=r"capacity_gb: 1e-06 is less than the"):
        index_originals(
            [f"{server.url}/d/00.tar"],
            tmp_path / "out",
            Wanted(remote=options(tmp_path / "cache", capacity_gb=1e-6)),
        )


def test_the_check_reads_tar_files_at_urls(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with chaos(served) as server:
        wanted = Wanted(remote=options(tmp_path / "cache"))
        index_originals([f"{server.url}/d/{{00..01}}.tar"], tmp_path / "out", wanted)
        assert check_shards(tmp_path / "out").is_valid
        assert not open_directory(tmp_path / "out").is_local
