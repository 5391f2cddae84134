"""Lists of image files: which files count, which folder is a class, and what a source of such files shares.

    0001.jpg                   flat: no labels
    cat/one/a.png              the label is the first folder, whatever lies deeper
    train/cat/a.png            a folder that holds nothing but folders, and is alone, is passed through

Hidden files and folders are passed over, and so are files with other extensions, which one warning counts.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from pipeline.data.format.codecs import MAX_FILE_BYTES
from pipeline.data.sources import mixed
from pipeline.data.sources.pictures import EXTENSIONS
from pipeline.errors import DataError

SPLITS = frozenset(("train", "training", "val", "valid", "validation", "test", "testing"))
MAC_FOLDER = "__MACOSX"  # what macOS packs beside the files

Entry = tuple[str, int | None]
"""A file's path within its source, and its label."""


class Listed:
    """What all sources share that hold image files under names. `files` is their order."""

    native_resolution: tuple[int, int] | None = None
    native_channels = 3

    def __init__(self, name: str, classes: tuple[str, ...], files: Sequence[Entry]) -> None:
        self.name, self.classes, self.files = name, classes, files

    def __len__(self) -> int:
        return len(self.files)

    def key(self, position: int) -> str:
        return self.files[position][0]

    def label(self, position: int) -> int | None:
        return self.files[position][1]


def sort_into_classes(
    place: Path, files: Iterable[str], folders: Iterable[str] = (), wrapped: bool = False
) -> tuple[tuple[str, ...], list[Entry]]:
    """The class names, and each image with its label, in mixed order.

    `files` and `folders` are paths within `place`, "/" between their parts; of the folders only those need
    be given that hold no files. `wrapped` says that one folder around all images is no class: archives
    have one. Raises DataError where there are no images, where a class folder has none, where images lie
    both in class folders and beside them, and where the folders are splits.
    """
    files = list(files)
    images = [name for name in files if is_image(name)]
    warn_of_others(place, [name for name in files if not is_image(name)])
    looked_for = f"no files ending in {', '.join(EXTENSIONS)}"
    if not images:
        raise DataError(f"{place} holds no images: {looked_for}. Give one that does.")
    all_folders = _with_parents(files, folders)
    top = _class_level(images, all_folders, wrapped)
    loose = [name for name in images if "/" not in name[len(top) :]]
    filled = {name[len(top) :].partition("/")[0] for name in images if "/" in name[len(top) :]}
    if loose and filled:
        raise DataError(
            f"{place / top} holds images both directly ({loose[0][len(top) :]}) and in folders ({min(filled)}), "
            "so it is unclear whether the folders are classes. Move the loose images into a folder, or remove them."
        )
    if loose:
        return (), mixed((name, None) for name in loose)
    classes = sorted(name[len(top) :] for name in _folders_in(top, all_folders))
    for name in classes:
        if name not in filled:
            raise DataError(
                f"The class folder {place / top / name} holds no images: {looked_for}. Fill it, or remove it."
            )
    if len(classes) > 1 and SPLITS.issuperset(name.lower() for name in classes):
        raise DataError(
            f"{place / top} holds {', '.join(classes)}, which are splits and no classes. "
            "Give the folder of one of them, unpacked if need be."
        )
    labels = {name: label for label, name in enumerate(classes)}
    return tuple(classes), mixed((name, labels[name[len(top) :].partition("/")[0]]) for name in images)


def _class_level(images: Sequence[str], folders: Collection[str], wrapped: bool) -> str:
    """What leads the paths of all class folders: nothing, or "train/" where that holds all of them."""
    top = ""
    while True:
        inside = _folders_in(top, folders)
        if len(inside) != 1 or _any_directly_in(top, images):
            return top
        inner = f"{inside[0]}/"
        if _any_directly_in(inner, images) and not wrapped:
            return top
        top = inner


def _folders_in(top: str, folders: Iterable[str]) -> list[str]:
    return [name for name in folders if name.startswith(top) and "/" not in name[len(top) :]]


def _any_directly_in(top: str, images: Iterable[str]) -> bool:
    return any("/" not in name[len(top) :] for name in images)


def _with_parents(files: Iterable[str], folders: Iterable[str]) -> set[str]:
    found = set(folders)
    parents = {name.rpartition("/")[0] for name in (*files, *found)} - {""}
    while parents:
        found |= parents
        parents = {name.rpartition("/")[0] for name in parents} - {""}
    return found


def is_hidden(name: str) -> bool:
    """Whether a path within a source is hidden, by its own name or by a folder's above it."""
    return any(part.startswith(".") or part == MAC_FOLDER for part in name.split("/"))


def is_image(name: str) -> bool:
    """Whether a file's name ends as an image's does."""
    return name.lower().endswith(EXTENSIONS)


def warn_of_others(place: Path, others: Sequence[str], kinds: str = ", ".join(EXTENSIONS)) -> None:
    """Count, in one warning, the files that are not read."""
    if others:
        count = "1 file is" if len(others) == 1 else f"{len(others):,} files are"
        name = others[0].rpartition("/")[2]
        print(
            f"warning: {place}: {count} passed over, {name} for one; only {kinds} are read", file=sys.stderr
        )


def too_large(file: Path | str) -> DataError:
    """The refusal of a file that is larger than MAX_FILE_BYTES."""
    return DataError(
        f"{file} is larger than {MAX_FILE_BYTES >> 20} MiB, which no image should be. Remove it."
    )
