"""Webdataset shards of any program: a folder of .tar files, which may be compressed.

    photos/000000.tar:  0001.jpg 0001.cls 0002.jpg 0002.cls ...
    photos/classes.txt  the class names by label, one per line; optional

A sample is KEY.(png, jpg, webp, ...), and KEY.cls holds its label in decimal digits; `samples` says what a key is.
KEY.npy holds pixels, as in this program's own raw shards, whose manifest has the class names. All other members (.json,
.txt, .pkl, ...) are skipped; loading some of them could run code. Samples keep their order, because shards are normally
shuffled when they are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pipeline.data.format.manifest import FILE_NAME as MANIFEST
from pipeline.data.sources import TAR_ENDINGS, Source, Spec
from pipeline.data.sources.class_names import FILE_NAME as CLASS_NAMES
from pipeline.data.sources.folder import list_folder
from pipeline.data.sources.leftovers import describe_left_out
from pipeline.data.sources.listing import ListedImages, Listing, list_images
from pipeline.data.sources.members import Members, unreadable
from pipeline.data.sources.samples import FILE_LABELS, Asked, asked_of, is_image
from pipeline.data.sources.tar_files import list_tar
from pipeline.documents import Document, parse_json
from pipeline.errors import DataError
from pipeline.regular_files import is_absent, read_regular
from pipeline.wording import counted

LABELS = FILE_LABELS
LARGEST_MANIFEST = 1 << 28
OURS = frozenset((MANIFEST, CLASS_NAMES, "bad-images.txt", "duplicates.txt", "first-frames.txt"))


class OurManifest(Document):
    """What this program's manifest says of the images; that of another program has other fields."""

    format: str
    classes: list[str]
    resolution: tuple[int, int] | None = None
    channels: Literal[1, 3, 4] = 3


def open_source(spec: Spec) -> Source:
    """List the samples of all tar files in the folder `spec.name`; if these hold no images, the images next to them.

    Raises DataError for tar files that `archive` would refuse, if there are no images, and for labels that are not
    whole numbers, that only some images have, or that have no class name; ConfigError if a root or a split is given.
    """
    spec.refuse_root()
    spec.refuse_splits(f"Give a folder that holds only the {spec.split} shards.")
    path, asked = Path(spec.name), asked_of(spec)
    beside, tars = _open_tars(path, spec.scratch)
    if not any(is_image(name) or name.endswith(".npy") for members in tars for name in members.files):
        beside.files.update({members.path.name: () for members in tars})
        return ListedImages(path.resolve().name, list_images(path, [beside], asked))
    manifest = _read_manifest(path)
    if manifest and not asked.is_named_later:
        asked = replace(asked, class_names=tuple(manifest.classes))
    listing = _list(path, asked, beside, tars)
    resolution, channels = (manifest.resolution, manifest.channels) if manifest else (None, 3)
    return ListedImages(path.resolve().name, listing, resolution, channels)


def list_shards(folder: Path, asked: Asked) -> Listing:
    """The images of all tar files in a folder, in the order of the files' names.

    Raises DataError if one is compressed, and if it is unclear what in the folder the images are.
    """
    return _list(folder, asked, *_open_tars(folder, None))


def _open_tars(folder: Path, scratch: Path | None) -> tuple[Members, list[Members]]:
    """What a folder holds besides tar files, and the members of each tar file, sorted by name."""
    beside = list_folder(folder)
    names = [name for name in sorted(beside.files) if is_tar(name)]
    if not names:
        raise DataError(f"{folder} holds no tar files. Give a folder that does.")
    _refuse_copies(folder, names)
    for name in names:
        del beside.files[name]
    beside.special += [f"{name}, a folder" for name in sorted(beside.folders) if is_tar(name)]
    return beside, [list_tar(folder / name, folder, scratch) for name in names]


def _list(folder: Path, asked: Asked, beside: Members, tars: Sequence[Members]) -> Listing:
    images, left_out = _left_out(beside, [members.path.name for members in tars])
    if empty := [members.path.name for members in tars if not members.files]:
        left_out.append(f"{counted(len(empty), 'empty tar file')} ({empty[0]})")
    listing = list_images(folder, tars, asked, left_out)
    if images > len(listing.keys):
        raise DataError(
            f"{folder} holds {counted(images, 'image')} next to tar files ({tars[0].path.name}) of "
            f"{counted(len(listing.keys), 'image')}, so it is unclear which of them are meant. Give a folder with "
            "only tar files, or only images."
        )
    if not listing.classes and asked.labels.kind == "auto" and not is_absent(folder / CLASS_NAMES):
        raise DataError(
            f"{folder / CLASS_NAMES} names classes, but no sample has a label. Remove it, add KEY.cls to all "
            "samples, or give --labels none."
        )
    return listing


def is_tar(name: str) -> bool:
    """Whether the path of a file within a folder is that of a tar file directly in it, compressed or not."""
    return "/" not in name and name.lower().endswith(TAR_ENDINGS)


def _refuse_copies(folder: Path, names: Sequence[str]) -> None:
    """Raise DataError if a tar file lies next to its own compressed copy."""
    stems: dict[str, str] = {}
    for name in names:
        stem = next(name[: -len(ending)] for ending in TAR_ENDINGS if name.lower().endswith(ending))
        if stem in stems:
            raise DataError(
                f"{folder} holds both {stems[stem]} and {name}. If one is the compressed copy of the other, remove "
                "one of them, or each image would be used twice; if not, rename one."
            )
        stems[stem] = name


def _left_out(beside: Members, tars: Sequence[str]) -> tuple[int, list[str]]:
    """The number of images next to the tar files, and all that is not used, in words.

    Raises DataError if there are images or tar files in folders.
    """
    indexes = {name.rpartition(".")[0] + ".npy" for name in tars}
    others = [name for name in beside.files if name not in OURS and name not in indexes]
    inside = [
        name for name in others if "/" in name and (is_image(name) or name.lower().endswith(TAR_ENDINGS))
    ]
    if inside:
        raise DataError(
            f"{beside.path} holds both tar files ({tars[0]}) and folders with images or tar files ({min(inside)}), "
            "so it is unclear which of them are meant. Give a folder with only tar files or only folders."
        )
    images = sum(map(is_image, others))
    return images, describe_left_out([beside], others, "next to the tar files")


def _read_manifest(folder: Path) -> OurManifest | None:
    """This program's manifest; None if there is none, or one of another program."""
    path = folder / MANIFEST
    try:
        content = read_regular(path, LARGEST_MANIFEST, within=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(path, error) from None
    try:
        manifest = parse_json(content, OurManifest)
    except ValueError as error:
        if str(error).startswith("invalid JSON"):
            raise DataError(f"{path} cannot be read: {error}. Copy it again, or remove it.") from None
        return None
    return manifest if manifest.format.startswith("wgan-shards/") else None
