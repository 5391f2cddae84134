"""Labels: where they come from, which are taken, and what is said of those that are not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data.sources import Source, Spec, open_source, remarks_of
from pipeline.data.sources.labels import labels_in, parse_label, parse_label_choice, parse_number
from pipeline.errors import ConfigError, DataError
from tests.data.sources.helpers import labels, png, put_image, put_tar, put_zip

Files = list[tuple[str, bytes]]
Put = Callable[[Path, Files], Path]


def put_folder(path: Path, files: Files) -> Path:
    for name, content in files:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def put_folder_of_tars(path: Path, files: Files) -> Path:
    path.mkdir()
    put_tar(path / "0.tar", files)
    return path


KINDS: dict[str, tuple[Put, str]] = {
    "folder": (put_folder, "set"),
    "zip": (put_zip, "set.zip"),
    "tar": (put_tar, "set.tar"),
    "shards": (put_folder_of_tars, "set"),
}
ALL_KINDS = pytest.mark.parametrize("kind", KINDS)


def opened(kind: str, tmp_path: Path, files: Files, **choices: Any) -> Source:
    """The files as a folder, a zip file, a tar file, or a folder with a tar file, opened with these choices."""
    put, name = KINDS[kind]
    if isinstance(chosen := choices.pop("labels", None), str):
        choices["labels"] = parse_label_choice(chosen)
    return open_source(Spec(str(put(tmp_path / name, files)), **choices))


def named(source: Source) -> dict[str, str | None]:
    """The last part of each image's key, without ending: the name of its class."""
    found = {}
    for position in range(len(source)):
        label = source.label(position)
        key = source.key(position).rpartition("/")[2].partition(".")[0]
        found[key] = None if label is None else source.classes[label]
    return found


@ALL_KINDS
def test_class_folders_mean_the_same_in_every_kind_of_source(kind: str, tmp_path: Path) -> None:
    files = [("set/cat/a.png", png(1)), ("set/dog/b.png", png(2)), ("set/dog/b.txt", b"woof")]
    source = opened(kind, tmp_path, files)
    assert named(source) == {"a": "cat", "b": "dog"}
    assert remarks_of(source).labels_from == "the folders cat, dog"
    assert remarks_of(source).left_out == ("1 file of another kind (set/dog/b.txt)",)


@ALL_KINDS
def test_label_files_mean_the_same_in_every_kind_of_source(kind: str, tmp_path: Path) -> None:
    texts = (b"1\n", b" 0", b"\xef\xbb\xbf2")
    files = [file for n, text in enumerate(texts) for file in ((f"x/{n}.png", png(n)), (f"x/{n}.cls", text))]
    source = opened(kind, tmp_path, files)
    assert named(source) == {"0": "1", "1": "0", "2": "2"}
    assert str(remarks_of(source)) == ""


@ALL_KINDS
def test_names_with_dots_lose_no_image(kind: str, tmp_path: Path) -> None:
    files: Files = []
    for number in range(6):
        key = f"img{number // 2}{'.v2' if number % 2 else ''}"
        files += [(f"{key}.png", png(number)), (f"{key}.cls", b"%d" % (number % 3))]
    source = opened(kind, tmp_path, files)
    assert sorted(source.label(position) or 0 for position in range(len(source))) == [0, 0, 1, 1, 2, 2]
    values = {source.read(position): source.label(position) for position in range(len(source))}
    assert values == {png(number): number % 3 for number in range(6)}


@ALL_KINDS
def test_names_with_dots_and_without_labels_are_all_images(kind: str, tmp_path: Path) -> None:
    source = opened(kind, tmp_path, [(f"frame.{number:03}.png", png(number)) for number in range(5)])
    assert {source.read(position) for position in range(len(source))} == {png(n) for n in range(5)}


@ALL_KINDS
@pytest.mark.parametrize("endings", [("jpg", "mask.png"), ("jpg", "png"), ("jpg", "mask.jpg")])
def test_of_several_fields_of_a_sample_one_is_chosen(
    kind: str, endings: tuple[str, str], tmp_path: Path
) -> None:
    first, second = endings
    files = [(f"{n}.{field}", png(n)) for n in range(3) for field in endings]
    with pytest.raises(DataError, match=rf"2 images with the key '0': 0\.jpg, 0\.{second} .*--images jpg"):
        opened(kind, tmp_path, files)
    shutil.rmtree(tmp_path / "set", ignore_errors=True)
    source = opened(kind, tmp_path, files, ending=first)
    assert len(source) == 3
    assert remarks_of(source).left_out == (f"3 images with another ending (0.{second}, ...)",)
    shutil.rmtree(tmp_path / "set", ignore_errors=True)
    assert len(opened(kind, tmp_path, files, ending="all")) == 6


