"""Hugging Face datasets that were saved to disk."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.sources import Source, Spec, open_source
from pipeline.data.sources.hugging_face import HuggingFace
from pipeline.errors import ConfigError, DataError
from tests.data.sources.helpers import png, put_hugging_face, put_image, values
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
    source = HuggingFace("pets", datasets.Dataset.from_dict(rows, features=features), None, ())
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
    source = HuggingFace("pets", datasets.Dataset.from_dict({"image": rows}, features=features), None, ())
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
