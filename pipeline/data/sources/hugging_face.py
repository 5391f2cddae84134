"""Hugging Face datasets with an image column: `hf:NAME` or `hf:USER/NAME`, and any of their splits.

    wgan shards make hf:USER/NAME OUT --split train
    wgan shards make hf:NAME OUT --root DIR          a dataset that `Dataset.save_to_disk` wrote to DIR
    wgan shards make hf:cifar100 OUT --labels column:coarse_label

Labels are the only column of the type ClassLabel, or else a column named `label` or the like. Code in a dataset
repository is never run, and files outside of the dataset are never read. Needs the extra `hf`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.format.boundary import parsing
from pipeline.data.format.codecs import MAX_FILE_BYTES
from pipeline.data.sources import Source, Spec, stable_hash
from pipeline.data.sources.column_labels import NO_LABELS, FoundLabels, find_column_labels
from pipeline.data.sources.folder import read_image_file
from pipeline.data.sources.members import too_large
from pipeline.data.sources.saved_dataset import check_saved_dataset
from pipeline.errors import ConfigError, DataError
from pipeline.foreign_text import printable

LABELS = frozenset(("column",))
PREFIX = "hf:"
REMEDY = "Download or save it again."


class HuggingFace:
    """The rows of a dataset, shuffled, because many are sorted by class. `images` has one column, not decoded.

    Images that are files are read only below `places`.
    """

    native_resolution: tuple[int, int] | None = None
    native_channels = 3

    def __init__(
        self,
        name: str,
        images: Any,
        labels: FoundLabels = NO_LABELS,
        places: tuple[Path, ...] = (),
    ) -> None:
        self.name, self.classes, self.remarks = name, labels.classes, labels.remarks
        self._images, self._labels, self._places = images, labels.labels, places
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
        where = f"{self.name}: row {self.key(position)}"
        with parsing(where, "cannot be read", REMEDY):
            stored = self._images[int(self._rows[position])][self._column]
        if stored is None or (stored["bytes"] is None and stored["path"] is None):
            raise DataError(f"{where} has no image. Remove such rows from the dataset.")
        if stored["bytes"] is None:
            return self._read_file(where, stored["path"])
        content: bytes = stored["bytes"]
        if len(content) > MAX_FILE_BYTES:
            raise too_large(where)
        return content

    def _read_file(self, where: str, name: str) -> bytes:
        """A file of the dataset that is not in its table. Raises DataError if it is missing or lies elsewhere."""
        paths = [Path(os.path.realpath(place / name)) for place in self._places] if "\0" not in name else []
        for place, path in zip(self._places, paths, strict=False):
            if path.is_relative_to(os.path.realpath(place)) and _is_file(path):
                return read_image_file(path)
        if any(map(_is_file, paths)):
            raise DataError(
                f"{where} refers to the file {printable(name)!r}, which lies outside of the dataset, so it is not "
                "read. Save the dataset together with its images."
            )
        raise DataError(
            f"{where} refers to the file {printable(name)!r}, which does not exist here. Save the dataset together "
            "with its images."
        )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a URL can be too long for a path, and the folder may be unreadable
        return False


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
    with parsing(str(spec.root or spec.name), "is damaged", REMEDY):
        # Arrow trusts the offsets in its files: wrong ones end the process when the values are read.
        dataset.data.validate(full=True)
        image = _only_image_column(spec, dataset)
        # A saved dataset keeps its format, in which rows may be tables instead of dictionaries.
        plain = dataset.with_format(None).select_columns([image])
        images = plain.cast_column(image, datasets.Image(decode=False))
        labels = find_column_labels(spec, dataset, image)
    return HuggingFace(f"{spec.name}-{spec.split}", images, labels, _places(spec))


def _places(spec: Spec) -> tuple[Path, ...]:
    """The directories below which image files of the dataset may lie."""
    if spec.root is not None:
        return (spec.root,)
    import datasets
    from huggingface_hub.constants import HF_HUB_CACHE

    caches = (datasets.config.HF_DATASETS_CACHE, datasets.config.DOWNLOADED_DATASETS_PATH, HF_HUB_CACHE)
    local = Path(spec.name.removeprefix(PREFIX))
    return (*map(Path, caches), *([local] if local.is_dir() else []))


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

    check_saved_dataset(root)
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
