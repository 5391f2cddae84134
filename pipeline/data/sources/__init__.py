"""Sources, from which shards are made: the interface of a source, and the registry of named sources.

A source is one file in this folder with `open_source(spec) -> Source`, and one line in `FAMILIES` (for names)
or in `_kind_of` below (for a kind of path).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt

from pipeline.data.sources.labels import AUTO, LabelChoice
from pipeline.errors import ConfigError, DataError, PipelineError
from pipeline.plugins import SOURCE, is_import_path, load_plugin

Pixels = npt.NDArray[np.uint8]
"""uint8 (height, width) for grey, or (height, width, 3) for RGB."""

Picture = bytes | Pixels
"""The content of an image file, or pixels if the source has no image files."""


@dataclass(frozen=True)
class Remarks:
    """What a user should know of a source besides its images: where its labels come from, and what is not used."""

    labels_from: str = ""
    left_out: tuple[str, ...] = ()
    """For example "3 files of other kinds (2 .txt, 1 .csv), for example notes.txt"."""
    unused_labels: tuple[str, ...] = ()
    """Labels that are there and not used: which, and how to use them or why they cannot be used."""

    def __str__(self) -> str:
        parts = []
        if self.left_out:
            parts.append(f"left out: {'; '.join(self.left_out)}")
        if self.unused_labels:
            parts.append(f"labels not used: {'; '.join(self.unused_labels)}")
        return "; ".join(parts)


NOTHING_TO_SAY = Remarks()


class Source(Protocol):
    """A fixed list of images that can be read in any order and in any process. A source must be picklable.

    It may also have `remarks`, which are printed at the end.
    """

    @property
    def name(self) -> str:
        """The name of the set in the manifest. It differs between splits, but not between places on the disk."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names by label; empty if the images have no labels."""

    @property
    def native_resolution(self) -> tuple[int, int] | None:
        """The default (height, width) of shards; None if the user must choose."""

    @property
    def native_channels(self) -> int:
        """The default number of channels of shards: 1 for grey, 3 for colour."""

    def __len__(self) -> int: ...

    def key(self, position: int) -> str:
        """A unique name of this image, also used in messages: for example its path within the source."""

    def label(self, position: int) -> int | None:
        """The image's index into `classes`; None if the source has no labels."""

    def read(self, position: int) -> Picture:
        """Read the image. Raises DataError, which names it, if it cannot be read."""


@dataclass(frozen=True)
class Spec:
    """What the user asked for: a name or a path, the directory of a named set's files, and the split."""

    name: str
    root: Path | None = None
    split: str = "train"
    labels: LabelChoice = AUTO
    """Where the labels come from"""
    class_names: Path | None = None
    """A file with the names of numbered classes"""
    ending: str | None = None
    """How the names of image files end; None for any image"""
    scratch: Path | None = None
    """A directory to which compressed tar files may be unpacked; without it they are refused"""

    def refuse_root(self) -> None:
        """Raise ConfigError if a root was given, because this source does not use one."""
        if self.root is not None:
            raise ConfigError(
                f"--root {self.root} cannot be used with {self.name}, whose files are not in a root directory. Leave "
                "it out."
            )

    def refuse_splits(self, instead: str) -> None:
        """Raise ConfigError if a split was given, because this source has none. `instead` says what to do."""
        if self.split != "train":
            raise ConfigError(f"--split {self.split}: {self.name} has no splits. {instead}")

    def check_split(self, known: Iterable[str]) -> None:
        """Raise ConfigError unless the split is one of these."""
        if self.split not in known:
            raise ConfigError(
                f"--split {self.split}: {self.name} has no such split. Its splits: {', '.join(known)}."
            )


@dataclass(frozen=True)
class Family:
    """Named sources that one module opens; `summary` is their line in the help."""

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
# Name -> module. Modules are imported on first use, because some need libraries that are slow to import.
REGISTRY: dict[str, str] = {
    name: f"pipeline.data.sources.{family.module}" for family in FAMILIES for name in family.names
}
HUGGING_FACE = "hf:"
PATHS = (
    ("photos/", "a folder of images; its subfolders, if it has any, are the classes"),
    ("photos.zip, photos.tar", "the same as an archive; also .tar.gz, .tgz, .tar.bz2, .tar.xz"),
    ("shards/", "webdataset shards: a folder of tar files of KEY.jpg and KEY.cls"),
    ("photos.npy, photos.npz", "uint8 arrays (count, height, width) or with 1 or 3 channels; labels in .npz"),
    ("hf:NAME, hf:USER/NAME", "a Hugging Face dataset; with --root, one that save_to_disk wrote"),
    ("package.module:Name", "a source of your own, see docs/extending.md"),
)
TAR_ENDINGS = (
    *(".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst"),
    *(".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4"),
)
ARCHIVES = (".zip", *TAR_ENDINGS)
ARRAYS = (".npy", ".npz")


