"""Hugging Face datasets that were saved to disk."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.sources import Source, Spec, open_source, remarks_of
from pipeline.data.sources.hugging_face import HuggingFace
from pipeline.data.sources.labels import LabelChoice
from pipeline.errors import ConfigError, DataError
from tests.data.sources.helpers import labels, png, put_hugging_face, put_image, values
from tests.shards import reader, write


def open_saved(folder: Path, split: str = "train") -> Source:
    return open_source(Spec("hf:some/pets", folder, split))


def save(folder: Path, columns: dict[str, list[object]], features: dict[str, object]) -> Path:
    import datasets

    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).save_to_disk(str(folder))
    return folder


def test_images_and_labels_of_a_saved_dataset_are_read(tmp_path: Path) -> None:
    source = open_saved(put_hugging_face(tmp_path / "set"))
    assert (source.name, source.classes, len(source)) == ("hf:some/pets-train", ("cat", "dog"), 3)
    assert values(source) == {"0": (0, 1), "1": (1, 2), "2": (1, 3)}
    assert {source.read(position) for position in range(3)} == {png(1), png(2), png(3)}


def test_a_name_without_an_owner_is_no_import_path(tmp_path: Path) -> None:
    source = open_source(Spec("hf:pets", put_hugging_face(tmp_path / "set")))
    assert (source.name, len(source)) == ("hf:pets-train", 3)


def test_a_dataset_can_be_pickled_and_made_to_shards(tmp_path: Path) -> None:
    source = open_saved(put_hugging_face(tmp_path / "set"))
    copy = pickle.loads(pickle.dumps(source))
    assert values(copy) == values(source)
    manifest = write(copy, tmp_path / "shards", 4, 1)
    assert len(reader(tmp_path / "shards").read(np.arange(manifest.count))) == 3


@pytest.mark.parametrize("kind", ["numpy", "arrow", "pandas"])
def test_the_format_of_the_saved_dataset_does_not_matter(kind: str, tmp_path: Path) -> None:
    import datasets

    saved = datasets.load_from_disk(str(put_hugging_face(tmp_path / "plain")))
    saved.with_format(kind).save_to_disk(str(tmp_path / "formatted"))
    plain, formatted = open_saved(tmp_path / "plain"), open_saved(tmp_path / "formatted")
    assert values(formatted) == values(plain) == {"0": (0, 1), "1": (1, 2), "2": (1, 3)}


@pytest.mark.parametrize("name", ["a" * 400 + ".png", "data:image/png;base64," + "A" * 5000])
def test_a_string_too_long_for_a_path_is_reported_as_no_file(name: str) -> None:
    import datasets

    features = datasets.Features({"image": datasets.Image(decode=False)})
    rows = {"image": [{"bytes": None, "path": name}]}
    source = HuggingFace("pets", datasets.Dataset.from_dict(rows, features=features), places=(Path(),))
    with pytest.raises(DataError, match=r"row 0 refers to the file .*, which does not exist here"):
        source.read(0)


def test_a_dataset_of_splits_gives_the_requested_split(tmp_path: Path) -> None:
    import datasets

    part = datasets.load_from_disk(str(put_hugging_face(tmp_path / "one")))
    datasets.DatasetDict({"train": part, "test": part.select([0])}).save_to_disk(str(tmp_path / "both"))
    assert len(open_saved(tmp_path / "both", "test")) == 1
    with pytest.raises(ConfigError, match=r"--split valid: .* has no such split\. Its splits: train, test"):
        open_saved(tmp_path / "both", "valid")


def test_secret_labels_are_no_labels(tmp_path: Path) -> None:
    import datasets

    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    rows: dict[str, list[object]] = {"image": [{"bytes": png(1), "path": None}], "label": [-1]}
    source = open_saved(save(tmp_path / "set", rows, kinds))
    assert (source.classes, source.label(0)) == ((), None)


def test_local_image_files_are_read_and_missing_ones_named(tmp_path: Path) -> None:
    import datasets

    put_image(tmp_path / "a.png", 7)
    rows = [{"bytes": None, "path": str(tmp_path / "a.png")}, {"bytes": None, "path": "gone.png"}, None]
    features = datasets.Features({"image": datasets.Image(decode=False)})
    source = HuggingFace(
        "pets", datasets.Dataset.from_dict({"image": rows}, features=features), places=(tmp_path,)
    )
    by_key = {source.key(position): position for position in range(3)}
    assert source.read(by_key["0"]) == (tmp_path / "a.png").read_bytes()
    with pytest.raises(DataError, match=r"row 1 refers to the file 'gone\.png', which does not exist here"):
        source.read(by_key["1"])
    with pytest.raises(DataError, match="row 2 has no image"):
        source.read(by_key["2"])


@pytest.mark.parametrize("columns", [[], ["a", "b"]])
def test_exactly_one_image_column_is_needed(tmp_path: Path, columns: list[str]) -> None:
    import datasets

    rows: dict[str, list[object]] = {
        "text": ["x"],
        **{name: [{"bytes": png(), "path": None}] for name in columns},
    }
    kinds: dict[str, object] = {
        "text": datasets.Value("string"),
        **{name: datasets.Image() for name in columns},
    }
    with pytest.raises(DataError, match=rf"exactly one column of type Image, but it has {len(columns)} "):
        open_saved(save(tmp_path / "set", rows, kinds))


def test_a_folder_without_a_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a saved dataset .*save_to_disk wrote"):
        open_saved(tmp_path)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'wgan-pipeline\[hf\]'"):
        open_saved(tmp_path)


def columns(tmp_path: Path, kinds: dict[str, object], **values: list[object]) -> Path:
    import datasets

    count = len(next(iter(values.values())))
    rows: dict[str, list[object]] = {
        "image": [{"bytes": png(n), "path": None} for n in range(count)],
        **values,
    }
    return save(tmp_path / "set", rows, {"image": datasets.Image(), **kinds})


@pytest.mark.parametrize(
    ("kind", "values", "classes"),
    [
        ("int64", [1, 0], ("0", "1")),
        ("float32", [1.0, 0.0], ("0", "1")),
        ("string", ["dog", "cat"], ("cat", "dog")),
        ("bool", [True, False], ("false", "true")),
    ],
)
def test_a_plain_column_named_label_is_used(
    kind: str, values: list[object], classes: tuple[str, ...], tmp_path: Path
) -> None:
    import datasets

    kinds: dict[str, object] = {"label": datasets.Value(kind), "id": datasets.Value("string")}
    source = open_saved(columns(tmp_path, kinds, label=values, id=["x", "y"]))
    assert source.classes == classes
    assert labels(source) == {"0": 1, "1": 0}
    assert remarks_of(source).left_out == ("1 column (id)",)


def test_one_hot_rows_are_labels(tmp_path: Path) -> None:
    import datasets

    kinds: dict[str, object] = {"labels": datasets.List(datasets.Value("float32"))}
    source = open_saved(columns(tmp_path, kinds, labels=[[0, 1], [1, 0]]))
    assert labels(source) == {"0": 1, "1": 0}


@pytest.mark.parametrize(("values", "reason"), [([0.5, 1.0], "it holds 0.5"), ([None, 1.0], "it holds None")])
def test_a_column_that_is_no_label_is_named(values: list[object], reason: str, tmp_path: Path) -> None:
    import datasets

    path = columns(tmp_path, {"label": datasets.Value("float32")}, label=values)
    source = open_saved(path)
    assert source.classes == ()
    assert remarks_of(source).unused_labels[0].startswith(f"the column label ({reason}")
    with pytest.raises(DataError, match=f"the column label: {reason}"):
        open_source(Spec("hf:some/pets", path, labels=LabelChoice("column", "label")))


def test_of_two_columns_of_classes_one_is_chosen(tmp_path: Path) -> None:
    import datasets

    kinds: dict[str, object] = {
        "fine": datasets.ClassLabel(names=["a", "b", "c"]),
        "coarse": datasets.ClassLabel(names=["x", "y"]),
    }
    path = columns(tmp_path, kinds, fine=[2, 0], coarse=[1, 0])
    with pytest.raises(
        DataError, match=r"2 columns of labels: fine of 3 classes, coarse of 2 classes.*column:fine"
    ):
        open_saved(path)
    source = open_source(Spec("hf:some/pets", path, labels=LabelChoice("column", "coarse")))
    assert (source.classes, labels(source)) == (("x", "y"), {"0": 1, "1": 0})
    with pytest.raises(ConfigError, match=r"no such column of labels\. Its columns: image, fine, coarse"):
        open_source(Spec("hf:some/pets", path, labels=LabelChoice("column", "size")))
    assert open_source(Spec("hf:some/pets", path, labels=LabelChoice("none"))).classes == ()


def test_files_outside_of_the_dataset_are_not_read(tmp_path: Path) -> None:
    import datasets

    put_image(tmp_path / "secret.png", 7)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "link.png").symlink_to("../secret.png")
    paths = [str(tmp_path / "secret.png"), "../secret.png", "link.png", "a\0b"]
    rows = [{"bytes": None, "path": path} for path in paths]
    features = datasets.Features({"image": datasets.Image(decode=False)})
    table = datasets.Dataset.from_dict({"image": rows}, features=features)
    source = HuggingFace("pets", table, places=(tmp_path / "set",))
    reasons = ["which lies outside of the dataset, so it is not read"] * 3 + ["which does not exist here"]
    for position in range(4):
        with pytest.raises(DataError, match=reasons[int(source.key(position))]):
            source.read(position)


@pytest.mark.parametrize("offset", [2**31 - 1, -1, 0])
def test_a_table_with_wrong_offsets_is_refused_before_a_value_is_read(tmp_path: Path, offset: int) -> None:
    """Arrow would read outside of the table, which ends the process."""
    folder = put_hugging_face(tmp_path / "saved")
    (path,) = folder.glob("*.arrow")
    ends = np.cumsum([0, *(len(png(value)) for value in (1, 2, 3))]).astype("<i4")
    content = path.read_bytes()
    assert content.count(ends.tobytes()) == 1
    wrong = ends.copy()
    wrong[2] = offset
    path.write_bytes(content.replace(ends.tobytes(), wrong.tobytes()))
    with pytest.raises(DataError, match=r"saved is damaged: .*[Oo]ffset.* Download or save it again\."):
        open_source(Spec("hf:user/name", folder))


def saved_in_splits(folder: Path) -> Path:
    for split in ("train", "test"):
        put_hugging_face(folder / split)
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    return folder


def test_a_named_pipe_in_a_saved_dataset_is_refused(tmp_path: Path) -> None:
    """The library `datasets` would wait for ever for a writer."""
    rows = next(saved_in_splits(tmp_path / "set").glob("train/*.arrow"))
    assert len(open_saved(tmp_path / "set")) == 3
    rows.unlink()
    os.mkfifo(rows)
    with pytest.raises(DataError, match=r"holds train/data-\S+\.arrow, a named pipe, which no dataset needs"):
        open_saved(tmp_path / "set")


def test_a_saved_dataset_leads_to_no_file_outside(tmp_path: Path) -> None:
    put_hugging_face(tmp_path / "other")
    folder = saved_in_splits(tmp_path / "set")
    state = folder / "train" / "state.json"
    right = state.read_text()
    state.write_text(right.replace('"data-', '"../../other/data-'))
    with pytest.raises(DataError, match=r"refers to 'train/\.\./\.\./other/data-.*which is not in it"):
        open_saved(folder)
    state.write_text(right)
    rows = next(folder.glob("train/*.arrow"))
    rows.unlink()
    rows.symlink_to(next((tmp_path / "other").glob("*.arrow")))
    with pytest.raises(DataError, match=r"it is a link to .*, outside of"):
        open_saved(folder)
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "../other"]}')
    with pytest.raises(DataError, match=r"refers to '\.\./other', which is not in it"):
        open_saved(folder)
    (folder / "dataset_dict.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"dataset_dict\.json cannot be read"):
        open_saved(folder)