@ALL_KINDS
@pytest.mark.parametrize(
    "names",
    [
        [f"img{n}.v{version}.png" for n in range(4) for version in (2, 3)],
        [f"scene{n}.{frame:03}.jpg" for n in range(9) for frame in range(3)],
        ["1.png", "1.mask.png", "2.png", "3.png"],
        ["1.png", "1.jpg", "2.png", "2.jpg"],
        ["1.png", "1.mask.png", "2.png", "2.mask.png", "3.png", "4.png"],
    ],
    ids=["versions", "frames", "one mask", "two keys", "half of the masks"],
)
def test_names_with_dots_that_are_no_fields_are_all_images(
    kind: str, names: list[str], tmp_path: Path
) -> None:
    source = opened(kind, tmp_path, [(name, png(n)) for n, name in enumerate(names)])
    assert {source.read(position) for position in range(len(source))} == {png(n) for n in range(len(names))}


@ALL_KINDS
def test_an_ending_is_what_follows_the_key_or_else_the_end_of_the_name(kind: str, tmp_path: Path) -> None:
    names = ["1.png", "1.mask.png", "2.v2.png", "3.v2.PNG", "4.jpg"]
    source = opened(kind, tmp_path, [(name, png(n)) for n, name in enumerate(names)], ending="png")
    assert {source.read(position) for position in range(len(source))} == {png(0), png(2), png(3)}
    assert remarks_of(source).left_out == ("2 images with another ending (1.mask.png, ...)",)


@ALL_KINDS
def test_an_ending_never_means_a_mask_next_to_another_image(kind: str, tmp_path: Path) -> None:
    names = ["1.png", "1.mask.png", "2.jpg", "2.mask.png", "3.jpg", "3.mask.png", "4.v1.png", "4.v2.jpg"]
    source = opened(kind, tmp_path, [(name, png(n)) for n, name in enumerate(names)], ending="png")
    assert {source.read(position) for position in range(len(source))} == {png(0), png(6)}
    assert remarks_of(source).left_out == ("6 images with another ending (1.mask.png, ...)",)


@ALL_KINDS
def test_masks_without_images_of_their_ending_are_taken_by_their_whole_ending(
    kind: str, tmp_path: Path
) -> None:
    files = [(f"{n}.{field}", png(n)) for n in range(3) for field in ("jpg", "mask.png")]
    with pytest.raises(DataError, match=r"holds no images that end in png"):
        opened(kind, tmp_path, files, ending="png")
    shutil.rmtree(tmp_path / "set", ignore_errors=True)
    assert len(opened(kind, tmp_path, files, ending="mask.png")) == 3


@ALL_KINDS
def test_a_lost_mask_does_not_make_images_of_the_others(kind: str, tmp_path: Path) -> None:
    files = [(f"{n}.{field}", png(n)) for n in range(9) for field in ("jpg", "mask.png")]
    with pytest.raises(DataError, match=r"2 images with the key '0': 0\.jpg, 0\.mask\.png .*--images jpg"):
        opened(kind, tmp_path, files[:-1])


@ALL_KINDS
def test_a_label_of_a_series_is_refused_with_every_way_out(kind: str, tmp_path: Path) -> None:
    files = [("img.v1.png", png(1)), ("img.v2.png", png(2)), ("img.v1.cls", b"1")]
    with pytest.raises(
        DataError, match=r"such as img\.v1\.cls, or give --labels none or --labels FILE, a table"
    ):
        opened(kind, tmp_path, files)
    shutil.rmtree(tmp_path / "set", ignore_errors=True)
    source = opened(kind, tmp_path, [*files, ("img.v2.cls", b"0")])
    assert {source.read(position): source.label(position) for position in (0, 1)} == {png(1): 1, png(2): 0}


@ALL_KINDS
def test_two_labels_of_one_image_are_called_so(kind: str, tmp_path: Path) -> None:
    files = [*((f"{n}.png", png(n)) for n in range(3)), ("0.a.cls", b"1"), ("0.b.cls", b"2")]
    with pytest.raises(DataError, match=r"holds 2 labels with the key '0': 0\.a\.cls, 0\.b\.cls"):
        opened(kind, tmp_path, files)