def describe_sources() -> str:
    """A table of all sources for the help, one line each: what to type, and what it is."""
    named = [(_abbreviate(family.names), family.summary) for family in FAMILIES]
    return "\n".join(f"  {example:<30}{summary}" for example, summary in (*PATHS, *named))


def _abbreviate(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]}, ..."


def open_source(spec: Spec) -> Source:
    """Open a source by name, path or import path. `mnist` is the named set; write `./mnist` for such a folder.

    Raises ConfigError for an unknown source and for options that it does not have, and DataError if its files are
    missing or cannot be used.
    """
    from pipeline.data.sources.chosen_labels import apply_labels, refuse_other_choices

    if _is_own(spec.name):
        refuse_other_choices(spec, frozenset())
        return apply_labels(_open_own(spec), spec)
    module = import_module(_module_of(spec))
    refuse_other_choices(spec, getattr(module, "LABELS", frozenset()))
    return apply_labels(cast(Source, module.open_source(spec)), spec)


def _is_own(name: str) -> bool:
    """Whether it is a plug-in's import path. hf:cifar100 looks like one too."""
    return is_import_path(name) and not name.startswith(HUGGING_FACE) and not Path(name).exists()


def _module_of(spec: Spec) -> str:
    """The module that opens the source."""
    if spec.name in REGISTRY:
        return REGISTRY[spec.name]
    is_hugging_face = spec.name.startswith(HUGGING_FACE)
    return f"pipeline.data.sources.{'hugging_face' if is_hugging_face else _kind_of(spec.name)}"


def _open_own(spec: Spec) -> Source:
    """The source of a plug-in. Raises ConfigError if there is none or it is no source."""
    try:
        source: Source = load_plugin(SOURCE, spec.name, is_trusted=True)(spec)
    except PipelineError:
        raise
    except Exception as error:  # the plug-in's own code may raise anything
        raise ConfigError(f"SOURCE: {spec.name} failed ({type(error).__name__}: {error}).") from error
    needed = ("name", "classes", "native_resolution", "native_channels", "__len__", "key", "label", "read")
    if missing := [name for name in needed if not hasattr(source, name)]:
        raise ConfigError(
            f"SOURCE: {spec.name} gave {type(source).__name__}, which is not a source: it has no {', '.join(missing)}. "
            "docs/extending.md shows an example."
        )
    return source


def _kind_of(source: str) -> str:
    """The module that opens the file or folder at this path."""
    from pipeline.data.sources.source_mistakes import explain_unknown

    path = Path(source)
    name = path.name.lower()
    try:
        if path.is_dir():
            return _kind_of_folder(path)
        is_file = path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        is_file = False
    if not is_file:
        raise explain_unknown(source)
    if name.endswith(ARCHIVES):
        return "archive"
    if name.endswith(ARRAYS):
        return "arrays"
    raise ConfigError(
        f"The source {path} is a kind of file that is not supported. Give a folder of images, a .zip or .tar file, a "
        f".npy or .npz file, hf:NAME, or one of: {', '.join(REGISTRY)}."
    )


def _kind_of_folder(path: Path) -> str:
    try:
        has_tars = any(
            entry.name.lower().endswith(TAR_ENDINGS) and not entry.name.startswith(".") and not entry.is_dir()
            for entry in path.iterdir()
        )
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Check its permissions.") from None
    return "webdataset_shards" if has_tars else "folder"


def remarks_of(source: Source) -> Remarks:
    """What the user should know of a source; one of their own may have nothing to say."""
    found: Remarks = getattr(source, "remarks", NOTHING_TO_SAY)
    return found


def stable_hash(text: str) -> int:
    """A 64-bit hash that depends only on the text: the same on any machine and in any version."""
    return int.from_bytes(
        hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big"
    )


T = TypeVar("T")


def mixed(entries: Iterable[tuple[str, T]]) -> list[tuple[str, T]]:
    """Sort (key, value) pairs by the hashes of the keys.

    Listings are sorted by class; in this order, each shard holds about the same share of each class.
    """
    return sorted(entries, key=lambda entry: (stable_hash(entry[0]), entry[0]))
