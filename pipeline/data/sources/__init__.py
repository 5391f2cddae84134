"""Where images come from: the contract of a source, and the registry of named ones.

A source is one file beside this one with `open_source(spec) -> Source`, and one line in `FAMILIES` (for names)
or in `_kind_of` below (for a kind of path).
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError, DataError
from pipeline.plugins import is_import_path, load_plugin

Pixels = npt.NDArray[np.uint8]
"""uint8 of shape (height, width), grey, or (height, width, 3), RGB."""

Picture = bytes | Pixels
"""An image file's content as it is stored, or pixels where a source has no files."""


class Source(Protocol):
    """A fixed list of images that can be read in any order, also in another process: sources are pickled."""

    @property
    def name(self) -> str:
        """What the manifest calls this set; it tells splits apart, but not the places it may lie at."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names by label; empty where the images have no labels."""

    @property
    def native_resolution(self) -> tuple[int, int] | None:
        """(height, width) to use by default; None where the user must choose."""

    @property
    def native_channels(self) -> int:
        """1 for grey, 3 for colour: the default for shards of this source."""

    def __len__(self) -> int: ...

    def key(self, position: int) -> str:
        """What tells this image from the others, and names it in messages: a path within the source, say."""

    def label(self, position: int) -> int | None:
        """The image's index into `classes`; None where there are none."""

    def read(self, position: int) -> Picture:
        """The image. Raises DataError, naming it, where it cannot be read."""


@dataclass(frozen=True)
class Spec:
    """What the user asked for: a name or a path, where a named set's files lie, and which split of it."""

    name: str
    root: Path | None = None
    split: str = "train"

    def refuse_root(self) -> None:
        """Raise ConfigError where a root was given to a source that has no use for one."""
        if self.root is not None:
            raise ConfigError(f"--root {self.root} has no meaning for {self.name}. Leave it out.")

    def refuse_splits(self, instead: str) -> None:
        """Raise ConfigError where a split was asked for of a source that has none."""
        if self.split != "train":
            raise ConfigError(f"{self.name} has no {self.split} split. {instead}")

    def check_split(self, known: Iterable[str]) -> None:
        """Raise ConfigError unless the split is one of these."""
        if self.split not in known:
            raise ConfigError(f"{self.name} has no {self.split} split; it has: {', '.join(known)}.")


@dataclass(frozen=True)
class Family:
    """Named sources that one module opens; `summary` is for the help."""

    module: str
    names: tuple[str, ...]
    summary: str


EMNIST = tuple(f"emnist-{part}" for part in ("balanced", "byclass", "bymerge", "letters", "digits", "mnist"))
LSUN = tuple(
    f"lsun-{kind}"
    for kind in (
        *("bedroom", "bridge", "church-outdoor", "classroom", "conference-room"),
        *("dining-room", "kitchen", "living-room", "restaurant", "tower"),
    )
)
FAMILIES = (
    Family("digits", ("digits",), "1,797 grey digits of 16 x 16, no download"),
    Family("mnist", ("mnist", "fashion-mnist", "kmnist"), "70,000 grey images of 28 x 28; train, test"),
    Family("mnist", EMNIST, "letters, digits; also -byclass, -bymerge, -letters, -digits, -mnist"),
    Family("cifar", ("cifar10", "cifar100"), "60,000 photos of 32 x 32; train, test"),
    Family("stl10", ("stl10",), "photos of 96 x 96; train, test, unlabeled"),
    Family("celeba", ("celeba",), "202,599 faces of 178 x 218; train, valid, test, all"),
    Family("lsun", LSUN, "photos of scenes; also -kitchen, ...; needs --root; train, val"),
)
# Name -> module. Modules are imported when asked for: some need libraries that are slow to import.
REGISTRY: dict[str, str] = {
    name: f"pipeline.data.sources.{family.module}" for family in FAMILIES for name in family.names
}
HUGGING_FACE = "hf:"
PATHS = (
    ("photos/", "a folder of images; its sub-folders, where it has any, are the classes"),
    ("photos.zip, photos.tar", "the same, packed; a tar file must not be compressed"),
    ("shards/", "webdataset shards: a folder of .tar files of KEY.jpg and KEY.cls"),
    ("photos.npy, photos.npz", "uint8 arrays (count, height, width) or with 1 or 3 channels; labels in .npz"),
    ("package.module:Source", "your own: called with a pipeline.data.sources.Spec, see docs/extending.md"),
    ("hf:NAME, hf:USER/NAME", "a set of the Hugging Face Hub; with --root, what save_to_disk wrote"),
)
ARCHIVES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
ARRAYS = (".npy", ".npz")