@ALL_KINDS
def test_a_label_of_several_images_is_refused_in_every_container(kind: str, tmp_path: Path) -> None:
    fields = [(f"{n}.{end}", png(n)) for n in range(3) for end in ("png", "mask.png")]
    files = [*fields, *((f"{n}.cls", b"1") for n in range(3))]
    with pytest.raises(DataError, match=r"2 images with the key '0': .*--images png; or pack") as refusal:
        opened(kind, tmp_path, files)
    assert "--images all" not in str(refusal.value)


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
@pytest.mark.parametrize("top", ["", "faces/"])
def test_labels_of_dataset_json_replace_numbered_folders(kind: str, top: str, tmp_path: Path) -> None:
    names = [f"0000{n // 2}/img{n}.png" for n in range(6)]
    table = [[name.replace("/", "\\") if n == 3 else name, n % 3] for n, name in enumerate(names)]
    files = [(top + name, png(n)) for n, name in enumerate(names)]
    source = opened(kind, tmp_path, [*files, (f"{top}dataset.json", json.dumps({"labels": table}).encode())])
    assert named(source) == {f"img{n}": str(n % 3) for n in range(6)}
    assert str(remarks_of(source)) == ""
    assert remarks_of(source).labels_from == "dataset.json"


@pytest.mark.parametrize(
    ("content", "classes", "remark"),
    [
        ({"labels": None}, (), ""),
        ({"labels": {"0/a.png": 1, "1/b.png": 0}}, ("0", "1"), ""),
        ([["0/a.png", 1], ["1/b.png", 0]], ("0", "1"), ""),
        ({"labels": [["0/a.png", [0, 1]], ["1/b.png", [1, 0]]]}, ("0", "1"), ""),
        ({"labels": [["0/a.png", "cat"], ["1/b.png", "dog"]]}, ("cat", "dog"), ""),
        ({"labels": [["0/a.png", 2], ["1/b.png", 2]]}, ("0", "1", "2"), ""),
        (
            {"labels": [["0/a.png", 1], ["1/b.png", 0], ["1/c.png", 0]]},
            ("0", "1"),
            "labels not used: 1 label of dataset.json without an image",
        ),
        (
            {"labels": [["0/a.png", [0.5, 0.25]], ["1/b.png", [1, 0]]]},
            (),
            "labels not used: dataset.json (its 2 columns are not one-hot, so an image has several labels or none)",
        ),
        (
            {"labels": [["0/a.png", 0.5], ["1/b.png", 1]]},
            (),
            "labels not used: dataset.json (it holds 0.5, which is neither a whole number nor a word)",
        ),
        ({"name": "x"}, ("0", "1"), "left out: 1 file of another kind (dataset.json)"),
        (
            {"labels": [["0/a.png", 1], ["./0/a.png", 0], ["1/b.png", 1]]},
            (),
            "labels not used: dataset.json (it has two labels for '0/a.png')",
        ),
    ],
)
def test_every_form_of_dataset_json_is_used_or_named(
    content: object, classes: tuple[str, ...], remark: str, tmp_path: Path
) -> None:
    files = [("0/a.png", png(1)), ("1/b.png", png(2)), ("dataset.json", json.dumps(content).encode())]
    source = opened("zip", tmp_path, files)
    assert source.classes == classes
    assert str(remarks_of(source)) == remark


def test_dataset_json_must_label_all_images(tmp_path: Path) -> None:
    files = [("0/a.png", png()), ("1/b.png", png()), ("dataset.json", b'{"labels": [["0/a.png", 1]]}')]
    with pytest.raises(
        DataError, match=r"dataset\.json has no label for 1 of 2 images, for example 1/b\.png"
    ):
        opened("zip", tmp_path, files)
    assert len(opened("zip", tmp_path, files, labels="none")) == 2


@pytest.mark.parametrize(
    ("kind", "how"),
    [("folder", r"--labels \S+/x/y\.csv"), ("zip", r"take it out of set\.zip, then --labels y\.csv")],
)
def test_a_table_that_is_not_used_is_named_with_how_to_use_it(kind: str, how: str, tmp_path: Path) -> None:
    source = opened(kind, tmp_path, [("a.png", png()), ("x/y.csv", b"file,label\na,cat\n")])
    assert re.search(rf"labels not used: x/y\.csv \({how}\)$", str(remarks_of(source)))


METADATA: Files = [
    file
    for n in range(3)
    for file in (
        (f"{n}.png", png(n)),
        (f"{n}.json", json.dumps({"label": n % 2, "meta": {"kind": ("owl", "cat", "owl")[n]}}).encode()),
        (f"{n}.txt", b"a%d\n" % (n % 2)),
    )
]


