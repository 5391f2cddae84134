"""Archives: what is listed, and that nothing in them is trusted. Malicious archives are made for the tests."""

from __future__ import annotations

import io
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.data.sources import members, remarks_of, samples, zip_files
from pipeline.errors import DataError
from tests.data.sources.helpers import labels, open_path, png, put_image, put_tar, put_zip, values

Put = Callable[..., Path]
BOTH = pytest.mark.parametrize(("put", "name"), [(put_tar, "a.tar"), (put_zip, "a.zip")], ids=["tar", "zip"])


@BOTH
def test_class_folders_below_the_common_folder_give_labels(put: Put, name: str, tmp_path: Path) -> None:
    path = put(
        tmp_path / name,
        [("./set/train/dog/a.png", png(1)), ("./set/train/cat/b.PNG", png(2)), ("./set/readme.txt", b"")],
    )
    source = open_path(path)
    assert (source.name, source.classes, source.native_resolution) == (name, ("cat", "dog"), None)
    assert values(source) == {"set/train/dog/a.png": (1, 1), "set/train/cat/b.PNG": (0, 2)}


@BOTH
def test_images_in_one_common_folder_have_no_labels(put: Put, name: str, tmp_path: Path) -> None:
    source = open_path(put(tmp_path / name, [("photos/a.png", png(1)), ("photos/b.png", png(2))]))
    assert source.classes == ()
    assert values(source) == {"photos/a.png": (None, 1), "photos/b.png": (None, 2)}


def test_a_folder_and_its_archives_have_the_same_images_in_order(tmp_path: Path) -> None:
    for number in range(12):
        put_image(tmp_path / "set" / ("cat", "dog")[number % 2] / f"{number}.png", number)
    sources = [open_path(tmp_path / "set")]
    for kind in ("zip", "tar"):
        sources.append(open_path(shutil.make_archive(str(tmp_path / "packed"), kind, tmp_path / "set")))
    first, *others = [list(values(source).items()) for source in sources]
    assert all(other == first for other in others)


@BOTH
def test_hidden_members_and_others_are_counted(put: Put, name: str, tmp_path: Path) -> None:
    content = [
        ("a.png", png()),
        (".b.png", png()),
        ("__MACOSX/._a.png", b""),
        ("notes.txt", b""),
        ("c.csv", b""),
    ]
    source = open_path(put(tmp_path / name, content))
    assert list(labels(source)) == ["a.png"]
    assert remarks_of(source).left_out == (
        "2 files of other kinds (1 .txt, 1 .csv), for example notes.txt",
        "2 hidden files (.b.png, ...)",
    )


