"""Lists of image files: which files are images, which folders are classes, and the base of sources of such files.

    0001.jpg                   all images in one place: no labels
    cat/one/a.png              the class is the first folder; folders inside it do not matter
    train/cat/a.png            a single folder that holds only folders is not a class

Hidden files and folders are skipped. Files with other endings are skipped with a warning that counts them.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from pipeline.data.format.codecs import MAX_FILE_BYTES
from pipeline.data.sources import mixed
from pipeline.data.sources.pictures import EXTENSIONS
from pipeline.errors import DataError
from pipeline.wording import counted

SPLITS = frozenset(("train", "training", "val", "valid", "validation", "test", "testing"))
MAC_FOLDER = "__MACOSX"  # macOS adds this folder to archives

Entry = tuple[str, int | None]
"""A file's path within its source, and its label."""


class Listed:
    """The base of all sources of named image files. `files` lists them in their order."""

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
    """The class names, and all images with their labels in an order that mixes the classes.

    `files` and `folders` are paths within `place` with "/" between their parts; only folders without files must be
    given. `wrapped` says that a single folder around all images is not a class, as in archives. Raises DataError if
    there are no images, if a class folder has none, if there are images both in class folders and next to them, and
    if the folders are splits.
    """
    files = list(files)
    images = [name for name in files if is_image(name)]
    warn_of_others(place, [name for name in files if not is_image(name)])
    looked_for = f"no files that end in {', '.join(EXTENSIONS)}"
    if not images:
        raise DataError(f"{place} holds no images: {looked_for}. Give a folder or an archive that does.")
    all_folders = _with_parents(files, folders)
    top = _class_level(images, all_folders, wrapped)
    loose = [name for name in images if "/" not in name[len(top) :]]
    filled = {name[len(top) :].partition("/")[0] for name in images if "/" in name[len(top) :]}
    if loose and filled:
        raise DataError(
            f"{place / top} holds images both directly ({loose[0][len(top) :]}) and in folders ({min(filled)}), so "
            "it is unclear whether the folders are classes. Move the images that are not in a folder into one, or "
            "remove them."
        )
    if loose:
        return (), mixed((name, None) for name in loose)
    classes = sorted(name[len(top) :] for name in _folders_in(top, all_folders))
    for name in classes:
        if name not in filled:
            raise DataError(
                f"The class folder {place / top / name} holds no images: {looked_for}. Add some, or remove the folder."
            )
    if len(classes) > 1 and SPLITS.issuperset(name.lower() for name in classes):
        raise DataError(
            f"{place / top} holds the folders {', '.join(classes)}, which are splits, not classes. Give only one of "
            "them; unpack an archive first."
        )
    labels = {name: label for label, name in enumerate(classes)}
    return tuple(classes), mixed((name, labels[name[len(top) :].partition("/")[0]]) for name in images)


def _class_level(images: Sequence[str], folders: Collection[str], wrapped: bool) -> str:
    """The common start of the paths of all class folders: "", or "train/" if that folder holds all of them."""
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
    """Whether a path within a source is hidden because of its own name or that of a folder above it."""
    return any(part.startswith(".") or part == MAC_FOLDER for part in name.split("/"))


def is_image(name: str) -> bool:
    """Whether the name of a file ends like that of an image."""
    return name.lower().endswith(EXTENSIONS)


def warn_of_others(place: Path, others: Sequence[str], kinds: str = ", ".join(EXTENSIONS)) -> None:
    """Print one warning with the number of files that are not read, and the name of one."""
    if others:
        name = others[0].rpartition("/")[2]
        which = (
            f"1 file was skipped: {name}"
            if len(others) == 1
            else f"{counted(len(others), 'file')} were skipped, for example {name}"
        )
        print(f"warning: {place}: {which}. Only files that end in {kinds} are read.", file=sys.stderr)


def too_large(file: Path | str) -> DataError:
    """The error for a file that is larger than MAX_FILE_BYTES."""
    return DataError(
        f"{file} is larger than {MAX_FILE_BYTES >> 20} MiB, which is too large for an image. Remove it."
    )
