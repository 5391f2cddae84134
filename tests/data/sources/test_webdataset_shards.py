"""Webdataset shards of other programs: samples, labels and class names, and what is never opened."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data.sources import members, remarks_of, samples
from pipeline.errors import DataError
from tests.data.sources.helpers import labels, open_path, pixels, png, put_image, put_tar, values


def npy(array: Any, allow_pickle: bool = False) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=allow_pickle)
    return stream.getvalue()


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_folder_of_shards_gives_their_samples_in_order(tmp_path: Path) -> None:
    put_tar(tmp_path / "1.tar", [("c.png", png(3)), ("c.cls", b"1\n")])
    put_tar(tmp_path / "0.tar", [("b.cls", b"0"), ("b.jpg", png(2)), ("a.webp", png(1)), ("a.cls", b"2")])
    source = open_path(tmp_path)
    assert (source.name, source.classes) == (tmp_path.name, ("0", "1", "2"))
    assert list(values(source).items()) == [("0.tar/b", (0, 2)), ("0.tar/a", (2, 1)), ("1.tar/c", (1, 3))]


def test_a_single_tar_file_with_labels_is_a_shard(tmp_path: Path) -> None:
    path = put_tar(tmp_path / "a.tar", [("x/a.png", png(1)), ("x/a.cls", b"0")])
    assert values(open_path(path)) == {"a.tar/x/a": (0, 1)}


def test_the_key_ends_at_the_first_dot_after_the_last_slash(tmp_path: Path) -> None:
    content = [("v1.0/a.left.png", png(1)), ("v1.0/a.seg.json", b"{}"), ("v1.0/a.cls", b"0")]
    assert values(open_path(put_tar(tmp_path / "a.tar", content))) == {"a.tar/v1.0/a": (0, 1)}


def test_shards_without_labels_have_no_classes(tmp_path: Path) -> None:
    put_tar(tmp_path / "0.tar", [("cat/a.png", png()), ("cat/b.png", png())])
    source = open_path(tmp_path)
    assert (source.classes, labels(source)) == ((), {"0.tar/cat/a": None, "0.tar/cat/b": None})


def test_other_members_are_counted_and_never_run(tmp_path: Path) -> None:
    canary = pickle.dumps(Canary(tmp_path / "ran"))
    extensions = ("json", "txt", "pkl", "pickle", "pyd", "pth", "pt", "npz", "py", "ten", "cbor")
    others = [(f"a.{extension}", canary) for extension in extensions]
    put_tar(tmp_path / "0.tar", [("a.png", png(1)), ("a.cls", b"0"), *others])
    source = open_path(tmp_path)
    assert values(source) == {"0.tar/a": (0, 1)}
    assert remarks_of(source).left_out == (
        "11 files of other kinds (1 .json, 1 .txt, 1 .pkl, 1 .pickle, 1 .pyd, 1 .pth, ...), for example a.json",
        ".pickle, .pkl, .pt, .pth, .pyd files are pickles, never opened here; other readers would run any "
        "code in them",
    )
    assert not (tmp_path / "ran").exists()


def test_the_canary_shows_that_a_pickle_was_loaded(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Canary(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "label", [b"-1", b"", b"1.5", b"cat", b"1234567890", b"1 2", "²".encode(), b"9" * 5000]
)
def test_a_label_that_is_not_a_short_whole_number_is_refused(label: bytes, tmp_path: Path) -> None:
    put_tar(tmp_path / "0.tar", [("a.png", png()), ("a.cls", label)])
    with pytest.raises(
        DataError, match=r"0\.tar: a\.cls holds .*, but a label must be a whole number of at most 9 digits"
    ):
        open_path(tmp_path)


def test_a_pickled_label_is_not_unpickled(tmp_path: Path) -> None:
    put_tar(tmp_path / "0.tar", [("a.png", png()), ("a.cls", pickle.dumps(Canary(tmp_path / "ran")))])
    with pytest.raises(DataError, match="a label must be a whole number"):
        open_path(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_either_all_images_or_none_have_labels(tmp_path: Path) -> None:
    put_tar(tmp_path / "0.tar", [("a.png", png()), ("a.cls", b"0"), ("b.png", png())])
    with pytest.raises(DataError, match=r"1 of 2 images has no \.cls, for example 'b'"):
        open_path(tmp_path)


def test_a_label_without_an_image_is_refused(tmp_path: Path) -> None:
    put_tar(tmp_path / "0.tar", [("a.png", png()), ("a.cls", b"0"), ("b.cls", b"0")])
    with pytest.raises(DataError, match="holds a label but no image for the key 'b'"):
        open_path(tmp_path)


def test_two_images_with_one_label_are_refused(tmp_path: Path) -> None:
    put_tar(tmp_path / "0.tar", [("a.png", png()), ("a.jpg", png()), ("a.cls", b"0")])
    with pytest.raises(DataError, match=r"holds 2 images with the key 'a': a\.png, a\.jpg .*--images png"):
        open_path(tmp_path)


def test_shards_without_images_are_refused(tmp_path: Path) -> None:
    put_tar(tmp_path / "0.tar", [("a.txt", b"")])
    with pytest.raises(DataError, match=r"holds no images: no files that end in \.png"):
        open_path(tmp_path)


def test_a_huge_label_does_not_fill_the_memory(tmp_path: Path) -> None:
    put_tar(tmp_path / "0.tar", [("a.png", png()), ("a.cls", b"999999999")])
    with pytest.raises(
        DataError, match=r"with the label 999999999 there would be more than 1,000,000 classes"
    ):
        open_path(tmp_path)


def test_class_names_are_read_from_a_file_next_to_the_shards(tmp_path: Path) -> None:
    put_tar(tmp_path / "0.tar", [("a.png", png()), ("a.cls", b"1")])
    (tmp_path / "classes.txt").write_text("cat\nküçük köpek\n", encoding="utf-8")
    assert open_path(tmp_path).classes == ("cat", "küçük köpek")
    assert open_path(tmp_path / "0.tar").classes == ("cat", "küçük köpek")
    (tmp_path / "classes.txt").write_text("cat\n")
    with pytest.raises(DataError, match=r"classes\.txt names 1 class, but there are labels up to 1"):
        open_path(tmp_path)
    (tmp_path / "classes.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"classes\.txt cannot be read .*in UTF-8"):
        open_path(tmp_path)


def test_this_programs_manifest_gives_class_names_and_size(tmp_path: Path) -> None:
    put_tar(tmp_path / "0.tar", [("a.npy", npy(np.full((4, 5, 1), 7, np.uint8))), ("a.cls", b"1")])
    manifest = {"format": "wgan-shards/2", "classes": ["cat", "dog"], "resolution": [4, 5], "channels": 1}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    source = open_path(tmp_path)
    assert (source.classes, source.native_resolution, source.native_channels) == (("cat", "dog"), (4, 5), 1)
    assert pixels(source, 0).shape == (4, 5)
    assert values(source) == {"0.tar/a": (1, 7)}


@pytest.mark.parametrize(
    "content", ["[]", '{"classes": ["cat"]}', '{"format": "wgan-shards/2", "classes": 3}']
)
def test_the_manifest_of_another_program_is_ignored(content: str, tmp_path: Path) -> None:
    put_tar(tmp_path / "0.tar", [("a.png", png()), ("a.cls", b"1")])
    (tmp_path / "manifest.json").write_text(content)
    source = open_path(tmp_path)
    assert (source.classes, source.native_resolution, source.native_channels) == (("0", "1"), None, 3)


def test_a_manifest_that_is_not_json_is_refused(tmp_path: Path) -> None:
    put_tar(tmp_path / "0.tar", [("a.png", png()), ("a.cls", b"1")])
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json cannot be read: .*or remove it"):
        open_path(tmp_path)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3)])
def test_raw_members_are_pixels(shape: tuple[int, ...], tmp_path: Path) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    put_tar(tmp_path / "0.tar", [("a.npy", npy(array))])
    found = pixels(open_path(tmp_path), 0)
    assert found.shape == (shape if shape[2:] == (3,) else (4, 5))
    assert found.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((4, 5), np.float32), r"holds float32 \(4, 5\), but an image must be uint8"),
        (np.zeros((4, 5, 4), np.uint8), r"holds uint8 \(4, 5, 4\), but an image must be"),
        (np.zeros((20,), np.uint8), r"holds uint8 \(20,\), but an image must be"),
        (np.zeros((0, 5), np.uint8), r"holds uint8 \(0, 5\), but an image must be"),
    ],
)
def test_raw_members_that_are_not_images_are_refused(array: Any, reason: str, tmp_path: Path) -> None:
    put_tar(tmp_path / "0.tar", [("a.npy", npy(array))])
    with pytest.raises(DataError, match=rf"0\.tar: a\.npy {reason}"):
        open_path(tmp_path).read(0)


def test_raw_members_of_objects_or_false_shapes_are_refused(tmp_path: Path) -> None:
    objects = npy(np.array([[Canary(tmp_path / "ran")]], dtype=object), allow_pickle=True)
    huge = npy(np.zeros((4, 5), np.uint8)).replace(b"(4, 5), }" + b" " * 10, b"(9999999, 999999), }", 1)
    put_tar(
        tmp_path / "0.tar", [("a.npy", objects), ("b.npy", huge[:-20] + bytes(20)), ("c.npy", b"no array")]
    )
    source = open_path(tmp_path)
    for position, reason in enumerate(
        ["Python objects, which are not loaded", "takes .* bytes", "magic string"]
    ):
        with pytest.raises(DataError, match=rf"npy cannot be read: .*{reason}"):
            source.read(position)
    assert not (tmp_path / "ran").exists()


def test_links_truncated_files_and_large_members_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tarfile.TarInfo("b.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    put_tar(tmp_path / "0.tar", [("a.png", png()), (link, b"")])
    with pytest.raises(DataError, match=r"0\.tar: the member 'b\.png' is a link"):
        open_path(tmp_path)
    path = put_tar(tmp_path / "0.tar", [("a.png", png()), ("b.png", png())])
    path.write_bytes(path.read_bytes()[:1024])
    with pytest.raises(DataError, match=r"0\.tar is not a complete tar file: it has no end mark"):
        open_path(tmp_path)
    put_tar(tmp_path / "0.tar", [("a.png", bytes(1 << 20))])
    for module in (samples, members):
        monkeypatch.setattr(module, "MAX_FILE_BYTES", 1 << 19)
    with pytest.raises(DataError, match=r"a\.png is larger than"):
        open_path(tmp_path)


def test_a_stray_image_does_not_hide_the_tar_files(tmp_path: Path) -> None:
    put_tar(tmp_path / "0.tar", [("a.png", png())])
    put_image(tmp_path / "preview.png")
    source = open_path(tmp_path)
    assert list(labels(source)) == ["0.tar/a"]
    assert remarks_of(source).left_out == ("1 image next to the tar files (preview.png)",)


def test_a_tar_file_without_images_is_left_out_of_a_folder_of_images(tmp_path: Path) -> None:
    put_tar(tmp_path / "weights.tar", [("model.bin", b"x")])
    put_image(tmp_path / "cat" / "a.png")
    source = open_path(tmp_path)
    assert (source.classes, labels(source)) == (("cat",), {"cat/a.png": 0})
    assert remarks_of(source).left_out == ("1 file of another kind (weights.tar)",)


def test_more_images_next_to_tar_files_than_in_them_are_refused(tmp_path: Path) -> None:
    put_tar(tmp_path / "backup.tar", [("a.png", png())])
    for name in "bc":
        put_image(tmp_path / f"{name}.png")
    with pytest.raises(
        DataError, match=r"2 images next to tar files \(backup\.tar\) of 1 image, so it is unclear"
    ):
        open_path(tmp_path)


def test_images_or_tar_files_in_folders_next_to_tar_files_are_refused(tmp_path: Path) -> None:
    put_tar(tmp_path / "0.tar", [("a.png", png())])
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "made.txt").write_text("x")
    assert remarks_of(open_path(tmp_path)).left_out == ("1 file of another kind (logs/made.txt)",)
    put_tar(tmp_path / "logs" / "1.tar", [("b.png", png())])
    with pytest.raises(
        DataError, match=r"both tar files \(0\.tar\) and folders with images or tar files \(logs/1\.tar\)"
    ):
        open_path(tmp_path)


def test_a_folder_in_the_place_of_a_shard_is_counted(tmp_path: Path) -> None:
    put_tar(tmp_path / "0.tar", [("a.png", png())])
    (tmp_path / "1.tar").mkdir()
    assert remarks_of(open_path(tmp_path)).left_out == ("1 entry that is not a file (1.tar, a folder)",)