@BOTH
def test_an_archive_without_images_is_refused(put: Put, name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no images: no files that end in \.png"):
        open_path(put(tmp_path / name, [("a.txt", b"")]))


@BOTH
@pytest.mark.parametrize(
    "bad", ["/etc/a.png", "../a.png", "cat/../../a.png", "C:/a.png", "c:a.png", "//host/a.png"]
)
def test_a_name_that_leads_out_of_the_archive_is_refused(
    put: Put, name: str, bad: str, tmp_path: Path
) -> None:
    with pytest.raises(
        DataError, match=r"the member .* has an absolute name or one that leads out of the archive.*Pack"
    ):
        open_path(put(tmp_path / name, [("a.png", png()), (bad, png())]))


@BOTH
def test_a_name_with_backslashes_is_refused_as_such(put: Put, name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.png' has backslashes in its name\. Some programs for Windows"):
        open_path(put(tmp_path / name, [("cat\\a.png", png())]))


@pytest.mark.parametrize("start", [b"", b"#!/bin/sh\n"])
def test_zip_files_that_were_joined_are_refused(start: bytes, tmp_path: Path) -> None:
    first = put_zip(tmp_path / "1.zip", [("a.png", png(1))]).read_bytes()
    second = put_zip(tmp_path / "2.zip", [("b.png", png(2))]).read_bytes()
    joined = tmp_path / "joined.zip"
    joined.write_bytes(start + second)
    assert list(labels(open_path(joined))) == ["b.png"]
    joined.write_bytes(first + start + second)
    with pytest.raises(
        DataError, match=r"joined\.zip begins with members that its directory does not list.*cat"
    ):
        open_path(joined)


def test_an_archive_under_the_name_of_another_kind_is_called_that(tmp_path: Path) -> None:
    put_zip(tmp_path / "a.tar", [("a.png", png())])
    put_tar(tmp_path / "a.zip", [("a.png", png())])
    with pytest.raises(DataError, match=r"a\.tar is a zip file with the name of a tar file\. Rename it"):
        open_path(tmp_path / "a.tar")
    with pytest.raises(DataError, match=r"a\.zip is a tar file with the name of a zip file\. Rename it"):
        open_path(tmp_path / "a.zip")


@BOTH
@pytest.mark.parametrize("other", ["cat/a.png", "./cat/a.png", "cat//a.png"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_appears_twice_is_refused(put: Put, name: str, other: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.png' appears twice\. It is unclear which one is meant"):
        open_path(put(tmp_path / name, [("cat/a.png", png(1)), (other, png(2))]))


@BOTH
def test_a_member_too_large_for_an_image_is_refused(
    put: Put, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (members, samples):
        monkeypatch.setattr(module, "MAX_FILE_BYTES", 1 << 20)
    path = put(tmp_path / name, [("a.png", bytes((1 << 20) + 1)), ("large.txt", bytes(1 << 21))])
    with pytest.raises(DataError, match=r"a\.png is larger than 1 MiB, which is too large for an image"):
        open_path(path)


@BOTH
def test_an_archive_truncated_anywhere_is_refused(put: Put, name: str, tmp_path: Path) -> None:
    whole = put(tmp_path / f"whole-{name}", [(f"{number}.png", png(number)) for number in range(3)])
    content = whole.read_bytes()
    # The last blocks of a tar file are padding after its end mark.
    end = len(content.rstrip(b"\0")) + 1024 if name == "a.tar" else len(content)
    for length in range(0, end - 512 if name == "a.tar" else end, 7):
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(DataError, match=r"is not a complete (tar|zip) file|no end mark|holds no images"):
            open_path(tmp_path / name)


@BOTH
def test_an_archive_that_was_removed_is_named(put: Put, name: str, tmp_path: Path) -> None:
    source = open_path(put(tmp_path / name, [("a.png", png())]))
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=rf"{name}: a\.png cannot be read: No such file"):
        source.read(0)


@BOTH
def test_an_archive_truncated_after_opening_is_named(put: Put, name: str, tmp_path: Path) -> None:
    source = open_path(put(tmp_path / name, [("a.png", png())]))
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:40])
    with pytest.raises(DataError, match=rf"{name}: a\.png is (truncated|damaged)"):
        source.read(0)


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        tarfile.CONTTYPE,
        b"Z",
    ],
)
def test_a_tar_member_that_is_not_a_plain_file_is_refused(kind: bytes, tmp_path: Path) -> None:
    info = tarfile.TarInfo("b.png")
    info.type, info.linkname = kind, "a.png"
    path = put_tar(tmp_path / "a.tar", [("a.png", png()), (info, b"")])
    with pytest.raises(DataError, match=r"the member 'b\.png' is a link, a device, a pipe or a sparse file"):
        open_path(path)


def test_a_gnu_sparse_member_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.png")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, 512)
    header[483:495] = b"%011o\0" % (1 << 30)  # its size when expanded
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(512 + 1024))
    with pytest.raises(DataError, match=r"'a\.png' is a link, a device, a pipe or a sparse file"):
        open_path(tmp_path / "a.tar")


@pytest.mark.parametrize(
    "headers",
    [
        {"GNU.sparse.map": "0,512", "GNU.sparse.size": "1073741824"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1073741824"},
    ],
    ids=["0.1", "1.0"],
)
def test_a_pax_sparse_member_is_refused(headers: dict[str, str], tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.png")
    content = b"1\n0\n512\n".ljust(1024, b"\0")
    info.size, info.pax_headers = len(content), {**headers, "GNU.sparse.name": "a.png"}
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(content))
    with pytest.raises(DataError, match=r"'a\.png' is a link, a device, a pipe or a sparse file"):
        open_path(tmp_path / "a.tar")


def test_data_after_the_end_mark_is_refused(tmp_path: Path) -> None:
    first, second = (put_tar(tmp_path / f"{name}.tar", [(f"{name}.png", png())]) for name in "ab")
    (tmp_path / "joined.tar").write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(
        DataError, match=r"has more data after its end mark, for example because tar files were joined"
    ):
        open_path(tmp_path / "joined.tar")


def test_a_damaged_tar_header_is_not_the_end_of_the_file(tmp_path: Path) -> None:
    path = put_tar(tmp_path / "a.tar", [("a.png", png()), ("b.png", png())])
    content = bytearray(path.read_bytes())
    content[1024] ^= 1  # the first byte of the second header
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a header is damaged: its checksum is wrong"):
        open_path(path)


def test_an_encrypted_zip_member_is_refused(tmp_path: Path) -> None:
    path = put_zip(tmp_path / "a.zip", [("a.png", png())])
    change_directory(path, 8, "<H", 1)
    with pytest.raises(DataError, match=r"'a\.png' is encrypted\. Passwords are not supported"):
        open_path(path)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_a_zip_member_that_is_not_a_plain_file_is_refused(kind: int, tmp_path: Path) -> None:
    info = zipfile.ZipInfo("a.png")
    info.external_attr = (kind | 0o644) << 16
    with pytest.raises(DataError, match=r"'a\.png' is a link, a device or a pipe"):
        open_path(put_zip(tmp_path / "a.zip", [(info, b"/etc/passwd")]))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_methods_without_a_size_limit_are_refused(method: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("a.png", png())
    with pytest.raises(DataError, match=rf"is compressed with method {method}\. Only stored and deflated"):
        open_path(tmp_path / "a.zip")


def test_a_zip_bomb_is_refused_without_reading_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_files, "SMALL_MEMBER", 1 << 20)
    path = put_zip(tmp_path / "a.zip", [("a.png", bytes(1 << 22))])
    with pytest.raises(
        DataError,
        match=r"would grow from 4,\d\d\d to 4,194,304 bytes when uncompressed\. This is implausible",
    ):
        open_path(path)


def test_a_zip_bomb_of_many_members_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_files, "SMALL_TOTAL", 1 << 20)
    path = put_zip(tmp_path / "a.zip", [(f"{number}.png", bytes(1 << 20)) for number in range(8)])
    monkeypatch.setattr(zip_files, "MAX_RATIO", 500)
    with pytest.raises(DataError, match=r"would take 8,388,608 when uncompressed, which is implausible"):
        open_path(path)


