"""Where images come from: the contract of a source, and the registry of named ones.

A source is one file beside this one with `open_source(root, split) -> Source`, and one line in `REGISTRY`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, Protocol, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.errors import ConfigError

Pixels = Image.Image | npt.NDArray[np.uint8]
"""A Pillow image in mode L or RGB, or a uint8 array of shape (height, width) or (height, width, 3)."""


class Sample(NamedTuple):
    """One image of a source. `key` names it in messages; `label` is an index into the source's classes."""

    key: str
    image: Pixels
    label: int | None


class Source(Protocol):
    """Images in a fixed order: iterating twice gives the same samples."""

    @property
    def name(self) -> str:
        """What the manifest calls this set; it tells splits apart."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names by label; empty where the samples have no labels."""

    @property
    def native_resolution(self) -> int | None:
        """The side in pixels to use by default; None where the user must choose."""

    @property
    def native_channels(self) -> int:
        """1 for grey, 3 for colour: the default for shards of this source."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Sample]:
        """Yield every sample. Raises DataError, naming the image, where one cannot be read."""


# Name -> module. Modules are imported when asked for: some need libraries that are slow to import.
REGISTRY: dict[str, str] = {
    "digits": "pipeline.data.sources.digits",
    "mnist": "pipeline.data.sources.mnist",
}


def open_source(spec: str, *, root: Path | None, split: str) -> Source:
    """Open the source called `spec`, or the folder of images at that path.

    `root` is where a named source's files already are; None leaves that to the source. `split` is
    "train" or "test". Raises ConfigError for an unknown source or for options that it does not have,
    DataError where its files are missing or unsuitable.
    """
    if spec in REGISTRY:
        return cast(Source, import_module(REGISTRY[spec]).open_source(root, split))
    folder = Path(spec)
    if folder.is_dir():
        from pipeline.data.sources.folder import open_folder

        return open_folder(folder, root, split)
    raise ConfigError(_unknown(spec))


def refuse_options(name: str, root: Path | None, split: str, instead: str) -> None:
    """For sources with neither a root nor splits: raise ConfigError where one was asked for."""
    if root is not None:
        raise ConfigError(f"--root {root} has no meaning for {name}. Leave it out.")
    if split != "train":
        raise ConfigError(f"{name} has no {split} split. {instead}")


def _unknown(spec: str) -> str:
    known = ", ".join(REGISTRY)
    if Path(spec).exists():
        return f"The source {spec} is a file. Give a folder of images, or one of: {known}."
    nearest = difflib.get_close_matches(spec, REGISTRY, n=1)
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    return f"There is no folder {spec} and no source of that name; the named ones are: {known}.{hint}"
