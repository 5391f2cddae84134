"""The index built from a tar file: what a shard may hold, and what is refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from pipeline.data.inspecting.shard_index import index_shard
from pipeline.errors import DataError, PipelineError


def write_tar(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("0.png", b"x"), ("0.png", b"x")], "'0.png' appears twice"),
        ([("0.cls", b"1")], "a label but no image for the key '0'"),
        (
            [("0.png", b"x"), ("0.pkl", b"x")],
            r"'0.pkl', but a shard holds only images \(png, jpg, .*\) and KEY\.cls\.",
        ),
        ([(".0.png", b"x"), ("1.png", b"x")], "'.0.png', but a shard holds only"),
        ([("0.cls", b"-1"), ("0.png", b"x")], "a label must be a whole number"),
        ([("0.cls", b"9" * 5000), ("0.png", b"x")], "a label must be a whole number"),
    ],
)
def test_members_that_do_not_form_samples_are_refused(
    tmp_path: Path, members: list[tuple[str, bytes]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        index_shard(write_tar(tmp_path / "0.tar", members))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        member = tarfile.TarInfo("0.png")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(DataError, match=r"'0\.png' is a link, a device, a pipe or a sparse file"):
        index_shard(tmp_path / "0.tar")


def test_sparse_members_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("0.png")
        member.pax_headers = {"GNU.sparse.size": "4096", "GNU.sparse.map": "0,1"}
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(DataError, match="sparse file"):
        index_shard(tmp_path / "0.tar")


@pytest.mark.parametrize("mode", ["w:gz", "w:xz"])
def test_compressed_tar_files_are_refused(tmp_path: Path, mode: str) -> None:
    with pytest.raises(DataError, match="is compressed, so its images cannot be read"):
        index_shard(write_tar(tmp_path / "0.tar", [("0.png", b"x" * 2000)], mode))


@pytest.mark.parametrize("keep", [0, 100, 700, 1024, 1500, 2048, 2560])
def test_a_tar_file_truncated_anywhere_is_refused(tmp_path: Path, keep: int) -> None:
    path = write_tar(tmp_path / "0.tar", [("0.png", b"x"), ("1.png", b"x")])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(PipelineError, match=r"0\.tar (is not a complete|has no end mark)"):
        index_shard(path)


def test_a_complete_but_empty_tar_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no samples"):
        index_shard(write_tar(tmp_path / "0.tar", []))


def test_other_members_are_skipped_if_allowed(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", [("0.png", b"x"), ("0.json", b"{}"), ("0.pkl", b"cos\nsystem\n.")])
    found = index_shard(path, ignores_others=True)
    assert (len(found.rows), found.keys, found.others) == (1, ("0",), ("0.json", "0.pkl"))


@pytest.mark.parametrize("name", ["/etc/0.png", "a/../../0.png", "../0.png"])
def test_names_that_lead_out_of_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="an absolute name or one that leads out of the archive"):
        index_shard(write_tar(tmp_path / "0.tar", [(name, b"x")]))


def test_one_shard_holds_one_encoding(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"images of 2 encodings \(jpeg, png\), but a shard has only one"):
        index_shard(write_tar(tmp_path / "0.tar", [("0.png", b"x"), ("1.jpg", b"x")]))
    with pytest.raises(DataError, match=r"holds '1\.webp', but the images of a shard are png, jpg"):
        index_shard(write_tar(tmp_path / "0.tar", [("0.png", b"x"), ("1.webp", b"x")]))
