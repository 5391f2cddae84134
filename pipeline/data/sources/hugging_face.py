"""Hugging Face datasets with an image column: `hf:NAME` or `hf:USER/NAME`, and any of their splits.

    wgan shards make hf:USER/NAME OUT --split train
    wgan shards make hf:NAME OUT --root DIR          a dataset that `Dataset.save_to_disk` wrote to DIR

Code in a dataset repository is never run. Needs the extra `hf`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data.format.codecs import MAX_FILE_BYTES
from pipeline.data.sources import Source, Spec, stable_hash
from pipeline.data.sources.folder import read_image_file
from pipeline.data.sources.listing import too_large
from pipeline.errors import ConfigError, DataError
from pipeline.wording import counted

PREFIX = "hf:"


class HuggingFace:
    """The rows of a dataset, shuffled, because many are sorted by class. `images` has one column, not decoded."""

    native_resolution: tuple[int, int] | None = None
    native_channels = 3

    def __init__(
        self,
        name: str,
        images: Any,
        labels: npt.NDArray[np.int64] | None,
        classes: tuple[str, ...],
    ) -> None:
        self.name, self.classes = name, classes
        self._images, self._labels = images, labels
        (self._column,) = images.column_names
        order = sorted(range(len(images)), key=lambda row: stable_hash(str(row)))
        self._rows = np.array(order, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, position: int) -> str:
        return str(self._rows[position])

    def label(self, position: int) -> int | None:
        return None if self._labels is None else int(self._labels[self._rows[position]])

    def read(self, position: int) -> bytes:
        stored = self._images[int(self._rows[position])][self._column]
        where = f"{self.name}: row {self.key(position)}"
        if stored is None or (stored["bytes"] is None and stored["path"] is None):
            raise DataError(f"{where} has no image. Remove such rows from the dataset.")
        if stored["bytes"] is None:
            return _read_local(where, stored["path"])
        content: bytes = stored["bytes"]
        if len(content) > MAX_FILE_BYTES:
            raise too_large(where)
        return content


def _read_local(where: str, name: str) -> bytes:
    try:
        is_here = Path(name).is_file()
    except OSError:  # a URL can be too long for a path, and the folder may be unreadable
        is_here = False
    if not is_here:
        raise DataError(
            f"{where} refers to the file {name!r}, which does not exist here. Save the dataset together with its "
            "images."
        )
    return read_image_file(Path(name))


def open_source(spec: Spec) -> Source:
    """Open a dataset of the Hub, downloaded once into the cache of `datasets`; with a root, the one saved there.

    Raises ConfigError if the library is not installed or if the saved dataset does not have the split, and DataError
    if the dataset cannot be loaded or does not have exactly one image column.
    """
    try:
        import datasets
    except ModuleNotFoundError:
        raise ConfigError(
            f"{spec.name} needs the library datasets, which is not installed. Install it: pip install "
            "'wgan-pipeline[hf]'"
        ) from None
    dataset = _load_saved(spec, spec.root) if spec.root is not None else _load_from_hub(spec)
    image = _only_image_column(spec, dataset)
    label = [name for name, kind in dataset.features.items() if isinstance(kind, datasets.ClassLabel)]
    # A saved dataset keeps its format, in which rows may be tables instead of dictionaries.
    plain = dataset.with_format(None).select_columns([image])
    images = plain.cast_column(image, datasets.Image(decode=False))
    name = f"{spec.name}-{spec.split}"
    if len(label) != 1:
        return HuggingFace(name, images, None, ())
    classes = tuple(dataset.features[label[0]].names)
    labels = _read_labels(spec, dataset, label[0], len(classes))
    return HuggingFace(name, images, labels, () if labels is None else classes)


def _load_from_hub(spec: Spec) -> Any:
    import datasets

    try:
        return datasets.load_dataset(spec.name.removeprefix(PREFIX), split=spec.split)
    # The errors of the network, the Hub and the readers of a dozen formats have no common base.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{spec.name} cannot be loaded ({reason}). Check its name and --split. Without network access, save the "
            "dataset on another machine with Dataset.save_to_disk(DIR), copy it, and give --root DIR."
        ) from None


def _load_saved(spec: Spec, root: Path) -> Any:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(root))
    except Exception as error:  # no common base either
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{root} is not a saved dataset ({reason}). Give the folder that Dataset.save_to_disk wrote."
        ) from None
    if isinstance(loaded, datasets.DatasetDict):
        if spec.split not in loaded:
            raise ConfigError(
                f"--split {spec.split}: {root} has no such split. Its splits: {', '.join(loaded)}."
            )
        return loaded[spec.split]
    if loaded.split is not None and str(loaded.split) != spec.split:
        raise ConfigError(f"--split {spec.split}: {root} has no such split. Its split: {loaded.split}.")
    return loaded


def _only_image_column(spec: Spec, dataset: Any) -> str:
    import datasets

    found: list[str] = [name for name, kind in dataset.features.items() if isinstance(kind, datasets.Image)]
    if len(found) == 1:
        return found[0]
    raise DataError(
        f"{spec.name} must have exactly one column of type Image, but it has {len(found)} "
        f"({', '.join(found) or 'none'}) among {', '.join(dataset.features)}. Save it with one such column, with "
        "select_columns and save_to_disk, and give --root."
    )


def _read_labels(spec: Spec, dataset: Any, column: str, classes: int) -> npt.NDArray[np.int64] | None:
    labels = dataset.select_columns([column]).with_format("arrow")[:][column].to_numpy()
    if (labels == -1).all():
        return None  # on the Hub this means that the labels of a test split are secret
    wrong = ~((labels >= 0) & (labels < classes))  # also true of a missing label, which is NaN
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"{spec.name}: row {row} has label {labels[row]}, but the dataset has {counted(classes, 'class')}, "
            f"numbered from 0. Remove such rows, or the column {column}."
        )
    return np.asarray(labels, dtype=np.int64)
