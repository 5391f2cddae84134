"""Folders of images: which images are listed, with which labels, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.data.sources import folder as folder_module
from pipeline.data.sources import members, remarks_of
from pipeline.errors import DataError
from tests.data.sources.helpers import labels, open_path, put_image, values


def test_class_folders_give_labels_at_any_depth(tmp_path: Path) -> None:
    for name in ("dog/b.png", "cat/deep/er/z.png", "cat/a.JPG", "dog/a.webp"):
        put_image(tmp_path / name)
    source = open_path(tmp_path)
    assert source.classes == ("cat", "dog")
    assert labels(source) == {"cat/a.JPG": 0, "cat/deep/er/z.png": 0, "dog/a.webp": 1, "dog/b.png": 1}
    assert (source.native_resolution, source.name, len(source)) == (None, tmp_path.name, 4)


def test_the_order_mixes_the_classes(tmp_path: Path) -> None:
    for name in [f"{animal}/{number}.png" for animal in ("cat", "dog") for number in range(20)]:
        put_image(tmp_path / name)
    source = open_path(tmp_path)
    assert {source.label(position) for position in range(10)} == {0, 1}


def test_a_folder_around_all_class_folders_is_not_a_class(tmp_path: Path) -> None:
    for name in ("set/train/dog/a.png", "set/train/cat/a.png"):
        put_image(tmp_path / name)
    (tmp_path / "readme.txt").touch()
    source = open_path(tmp_path)
    assert source.classes == ("cat", "dog")
    assert labels(source) == {"set/train/cat/a.png": 0, "set/train/dog/a.png": 1}


def test_one_folder_of_images_is_one_class(tmp_path: Path) -> None:
    put_image(tmp_path / "cat" / "a.png")
    assert open_path(tmp_path).classes == ("cat",)


def test_folders_of_splits_are_not_classes(tmp_path: Path) -> None:
    for name in ("train/cat/a.png", "test/cat/a.png"):
        put_image(tmp_path / name)
    with pytest.raises(
        DataError, match=r"holds the folders test, train, which are splits, not classes\. Give only one"
    ):
        open_path(tmp_path)


def test_a_class_may_be_named_train(tmp_path: Path) -> None:
    for name in ("train/a.png", "bus/a.png"):
        put_image(tmp_path / name)
    assert open_path(tmp_path).classes == ("bus", "train")


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    for name in ("2.png", "10.png"):
        put_image(tmp_path / name)
    source = open_path(tmp_path)
    assert source.classes == ()
    assert labels(source) == {"10.png": None, "2.png": None}


def test_hidden_files_are_skipped(tmp_path: Path) -> None:
    for name in ("a.png", ".b.png", ".thumbnails/c.png", "__MACOSX/d.png"):
        put_image(tmp_path / name)
    assert list(labels(open_path(tmp_path))) == ["a.png"]


def test_files_of_other_kinds_are_counted(tmp_path: Path) -> None:
    put_image(tmp_path / "cat" / "a.png")
    assert str(remarks_of(open_path(tmp_path))) == ""
    for name in ("cat/b.xyz", "cat/deep/c.xyz", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("hello")
    source = open_path(tmp_path)
    assert len(source) == 1
    assert remarks_of(source).left_out == ("3 files of other kinds (2 .xyz, 1 .txt), for example notes.txt",)


def test_a_link_to_a_folder_outside_is_refused(tmp_path: Path) -> None:
    put_image(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"set/cat is a link to the folder .*elsewhere, outside of .*cp -rL"):
        open_path(tmp_path / "set")


def test_links_to_folders_inside_are_left_out_and_circles_end(tmp_path: Path) -> None:
    put_image(tmp_path / "cat" / "a.png")
    (tmp_path / "cat" / "loop").symlink_to(tmp_path)
    (tmp_path / "kitty").symlink_to("cat")
    (tmp_path / "itself").symlink_to("itself")
    source = open_path(tmp_path)
    assert labels(source) == {"cat/a.png": 0}
    assert remarks_of(source).left_out == (
        "1 file of another kind (itself)",
        "2 entries that are not files (kitty, a link to another folder of the set, ...)",
    )


def test_a_link_to_an_image_is_read_only_inside_the_set(tmp_path: Path) -> None:
    put_image(tmp_path / "secret.png", 1)
    put_image(tmp_path / "set" / "a.png", 2)
    for name, target in (("b.png", "a.png"), ("c.png", "../secret.png"), ("d.png", "nowhere")):
        (tmp_path / "set" / name).symlink_to(target)
    source = open_path(tmp_path / "set")
    positions = {source.key(position): position for position in range(len(source))}
    assert source.read(positions["b.png"]) == source.read(positions["a.png"])
    with pytest.raises(
        DataError, match=r"c\.png cannot be read: it is a link to .*secret\.png, outside of .*cp -rL"
    ):
        source.read(positions["c.png"])
    with pytest.raises(DataError, match=r"d\.png cannot be read: No such file"):
        source.read(positions["d.png"])


def test_an_empty_folder_is_refused_with_the_extensions(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no images: no files that end in \.png, \.jpg"):
        open_path(tmp_path)


def test_an_empty_class_folder_is_refused(tmp_path: Path) -> None:
    put_image(tmp_path / "cat" / "a.png")
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match=r"class folder .*dog holds no images"):
        open_path(tmp_path)


def test_images_next_to_class_folders_are_refused(tmp_path: Path) -> None:
    put_image(tmp_path / "loose.png")
    put_image(tmp_path / "cat" / "a.png")
    with pytest.raises(DataError, match=r"both directly \(loose\.png\) and in folders \(cat\)"):
        open_path(tmp_path)


def test_a_folder_is_listed_without_opening_its_images(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    assert open_path(tmp_path).read(0) == b"no image"


def test_images_keep_their_bytes(tmp_path: Path) -> None:
    put_image(tmp_path / "a.png", 7)
    assert values(open_path(tmp_path)) == {"a.png": (None, 7)}


def test_an_image_that_was_removed_is_named(tmp_path: Path) -> None:
    put_image(tmp_path / "a.png")
    source = open_path(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png cannot be read: No such file"):
        source.read(0)


def test_a_named_pipe_is_left_out_and_counted(tmp_path: Path) -> None:
    put_image(tmp_path / "cat" / "b.png")
    os.mkfifo(tmp_path / "cat" / "a.png")
    source = open_path(tmp_path)
    assert list(labels(source)) == ["cat/b.png"]
    assert remarks_of(source).left_out == ("1 entry that is not a file (cat/a.png, a named pipe)",)


def test_an_image_that_became_a_named_pipe_does_not_block(tmp_path: Path) -> None:
    put_image(tmp_path / "a.png")
    source = open_path(tmp_path)
    (tmp_path / "a.png").unlink()
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png is not a regular file"):
        source.read(0)


def test_a_file_too_large_for_an_image_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(bytes(1 << 20))
    for module in (members, folder_module):
        monkeypatch.setattr(module, "MAX_FILE_BYTES", (1 << 20) - 1)
    with pytest.raises(DataError, match=r"a\.png is larger than .* MiB"):
        open_path(tmp_path).read(0)
