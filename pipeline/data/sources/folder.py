"""A folder of image files: one sub-folder a class, or all in one place and without labels.

    faces/0001.jpg             flat: no labels
    animals/cat/one/a.png      the label is the folder directly below the top, whatever lies deeper

Hidden files and folders are passed over; so are files with other extensions, which a warning counts.
Links to folders are followed only directly below the top, so that a circle of links cannot trap the walk.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from pipeline.data.convert import decode_image
from pipeline.data.sources import Sample, Source, refuse_options
from pipeline.errors import DataError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")


class ImageFile(NamedTuple):
    path: Path
    label: int | None


class Folder:
    """Images are opened one by one as they are asked for; `files` is in the order of their paths."""

    native_resolution = None
    native_channels = 3

    def __init__(self, path: Path, classes: tuple[str, ...], files: list[ImageFile]) -> None:
        self.path = path
        # Not the whole path: shards of a folder that has moved are still the same shards.
        self.name = path.resolve().name or "folder"
        self.classes = classes
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Sample]:
        for path, label in self.files:
            try:
                with path.open("rb") as stream:
                    image = decode_image(stream, str(path))
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error.strerror}.") from None
            yield Sample(path.relative_to(self.path).as_posix(), image, label)


def open_folder(path: Path, root: Path | None, split: str) -> Source:
    """List the images below `path`.

    Raises DataError where there are none, where a class folder has none, or where images lie both in
    class folders and beside them; ConfigError for a root or a split.
    """
    refuse_options(f"the folder {path}", root, split, f"Give the folder of the {split} images itself.")
    try:
        return _list_images(path)
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from None


def _list_images(path: Path) -> Folder:
    visible = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    found = {entry.name: _files_below(entry) for entry in visible if entry.is_dir()}
    by_class = {name: [file for file in files if _is_image(file)] for name, files in found.items()}
    direct = [entry for entry in visible if entry.is_file()]
    loose = [entry for entry in direct if _is_image(entry)]
    if loose and any(by_class.values()):
        filled = next(name for name, images in by_class.items() if images)
        raise DataError(
            f"{path} holds images both directly ({loose[0].name}) and in folders ({filled}), so it is "
            "unclear whether the folders are classes. Move the loose images into a folder, or remove them."
        )
    _warn_of_others(path, [file for file in chain(direct, *found.values()) if not _is_image(file)])
    if loose:
        return Folder(path, (), [ImageFile(image, None) for image in loose])
    _refuse_empty(path, by_class)
    files = [ImageFile(image, label) for label, images in enumerate(by_class.values()) for image in images]
    return Folder(path, tuple(by_class), files)


def _refuse_empty(path: Path, by_class: dict[str, list[Path]]) -> None:
    looked_for = f"files ending in {', '.join(EXTENSIONS)}"
    if not any(by_class.values()):
        raise DataError(f"{path} holds no images: no {looked_for}. Give a folder that does.")
    for name, images in by_class.items():
        if not images:
            raise DataError(
                f"The class folder {path / name} holds no images: no {looked_for}. Fill it, or remove it."
            )


def _warn_of_others(path: Path, others: list[Path]) -> None:
    if others:
        count = "1 file is" if len(others) == 1 else f"{len(others):,} files are"
        print(
            f"warning: {path}: {count} passed over, {others[0].name} for one; only {', '.join(EXTENSIONS)} "
            "are read",
            file=sys.stderr,
        )


def _files_below(top: Path) -> list[Path]:
    found: list[Path] = []
    for directory, children, names in os.walk(top, onerror=_raise):
        children[:] = [child for child in children if not child.startswith(".")]
        found += [Path(directory, name) for name in names if not name.startswith(".")]
    return sorted(found)


def _is_image(file: Path) -> bool:
    return file.name.lower().endswith(EXTENSIONS)


def _raise(error: OSError) -> None:
    raise error
