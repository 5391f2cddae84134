"""Compressed tar files: read like plain ones, within limits of size and memory."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.data.sources import Source, Spec, compressed, open_source
from pipeline.errors import ConfigError, DataError, StorageError
from tests.data.sources.helpers import open_path, png, put_tar, values

Compress = Callable[[bytes], bytes]
KINDS = pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def unpacked(path: Path, scratch: Path) -> Source:
    return open_source(Spec(str(path), scratch=scratch))


def plain(tmp_path: Path, prefix: str = "") -> bytes:
    members = [(f"{prefix}{number}.png", png(number)) for number in range(4)]
    return put_tar(tmp_path / "plain.tar", members).read_bytes()


@KINDS
@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.tar.gz", "a.tar.xz", "a.tar.bz2"])
def test_a_compressed_tar_file_is_read_by_its_content(
    compress: Compress, name: str, tmp_path: Path, scratch: Path
) -> None:
    content = plain(tmp_path)
    (tmp_path / name).write_bytes(compress(content[:700]) + compress(content[700:]))  # streams may be joined
    source = unpacked(tmp_path / name, scratch)
    assert values(source) == {f"{number}.png": (None, number) for number in range(4)}
    assert source.name == name


def test_compressed_and_plain_tar_files_are_one_set(tmp_path: Path, scratch: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "000.tar").write_bytes(plain(tmp_path))
    (tmp_path / "set" / "001.tar.gz").write_bytes(gzip.compress(plain(tmp_path, "b")))
    source = unpacked(tmp_path / "set", scratch)
    assert [source.key(n) for n in range(8)] == [
        *(f"000.tar/{n}" for n in range(4)),
        *(f"001.tar.gz/b{n}" for n in range(4)),
    ]
    shutil.copy(tmp_path / "set" / "000.tar", tmp_path / "set" / "001.tar")
    with pytest.raises(DataError, match=r"both 001\.tar and 001\.tar\.gz\. If one is the compressed copy"):
        unpacked(tmp_path / "set", scratch)


@KINDS
def test_a_damaged_compressed_file_is_refused(compress: Compress, tmp_path: Path, scratch: Path) -> None:
    content = compress(plain(tmp_path))
    for changed in (content[:-9], content[:40] + bytes(20) + content[60:]):
        (tmp_path / "a.tar.gz").write_bytes(changed)
        with pytest.raises(DataError, match=r"a\.tar\.gz is (damaged: |not a complete tar file)"):
            unpacked(tmp_path / "a.tar.gz", scratch)


@KINDS
def test_a_file_that_grows_too_far_is_refused(
    compress: Compress, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compressed, "SMALL_BYTES", 1 << 20)
    (tmp_path / "a.tar.gz").write_bytes(compress(bytes(1 << 22)))
    with pytest.raises(DataError, match=r"a\.tar\.gz grows to more than 0\.0 GB .*implausible for images"):
        unpacked(tmp_path / "a.tar.gz", scratch)
    assert sum(file.stat().st_size for file in scratch.iterdir()) <= 1 << 20


def test_a_header_that_asks_for_a_gigabyte_of_memory_is_refused(tmp_path: Path, scratch: Path) -> None:
    content = bytearray(lzma.compress(plain(tmp_path)))
    block = slice(12, 20)  # the header of the first block, followed by its checksum
    content[16] = 36  # the size of the dictionary: 1 GiB
    content[20:24] = zlib.crc32(content[block]).to_bytes(4, "little")
    (tmp_path / "a.tar.xz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tar\.xz is damaged: Memory usage limit exceeded"):
        unpacked(tmp_path / "a.tar.xz", scratch)


@pytest.mark.parametrize(("compress", "tool"), [(gzip.compress, "gunzip"), (lzma.compress, "unxz")])
def test_without_scratch_the_command_to_type_is_shown(compress: Compress, tool: str, tmp_path: Path) -> None:
    (tmp_path / "a b.tar").write_bytes(compress(plain(tmp_path)))
    with pytest.raises(
        DataError, match=rf"is compressed, .*Uncompress it first: {tool} < '.*a b\.tar' > unp"
    ):
        open_path(tmp_path / "a b.tar")


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="Python 3.14 reads zstd")
def test_zstandard_is_refused_with_the_reason(tmp_path: Path, scratch: Path) -> None:
    (tmp_path / "a.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    with pytest.raises(
        ConfigError, match=r"compressed with zstd, which Python reads from version 3\.14.*unzstd <"
    ):
        unpacked(tmp_path / "a.tar.zst", scratch)


def test_scratch_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(plain(tmp_path)))
    with pytest.raises(StorageError, match=r"cannot be unpacked to .*nowhere: No such file.*TMPDIR"):
        unpacked(tmp_path / "a.tar.gz", tmp_path / "nowhere")