def test_a_zip_member_never_grows_beyond_its_declared_size(tmp_path: Path) -> None:
    path = put_zip(tmp_path / "a.zip", [("a.png", bytes(200 << 20))])
    change_directory(path, 24, "<I", 150_000)
    source = open_path(path)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"a\.png is damaged: its size or its CRC-32"):
        source.read(0)
    assert tracemalloc.get_traced_memory()[1] < 5 << 20
    tracemalloc.stop()


def test_a_changed_zip_member_is_found_by_its_checksum(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", png())
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[content.index(b"IDAT") + 6] ^= 1
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png is damaged: its size or its CRC-32"):
        open_path(tmp_path / "a.zip").read(0)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_members_are_read_as_zipfile_reads_them(method: int, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        for number in range(5):
            archive.writestr(f"{number}.png", png(number, size=(50, 60)))
        archive.writestr("empty.png", b"")
    # As in a self-extracting archive: data before the archive shifts all offsets.
    (tmp_path / "led.zip").write_bytes(b"#!/bin/sh\n" + (tmp_path / "a.zip").read_bytes())
    for name in ("a.zip", "led.zip"):
        source = open_path(tmp_path / name)
        with zipfile.ZipFile(tmp_path / name) as archive:
            assert all(
                source.read(position) == archive.read(source.key(position)) for position in range(len(source))
            )


def test_a_zip_directory_that_points_outside_the_file_is_refused(tmp_path: Path) -> None:
    path = put_zip(tmp_path / "a.zip", [("a.png", png())])
    change_directory(path, 42, "<I", 1 << 30)
    with pytest.raises(
        DataError, match=r"'a\.png' does not fit into the file, which was truncated or changed"
    ):
        open_path(path)


def test_many_threads_and_processes_can_read_an_archive(tmp_path: Path) -> None:
    from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

    content = [(f"{number:03}.png", png(number)) for number in range(40)]
    for path in (put_zip(tmp_path / "a.zip", content), put_tar(tmp_path / "a.tar", content)):
        source = open_path(path)
        expected = [dict(content)[source.key(position)] for position in range(len(source))]
        for pool in (ThreadPoolExecutor(4), ProcessPoolExecutor(2)):
            with pool:
                assert list(pool.map(source.read, range(len(source)))) == expected


def test_names_in_other_encodings_can_be_keys(tmp_path: Path) -> None:
    put_tar(tmp_path / "a.tar", [("caf\udce9/a.png", png(3)), ("b\xe9/a.png", png(4))])
    source = open_path(tmp_path / "a.tar")
    assert sorted(value for _, value in values(source).values()) == [3, 4]


def change_directory(path: Path, offset: int, form: str, value: int) -> None:
    """Overwrite a field of the first entry of a zip file's central directory."""
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, content.index(b"PK\1\2") + offset, value)
    path.write_bytes(content)


def test_opening_a_path_does_not_import_torch(tmp_path: Path) -> None:
    path = put_zip(tmp_path / "a.zip", [("a.png", png())])
    code = (
        "import sys; from pipeline.data.sources import *; "
        f"open_source(Spec({str(path)!r})); print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"
