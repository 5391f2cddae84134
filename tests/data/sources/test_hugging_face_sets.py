"""Details of Hugging Face datasets: order, recorded splits, invalid rows, and requests to the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.sources import Source, Spec, hugging_face, members, open_source
from pipeline.errors import ConfigError, DataError
from tests.data.sources.helpers import png, put_hugging_face

NAME = "hf:user/name"


def save(
    folder: Path, images: Sequence[Any], labels: Sequence[int | None] | None = None, split: str | None = None
) -> Spec:
    import datasets

    rows: dict[str, Any] = {"picture": images}
    features: dict[str, Any] = {"picture": datasets.Image()}
    if labels is not None:
        rows["kind"], features["kind"] = labels, datasets.ClassLabel(names=["cat", "dog"])
    dataset = datasets.Dataset.from_dict(
        rows, features=datasets.Features(features), split=None if split is None else datasets.Split(split)
    )
    dataset.save_to_disk(str(folder))
    return Spec(NAME, folder)


def stored(value: int) -> dict[str, Any]:
    return {"bytes": png(value), "path": None}


def test_rows_sorted_by_class_are_mixed(tmp_path: Path) -> None:
    source = open_source(save(tmp_path / "saved", [stored(0)] * 40, [0] * 20 + [1] * 20))
    assert {source.label(position) for position in range(10)} == {0, 1}


def test_datasets_are_read_in_spawned_processes(tmp_path: Path) -> None:
    source = open_source(Spec(NAME, put_hugging_face(tmp_path / "saved")))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        assert set(processes.map(source.read, range(3))) == {png(1), png(2), png(3)}


def test_a_saved_split_is_not_used_for_another(tmp_path: Path) -> None:
    save(tmp_path / "saved", [stored(1)], split="test")
    with pytest.raises(ConfigError, match=r"--split train: .* has no such split\. Its split: test\."):
        open_source(Spec(NAME, tmp_path / "saved"))
    assert len(open_source(Spec(NAME, tmp_path / "saved", "test"))) == 1


def test_a_dataset_without_a_class_column_has_no_labels(tmp_path: Path) -> None:
    source = open_source(save(tmp_path / "saved", [stored(1)]))
    assert (source.classes, source.label(0)) == ((), None)


@pytest.mark.parametrize(("wrong", "shown"), [(-1, "-1"), (None, "nan")])
def test_a_row_without_a_label_is_named(wrong: int | None, shown: str, tmp_path: Path) -> None:
    spec = save(tmp_path / "saved", [stored(1), stored(2)], [0, wrong])
    with pytest.raises(DataError, match=rf"row 1 has label {shown}.*, but the dataset has 2 classes"):
        open_source(spec)


def linked(tmp_path: Path, path: str) -> Source:
    import datasets

    dataset = datasets.Dataset.from_dict(
        {"picture": [{"bytes": None, "path": path}]},
        features=datasets.Features({"picture": datasets.Image()}),
    )
    # A table in memory, because saving would include the content of the file.
    return hugging_face.HuggingFace(
        NAME, dataset.cast_column("picture", datasets.Image(decode=False)), places=(tmp_path,)
    )


@pytest.mark.parametrize("path", ["https://example.org/a.png", "zip://a.png::x.zip", "gone.png"])
def test_an_image_at_a_url_is_named_and_not_downloaded(path: str, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"hf:user/name: row 0 refers to the file .*, which does not exist here"
    ):
        linked(tmp_path, path).read(0)


def test_a_too_large_image_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(save(tmp_path / "saved", [stored(1)]))
    for module in (members, hugging_face):
        monkeypatch.setattr(module, "MAX_FILE_BYTES", 10)
    with pytest.raises(DataError, match=r"row 0 is larger than"):
        source.read(0)


def test_without_network_access_the_message_suggests_root(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[Any] = []

    def refuse(*arguments: Any, **options: Any) -> None:
        asked.append((arguments, options))
        raise ConnectionError("Couldn't reach\n the Hub")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DataError, match=r"cannot be loaded \(Couldn't reach the Hub\).*give --root DIR"):
        open_source(Spec(NAME, split="train[:10%]"))
    assert asked == [(("user/name",), {"split": "train[:10%]"})]  # and never trust_remote_code