def describe_sources() -> str:
    """A table of all sources for the help, one line each: what to write, and what it is."""
    named = [(_abbreviate(family.names), family.summary) for family in FAMILIES]
    return "\n".join(f"  {example:<30}{summary}" for example, summary in (*PATHS, *named))


def _abbreviate(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]}, ..."


def open_source(spec: Spec) -> Source:
    """Open the named source, or what lies at that path: `./mnist` is a folder where `mnist` is the set.

    Raises ConfigError for an unknown source or for options that it does not have, DataError where its
    files are missing or unsuitable.
    """
    if spec.name in REGISTRY:
        return _open_with(REGISTRY[spec.name], spec)
    if spec.name.startswith(HUGGING_FACE):
        return _open_with("pipeline.data.sources.hugging_face", spec)
    if is_import_path(spec.name) and not Path(spec.name).exists():
        return cast(Source, load_plugin("SOURCE", spec.name, is_trusted=True)(spec))
    return _open_with(f"pipeline.data.sources.{_kind_of(Path(spec.name))}", spec)


def _open_with(module: str, spec: Spec) -> Source:
    return cast(Source, import_module(module).open_source(spec))


def _kind_of(path: Path) -> str:
    """The module for what lies at the path."""
    name = path.name.lower()
    if path.is_dir():
        return _kind_of_folder(path)
    if not path.is_file():
        raise ConfigError(_unknown(str(path)))
    if name.endswith(ARCHIVES):
        return "archive"
    if name.endswith(ARRAYS):
        return "arrays"
    raise ConfigError(
        f"The source {path} is a file of no kind that is read. Give a folder of images, a .zip or .tar file, a "
        f".npy or .npz file, hf:NAME, or one of: {', '.join(REGISTRY)}."
    )


def _kind_of_folder(path: Path) -> str:
    from pipeline.data.sources.listing import is_hidden, is_image

    try:
        entries = [entry for entry in path.iterdir() if not is_hidden(entry.name)]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    shards = [entry.name for entry in entries if entry.name.lower().endswith(".tar") and entry.is_file()]
    if not shards or any(is_image(entry.name) for entry in entries):
        return "folder"
    folders = [entry.name for entry in entries if entry.is_dir()]
    if folders:
        raise DataError(
            f"{path} holds both tar files ({min(shards)}) and folders ({min(folders)}), so it is unclear which are "
            "the images. Give a folder that holds the ones or the others alone."
        )
    return "webdataset_shards"


def _unknown(name: str) -> str:
    nearest = difflib.get_close_matches(name, REGISTRY, n=1)
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    return (
        f"There is no folder or file {name} and no source of that name; the named ones are: "
        f"{', '.join(REGISTRY)}, and hf:NAME.{hint}"
    )


def stable_hash(text: str) -> int:
    """64 bits that depend on the text alone, on any machine and in any version."""
    return int.from_bytes(
        hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big"
    )


T = TypeVar("T")


def mixed(entries: Iterable[tuple[str, T]]) -> list[tuple[str, T]]:
    """(key, anything) in the order of the keys' hashes.

    Listings come sorted by class; in this order every shard holds a fair share of each.
    """
    return sorted(entries, key=lambda entry: (stable_hash(entry[0]), entry[0]))