@ALL_KINDS
def test_labels_that_are_there_and_not_used_are_named(kind: str, tmp_path: Path) -> None:
    source = opened(kind, tmp_path, METADATA)
    assert source.classes == ()
    assert str(remarks_of(source)) == (
        "left out: 6 files of other kinds (3 .json, 3 .txt), for example 0.json; labels not used: 3 KEY.json "
        "(--labels json:KEY, where KEY is one of label, meta.kind); 3 KEY.txt (--labels txt)"
    )


@ALL_KINDS
@pytest.mark.parametrize(
    ("choice", "expected"),
    [("json:label", ["0", "1", "0"]), ("json:meta.kind", ["owl", "cat", "owl"]), ("txt", ["a0", "a1", "a0"])],
)
def test_labels_come_from_the_files_that_were_chosen(
    kind: str, choice: str, expected: list[str], tmp_path: Path
) -> None:
    source = opened(kind, tmp_path, METADATA, labels=choice)
    assert named(source) == {str(n): name for n, name in enumerate(expected)}


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("json:size", r"0\.json has no key size\. Its keys: label, meta"),
        ("json:meta", r"0\.json: meta is .*, but a label must be a whole number or one line of text"),
        ("cls", r"holds no KEY\.cls next to its images, for --labels cls"),
    ],
)
def test_chosen_labels_that_are_not_there_are_refused(choice: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        opened("tar", tmp_path, METADATA, labels=choice)


def test_a_key_that_a_label_file_has_twice_is_refused(tmp_path: Path) -> None:
    files = [("a.png", png()), ("a.json", b'{"label": 1, "meta": {"label": 0, "x": 2, "label": 1}}')]
    with pytest.raises(DataError, match=r"a\.json .*: it has the key 'label' twice in one object"):
        opened("tar", tmp_path, files, labels="json:label")


def test_words_in_label_files_are_classes_if_asked_for(tmp_path: Path) -> None:
    files = [("a.png", png(1)), ("a.cls", b"dog\n"), ("b.png", png(2)), ("b.cls", b"cat")]
    with pytest.raises(
        DataError, match=r"a\.cls holds b'dog\\n', but a label must be a whole .*--labels cls"
    ):
        opened("tar", tmp_path, files)
    assert named(opened("tar", tmp_path, files, labels="cls")) == {"a": "dog", "b": "cat"}


@ALL_KINDS
def test_without_labels_all_images_at_any_depth_are_taken(kind: str, tmp_path: Path) -> None:
    files = [("loose.png", png(1)), ("cat/a.png", png(2)), ("train/x/b.png", png(3)), ("cat/a.cls", b"0")]
    with pytest.raises(DataError, match=r"--labels none"):
        opened(kind, tmp_path, files)
    shutil.rmtree(tmp_path / "set", ignore_errors=True)
    source = opened(kind, tmp_path, files, labels="none")
    assert named(source) == {"loose": None, "a": None, "b": None}
    assert remarks_of(source).unused_labels == ("1 KEY.cls (--labels cls)",)


def test_the_folders_can_be_chosen(tmp_path: Path) -> None:
    files = [("cat/a.png", png(1)), ("dog/b.png", png(2)), ("dataset.json", b'{"labels": null}')]
    assert opened("zip", tmp_path, files).classes == ()
    assert opened("zip", tmp_path, files, labels="folders").classes == ("cat", "dog")


def test_class_names_are_given_to_numbers_only(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("owl\ncat\ndog\n", encoding="utf-8-sig")
    files = [
        ("a.png", png(1)),
        ("a.cls", b"1"),
        ("b.png", png(2)),
        ("b.cls", b"0"),
        ("classes.txt", b"x\ny\n"),
    ]
    assert opened("zip", tmp_path, files).classes == ("x", "y")
    source = opened("zip", tmp_path, files, class_names=names)
    assert source.classes == ("owl", "cat", "dog")
    assert named(source) == {"a": "cat", "b": "owl"}
    names.write_text("owl\n")
    with pytest.raises(DataError, match=r"names\.txt names 1 class, but there are labels up to 1"):
        opened("zip", tmp_path, files, class_names=names)
    put_image(tmp_path / "folders" / "cat" / "a.png")
    put_image(tmp_path / "flat" / "a.png")
    for name, message in (("folders", r"have names already \(cat\)"), ("flat", "has no labels")):
        with pytest.raises(ConfigError, match=message):
            open_source(Spec(str(tmp_path / name), class_names=names))


def test_labels_for_another_kind_of_source_are_refused(tmp_path: Path) -> None:
    put_image(tmp_path / "set" / "a.png")
    with pytest.raises(ConfigError, match=r"--labels column:y is for a Hugging Face set or an \.npz file"):
        open_source(Spec(str(tmp_path / "set"), labels=parse_label_choice("column:y")))
    with pytest.raises(ConfigError, match=r"--labels txt is for folders, archives and webdataset shards"):
        open_source(Spec("digits", labels=parse_label_choice("txt")))
    with pytest.raises(ConfigError, match=r"--images jpg is for folders"):
        open_source(Spec("digits", ending="jpg"))
    assert open_source(Spec("digits", labels=parse_label_choice("none"))).classes == ()
    for text in ("jsn:x", "json:", "labels.txt"):
        with pytest.raises(ConfigError, match=rf"--labels {text} is not known\. Give `none`"):
            parse_label_choice(text)


def test_empty_classes_are_counted(tmp_path: Path) -> None:
    source = opened("tar", tmp_path, [("a.png", png(1)), ("a.cls", b"3")])
    assert source.classes == ("0", "1", "2", "3")
    assert remarks_of(source).labels_from == "KEY.cls, 3 of 4 classes without images"


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([2, 0, 1], np.uint8), [2, 0, 1]),
        (np.array([[2], [0], [1]]), [2, 0, 1]),
        (np.array([2.0, 0.0, 1.0]), [2, 0, 1]),
        (np.array([True, False]), [1, 0]),
        (np.eye(3, dtype=np.float32)[[2, 0]], [2, 0]),
        (np.array(["dog", "cat"]), ["dog", "cat"]),
        (np.array([b"1", b"0"]), [1, 0]),
    ],
)
def test_labels_in_arrays_of_any_type_are_taken(array: Any, expected: list[int | str]) -> None:
    assert labels_in(array) == expected


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.array([0.5, 1.0]), "it holds 0.5, which is not a whole number"),
        (np.array([np.nan, 1.0]), "it holds nan, which is not a whole number"),
        (np.array([[1, 1], [1, 0]]), "its 2 columns are not one-hot"),
        (np.array([-1, 0]), "it holds labels from -1 to 0, but labels must be 0 to 999,999"),
        (np.zeros((2, 3, 4)), r"its shape is \(2, 3, 4\)"),
        (np.array([1j, 0]), "its type is complex128"),
        (np.array(["two\nlines", "x"]), "which is not the name of a class"),
    ],
)
def test_other_arrays_are_no_labels_with_the_reason(array: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        labels_in(array)


def test_texts_of_label_files() -> None:
    assert [parse_number(text) for text in (b"07\r\n", b"1 2", b"", "²".encode())] == [7, None, None, None]
    assert [parse_label(text) for text in (b"7", b"07", b" big cat\n", b"a\nb", b"\xff")] == [
        *(7, "07", "big cat", None, None)
    ]


@pytest.mark.parametrize(
    ("y", "classes", "remark"),
    [
        (np.array([[1], [0]]), ("0", "1"), ""),
        (np.array(["owl", "cat"]), ("cat", "owl"), ""),
        (np.array([0.5, 1]), (), "labels not used: y (it holds 0.5, which is not a whole number)"),
        (np.array([None, 1]), (), "labels not used: y (it holds Python objects, which are not loaded)"),
        (np.eye(3), (), "labels not used: y (its shape is (3, 3), but there are 2 images)"),
    ],
)
def test_labels_of_npz_files_are_used_or_named(
    y: Any, classes: tuple[str, ...], remark: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 4, 4), np.uint8), y=y, ids=np.arange(2))
    source = open_source(Spec(str(tmp_path / "a.npz")))
    assert source.classes == classes
    assert str(remarks_of(source)).endswith(remark)
    assert "array" in remarks_of(source).left_out[0]


def test_the_array_of_labels_can_be_chosen(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 4, 4), np.uint8), fine=[5, 0], coarse=[1, 0])
    path = str(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"2 such arrays \(fine, coarse\).*--labels column:fine"):
        open_source(Spec(path))
    source = open_source(Spec(path, labels=parse_label_choice("column:coarse")))
    assert labels(source) == {"0": 1, "1": 0}
    assert open_source(Spec(path, labels=parse_label_choice("none"))).classes == ()
    with pytest.raises(ConfigError, match=r"no such array of labels\. It holds x: uint8 \(2, 4, 4\), fine"):
        open_source(Spec(path, labels=parse_label_choice("column:y")))
