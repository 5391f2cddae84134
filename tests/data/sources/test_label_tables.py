"""Labels in one file for a source of any kind: tables, and dataset.json."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data.sources import Source, Spec, open_source, remarks_of
from pipeline.data.sources.labels import parse_label_choice
from pipeline.errors import ConfigError, DataError, PipelineError
from tests.data.sources.helpers import labels, png, put_image, put_tar


def labelled(path: Path, table: Path, column: str = "") -> Source:
    return open_source(Spec(str(path), labels=parse_label_choice(f"{table}{':' if column else ''}{column}")))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, name in enumerate(("x/1.png", "x/2.png", "y/3.png")):
        put_image(tmp_path / "photos" / name, number)
    return tmp_path / "photos"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8-sig")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "file_name,label\nx/1.png,owl\nx/2.png,cat\ny/3.png,owl\n"),
        ("a.csv", "1.png,owl\r\n2.png,cat\r\n3.png,owl\r\n"),
        ("a.csv", "id;label\n1;owl\n2;cat\n3;owl\n"),
        ("a.csv", "width,label,image\n4,owl,x\\1.png\n5,cat,./x/2.png\n6,owl,3\n"),
        ("a.csv", "id\tlabel\n1\towl\n2\tcat\n3\towl\n"),
        ("a.tsv", 'name\tkind\n1\t"owl"\n2\tcat\n3\t owl \n'),
        ("a.json", '{"labels": [["x/1.png", "owl"], ["x/2.png", "cat"], ["y/3.png", "owl"]]}'),
    ],
)
def test_images_are_found_in_a_table_by_path_name_or_stem(photos: Path, name: str, text: str) -> None:
    source = labelled(photos, write(photos.parent / name, text))
    assert source.classes == ("cat", "owl")
    assert labels(source) == {"x/1.png": 1, "x/2.png": 0, "y/3.png": 1}
    assert remarks_of(source).labels_from == str(photos.parent / name)


def test_a_table_in_the_source_is_used_and_not_left_out(photos: Path) -> None:
    (photos / "names.txt").write_text("owl\ncat\n")
    table = write(photos / "x" / "a.csv", "id,label\n1,1\n2,0\n3,0\n")
    choice = parse_label_choice(str(table))
    source = open_source(Spec(str(photos), labels=choice, class_names=photos / "names.txt"))
    assert source.classes == ("owl", "cat")
    assert str(remarks_of(source)) == ""


def test_a_column_is_chosen_by_its_name(photos: Path) -> None:
    table = write(photos.parent / "a.csv", "id,fine,coarse\n1,7,1\n2,8,0\n3,9,1\n4,9,1\n")
    with pytest.raises(
        ConfigError, match=r"unclear which column holds the labels.*columns: id, fine, coarse"
    ):
        labelled(photos, table)
    with pytest.raises(ConfigError, match=r"a\.csv:size: no such column\. Its columns: id, fine, coarse"):
        labelled(photos, table, "size")
    source = labelled(photos, table, "coarse")
    assert (source.classes, labels(source)) == (("0", "1"), {"x/1.png": 1, "x/2.png": 0, "y/3.png": 1})
    assert remarks_of(source).unused_labels == (f"1 label of {table} without an image",)


@pytest.mark.parametrize(
    ("values", "classes", "expected"),
    [
        (("2.0", "0.0", "1.000"), ("0", "1", "2"), [2, 0, 1]),
        (("2.0", "0", "1"), ("0", "1", "2"), [2, 0, 1]),
        (("2.0", "0.5", "1.0"), ("0.5", "1.0", "2.0"), [2, 0, 1]),
        (("2.0", "00.0", "v1"), ("00.0", "2.0", "v1"), [1, 0, 2]),
    ],
)
def test_whole_numbers_with_a_point_are_numbers_if_all_labels_are(
    photos: Path, values: tuple[str, ...], classes: tuple[str, ...], expected: list[int]
) -> None:
    rows = "".join(f"{number},{value}\n" for number, value in enumerate(values, start=1))
    source = labelled(photos, write(photos.parent / "a.csv", f"id,label\n{rows}"))
    assert source.classes == classes
    assert [label for _, label in sorted(labels(source).items())] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,label\n1,owl\n", r"a\.csv has no label for 2 of 3 images, for example .*\.png"),
        (
            "id,label\n/d/1.png,owl\n",
            r"no label for 3 of 3 .*\. It has labels for others, such as '/d/1\.png'\. Add",
        ),
        ("id,label\n1,owl\n1,cat\n", r"a\.csv has two rows for '1'"),
        ("id,label\n1,owl\n2,cat,dog\n3,x\n", r"row 3 has 3 values, but the first one has 2"),
        ("", r"a\.csv is empty"),
        ('id,label\n1,"owl\n', r"a\.csv cannot be read"),
        ("id,label\n1,\n2,cat\n3,owl\n", r"it holds '', which is neither a whole number nor a word"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(photos: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        labelled(photos, write(photos.parent / "a.csv", text))


def test_accents_have_one_form_in_tables_and_images(tmp_path: Path) -> None:
    put_image(tmp_path / "photos" / "cafe\u0301.png", 0)
    put_image(tmp_path / "photos" / "th\u00e9.png", 1)
    table = write(tmp_path / "a.csv", "id,label\ncaf\u00e9.png,1\nthe\u0301.png,0\n")
    assert labels(labelled(tmp_path / "photos", table)) == {"cafe\u0301.png": 1, "th\u00e9.png": 0}


@pytest.mark.parametrize("other", ["cafe\u0301", "caf\u00e9 "])
def test_classes_that_look_alike_are_refused(other: str, tmp_path: Path) -> None:
    put_image(tmp_path / "caf\u00e9" / "a.png", 0)
    put_image(tmp_path / other / "b.png", 1)
    with pytest.raises(DataError, match=r"the classes 'caf.*' and 'caf.*', which look alike"):
        open_source(Spec(str(tmp_path)))


def test_a_name_that_two_images_have_is_refused(photos: Path) -> None:
    put_image(photos / "y" / "1.png")
    with pytest.raises(
        DataError, match=r"one label for '1', but both .*/1\.png and .*/1\.png have this name"
    ):
        labelled(photos, write(photos.parent / "a.csv", "id,label\n1,a\n2,a\n3,a\n"))


def test_a_name_that_dataset_json_has_twice_is_refused(photos: Path) -> None:
    table = write(
        photos.parent / "a.json", '{"labels": {"x/1.png": 1, "x/2.png": 0, "y/3.png": 1, "x/1.png": 0}}'
    )
    with pytest.raises(DataError, match=r"a\.json cannot be read: it has the key 'x/1\.png' twice"):
        labelled(photos, table)


def test_files_that_are_no_tables_are_refused(photos: Path) -> None:
    (photos.parent / "b.csv").mkdir()
    for name, message in (
        ("a.csv", "there is no such file"),
        ("b.csv", "it is a directory"),
        ("c.json", r"labels is missing"),
    ):
        if name == "c.json":
            write(photos.parent / name, "{}")
        with pytest.raises(PipelineError, match=message):
            labelled(photos, photos.parent / name)


def test_samples_of_shards_and_named_sets_are_found_by_their_keys(tmp_path: Path) -> None:
    put_tar(tmp_path / "set.tar", [("a.png", png()), ("a.cls", b"0"), ("b.png", png()), ("b.cls", b"0")])
    table = write(tmp_path / "a.csv", "id,label\na.png,owl\nb.png,cat\n")
    source = labelled(tmp_path / "set.tar", table)
    assert source.classes == ("cat", "owl")
    rows = "".join(f"{number},{number % 2}\n" for number in range(1797))
    digits = labelled(Path("digits"), write(tmp_path / "b.csv", f"id,label\n{rows}"))
    assert (digits.classes, digits.label(3)) == (("0", "1"), 1)
