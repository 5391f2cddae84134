"""Arrays: which shapes are images, which files are refused, and that no file is expanded unchecked."""

from __future__ import annotations

import io
import zipfile
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from pipeline.data.sources import remarks_of
from pipeline.errors import DataError
from tests.data.sources.helpers import open_path, pixels

GREY = np.arange(2 * 4 * 5, dtype=np.uint8).reshape(2, 4, 5)
COLOUR = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)


def put(path: Path, array: Any) -> Path:
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        np.savez_compressed(path, array)
    return path


@pytest.mark.parametrize("name", ["faces.npy", "faces.npz"])
@pytest.mark.parametrize(
    ("stored", "images", "channels"),
    [
        (GREY, GREY, 1),
        (GREY[..., None], GREY, 1),
        (GREY[:, None], GREY, 1),
        (COLOUR, COLOUR, 3),
        (COLOUR.transpose(0, 3, 1, 2).copy(), COLOUR, 3),
    ],
    ids=["NHW", "NHW1", "N1HW", "NHW3", "N3HW"],
)
def test_images_of_any_layout_are_read_with_channels_last(
    name: str, stored: Any, images: Any, channels: int, tmp_path: Path
) -> None:
    source = open_path(put(tmp_path / name, stored))
    assert (source.name, len(source), source.classes, source.label(0)) == ("faces", 2, (), None)
    assert (source.native_resolution, source.native_channels) == ((4, 5), channels)
    for position in range(2):
        found = pixels(source, position)
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found, images[position], strict=True)


@pytest.mark.parametrize("name", ["faces.npy", "faces.npz"])
@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (GREY.astype(np.float32), r"holds float32 \(2, 4, 5\), but images must be uint8.*is unknown"),
        (GREY.astype(np.int64), r"holds int64 \(2, 4, 5\), but images must be uint8"),
        (GREY.astype(bool), r"holds bool"),
        (COLOUR[0], r"\(4, 5, 3\), which looks like a single image\. .*image\[None\]"),
        (np.zeros((2, 3, 5, 3), np.uint8), r"\(2, 3, 5, 3\), so it is unclear which axis holds the channels"),
        (np.zeros((2, 4, 5, 4), np.uint8), r"\(2, 4, 5, 4\), but images must be \(count, height, width\)"),
        (np.zeros((2, 2, 4, 5, 3), np.uint8), r"images must be \(count, height, width\)"),
        (np.zeros((0, 4, 5), np.uint8), r"\(0, 4, 5\), so it holds no images"),
    ],
)
def test_other_arrays_are_refused_with_what_was_found(
    name: str, array: Any, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=reason):
        open_path(put(tmp_path / name, array))


@pytest.mark.parametrize("length", [0, 5, 60, -1])
def test_a_truncated_npy_file_is_refused(length: int, tmp_path: Path) -> None:
    path = put(tmp_path / "a.npy", GREY)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(
        DataError, match=r"a\.npy (is not a \.npy file|has .* bytes, but uint8 \(2, 4, 5\) takes)"
    ):
        open_path(path)


def test_a_npy_file_truncated_after_opening_names_the_image(tmp_path: Path) -> None:
    source = open_path(put(tmp_path / "a.npy", GREY))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-1])
    assert source.read(0) is not None
    with pytest.raises(DataError, match=r"a\.npy: image 1 is truncated"):
        source.read(1)


def test_a_npy_file_in_fortran_order_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is in Fortran order.*ascontiguousarray"):
        open_path(put(tmp_path / "a.npy", np.asfortranarray(GREY)))


def test_a_npz_file_in_fortran_order_is_read(tmp_path: Path) -> None:
    source = open_path(put(tmp_path / "a.npz", np.asfortranarray(GREY)))
    np.testing.assert_array_equal(pixels(source, 1), GREY[1])


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_python_objects_are_not_loaded(name: str, tmp_path: Path) -> None:
    class Canary:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    array = np.full((2, 4, 5), Canary(), dtype=object)
    with pytest.raises(DataError, match=r"holds object \(2, 4, 5\), but images must be uint8"):
        open_path(put(tmp_path / name, array))
    assert not (tmp_path / "ran").exists()


def test_the_labels_of_a_npz_file_are_integers_of_the_same_length(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", pics=GREY, classes_of=np.array([2, 0], np.int16), ids=np.arange(7))
    source = open_path(tmp_path / "a.npz")
    assert source.classes == ("0", "1", "2")
    assert [source.label(position) for position in range(2)] == [2, 0]


def test_names_decide_between_several_arrays(tmp_path: Path) -> None:
    both = np.array([1, 0])
    np.savez(tmp_path / "a.npz", x=GREY, masks=GREY + 1, y=both, person=both + 5)
    source = open_path(tmp_path / "a.npz")
    np.testing.assert_array_equal(pixels(source, 0), GREY[0])
    assert source.label(0) == 1


def test_ambiguous_arrays_are_refused_and_listed(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x_train=GREY, x_test=GREY)
    with pytest.raises(
        DataError, match=r"holds x_train: uint8 \(2, 4, 5\), x_test: .*unclear which array holds the images"
    ):
        open_path(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", x=GREY, one=np.array([0, 1]), two=np.array([0, 1]))
    with pytest.raises(
        DataError, match=r"holds 2 such arrays \(one, two\), so it is unclear which array holds the labels"
    ):
        open_path(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", one=np.array([0, 1]))
    with pytest.raises(DataError, match=r"holds one: int64 \(2,\), so it is unclear"):
        open_path(tmp_path / "c.npz")


@pytest.mark.parametrize("labels", [[-1, 0], [0, 1 << 40]])
def test_labels_out_of_range_are_refused(labels: list[int], tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=GREY, labels=np.array(labels))
    with pytest.raises(
        DataError,
        match=rf"it holds labels from {min(labels)} to {max(labels)}, but labels must be 0 to 999,999",
    ):
        open_path(tmp_path / "a.npz")


def test_a_npz_file_larger_than_half_the_memory_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "a.npz", GREY)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2 * GREY.nbytes - 1))
    with pytest.raises(DataError, match=r"more than half of the .* GB of available memory.*numpy\.save"):
        open_path(path)


def test_a_npz_member_with_a_wrong_size_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, GREY)
    for content in (stream.getvalue()[:-1], stream.getvalue() + b"\0"):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("x.npy", content)
        with pytest.raises(DataError, match=r"a\.npz is damaged: uint8 \(2, 4, 5\) takes 40 bytes"):
            open_path(tmp_path / "a.npz")


def test_a_damaged_npz_file_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "a.npz", GREY)
    content = path.read_bytes()
    for length in range(0, len(content), 11):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match="is not a complete zip file"):
            open_path(path)
    for position in range(0, len(content), 3):
        changed = bytearray(content)
        changed[position] ^= 0x55
        path.write_bytes(changed)
        with suppress(DataError):  # most changes are found, and no other error is raised
            open_path(path)


def test_files_next_to_the_arrays_of_an_npz_file_are_counted(tmp_path: Path) -> None:
    path = put(tmp_path / "faces.npz", GREY)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a.png", b"")
        archive.writestr("labels.txt", b"cat")
    assert remarks_of(open_path(path)).left_out == (
        "1 image next to the arrays (a.png)",
        "1 file of another kind (labels.txt)",
    )
