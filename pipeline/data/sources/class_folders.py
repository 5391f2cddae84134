"""Folders as classes.

0001.jpg                   all images in one place: no labels
cat/one/a.png              the class is the first folder; folders inside it do not matter
train/cat/a.png            a single folder that holds only folders is not a class
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from pipeline.data.format.pictures import EXTENSIONS
from pipeline.errors import DataError

SPLITS = frozenset(("train", "training", "val", "valid", "validation", "test", "testing"))
NO_CLASSES = "to take all of them, without classes, give `wgan shards make` --labels none"


def find_class_folders(
    place: Path, images: Sequence[str], others: Iterable[str], is_wrapped: bool
) -> tuple[tuple[str, ...], list[str]]:
    """The class names, sorted, and the class of each image; both are empty if all images are in one place.

    All paths are within `place`, with "/" between their parts; `others` are other files, and folders, each with a slash
    at its end. `is_wrapped` says that a single folder around all images is not a class, as in archives. Raises
    DataError if a class folder has no images, if there are images both in class folders and next to them, and if the
    folders are splits.
    """
    all_folders = _parents((*images, *others))
    top = _class_level(images, all_folders, is_wrapped)
    start = len(top)
    loose = next((name for name in images if "/" not in name[start:]), None)
    filled = {name[start:].partition("/")[0] for name in images if "/" in name[start:]}
    if loose is not None and filled:
        raise DataError(
            f"{place / top} holds images both directly ({loose[start:]}) and in folders ({min(filled)}), so it is "
            "unclear whether the folders are classes. Move the images that are not in a folder into one, or remove "
            f"them; {NO_CLASSES}."
        )
    if loose is not None:
        return (), []
    classes = sorted(name[start:] for name in _folders_in(top, all_folders))
    for name in classes:
        if name not in filled:
            raise DataError(
                f"The class folder {place / top / name} holds no images: no files that end in {', '.join(EXTENSIONS)}. "
                "Add some, or remove the folder."
            )
    if len(classes) > 1 and SPLITS.issuperset(name.lower() for name in classes):
        raise DataError(
            f"{place / top} holds the folders {', '.join(classes)}, which are splits, not classes. Give only one of "
            f"them; unpack an archive first. Or, {NO_CLASSES}."
        )
    return tuple(classes), [name[start:].partition("/")[0] for name in images]


def _class_level(images: Sequence[str], folders: Collection[str], is_wrapped: bool) -> str:
    """The common start of the paths of all class folders: "", or "train/" if that folder holds all of them."""
    top = ""
    while True:
        inside = _folders_in(top, folders)
        if len(inside) != 1 or _any_directly_in(top, images):
            return top
        inner = f"{inside[0]}/"
        if _any_directly_in(inner, images) and not is_wrapped:
            return top
        top = inner


def _folders_in(top: str, folders: Iterable[str]) -> list[str]:
    return [name for name in folders if name.startswith(top) and "/" not in name[len(top) :]]


def _any_directly_in(top: str, images: Iterable[str]) -> bool:
    return any("/" not in name[len(top) :] for name in images if name.startswith(top))


def _parents(names: Iterable[str]) -> set[str]:
    """All folders that these paths lead through."""
    found: set[str] = set()
    parents = {name.rpartition("/")[0] for name in names} - {""}
    while parents:
        found |= parents
        parents = {name.rpartition("/")[0] for name in parents} - {""} - found
    return found
