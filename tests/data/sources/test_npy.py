"""Headers of .npy files that no program writes: each is refused with its reason, whatever Python makes of it."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.sources.npy import MAGIC, read_npy_header
from pipeline.errors import DataError
from tests.data.sources.helpers import open_path


def npy(header: str, elements: bytes = bytes(40), version: int = 1) -> bytes:
    text = header.encode("latin-1")
    return (
        MAGIC + bytes((version, 0)) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + elements
    )


def fields(descr: str = "'|u1'", fortran: str = "False", shape: str = "(2, 4, 5)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


@pytest.mark.parametrize("version", [1, 2])
def test_headers_as_numpy_writes_them_are_read(version: int) -> None:
    stream = io.BytesIO()
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    np.lib.format.write_array(stream, array, version=(version, 0))
    stream.seek(0)
    header = read_npy_header(stream)
    assert (header.shape, header.dtype, header.fortran) == ((2, 3, 4), np.int16, False)
    assert stream.getvalue()[header.start :] == array.tobytes()


DAMAGED = [
    *(
        "",
        "{",
        "(1, 2)",
        "[]",
        "{}",
        "None",
        "1",
        "'descr'",
        "{[]: 1}",
        "{'descr': '|u1'}",
        "\0",
        "é",
        "01",
        "1if 1",
    ),
    *("(" * 5000, "-" * 9000 + "1", "[" * 200 + "]" * 200, "9" * 9000, "f'{1}'", "x", "{**{}}", "'\\N{a}'"),
    fields(shape="(2, -4, 5)"),
    fields(shape="(2, True, 5)"),
    fields(shape="(2.0, 4, 5)"),
    fields(shape="[2, 4, 5]"),
    fields(shape="(2, 4, 5" + ", 1" * 40 + ")"),
    fields(shape=f"({'9' * 100}, 4, 5)"),
    fields(shape="5"),
    fields(fortran="1"),
    fields(fortran="'no'"),
    fields(descr="'nothing'"),
    fields(descr="5"),
    fields(descr="[('a',)]"),
    fields(descr="('u1', (1, -1))"),
    fields(descr="{'a': 1}"),
    fields(descr="'|u1', 'descr': [[]]"),
    fields(descr="b'\\xff'"),
]


@pytest.mark.parametrize("header", DAMAGED, ids=lambda header: header[:24])
def test_a_damaged_header_is_refused_without_a_warning(header: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="its header is damaged"):
            read_npy_header(io.BytesIO(npy(header)))
    (tmp_path / "a.npy").write_bytes(npy(header))
    with pytest.raises(
        DataError, match=r"a\.npy is not a \.npy file: its header is damaged\. Write it again"
    ):
        open_path(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "magic string"),
        (MAGIC, "magic string"),
        (MAGIC + b"\1\0", "it ends within its header"),
        (MAGIC + b"\3\0" + bytes(40), r"version \(3, 0\) of the \.npy format is not supported"),
        (npy(fields(), version=2)[:20], "it ends within its header"),
        (MAGIC + b"\2\0\xff\xff\xff\xff" + bytes(99), "its header has 4,294,967,295 bytes, more than 10,000"),
        (npy(fields(shape="(1073741824, 1073741824, 5)")), "has more elements than any file"),
    ],
)
def test_what_is_no_header_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_npy_header(io.BytesIO(content))


def test_a_header_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", MAGIC + b"\2\0\xff\xff\xff\x7f" + bytes(1 << 24))
    with pytest.raises(
        DataError, match=r"a\.npz is not a complete \.npz file: its header has 2,147,483,647 bytes"
    ):
        open_path(tmp_path / "a.npz")


def test_an_image_of_more_pixels_than_are_decoded_is_refused(tmp_path: Path) -> None:
    start = npy(fields(shape="(1, 9000, 9000)"), b"")
    with (tmp_path / "a.npy").open("wb") as file:
        file.write(start)
        file.truncate(len(start) + 9000 * 9000)
    with pytest.raises(
        DataError, match=r"holds uint8 \(1, 9000, 9000\), but an image may have at most 64,000,000"
    ):
        open_path(tmp_path / "a.npy")
