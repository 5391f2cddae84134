"""Images in a .zip or an uncompressed .tar file: in class folders, or in one place and without labels.

    photos.zip:  photos/0001.jpg                all images in one folder: no labels
    cifar.tar:   train/airplane/0001.png        the classes are the first level with several folders

Nothing is unpacked to disk. A tar file with KEY.cls files is opened as a webdataset shard.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pipeline.data.format.codecs import MAX_FILE_BYTES
from pipeline.data.sources import Source, Spec
from pipeline.data.sources.listing import Entry, Listed, sort_into_classes, too_large
from pipeline.data.sources.members import Members, Where
from pipeline.data.sources.tar_files import list_tar, read_tar_member
from pipeline.data.sources.webdataset_shards import has_labels, open_shards
from pipeline.data.sources.zip_files import list_zip, read_zip_member

ReadMember = Callable[[Path, str, Where], bytes]
"""(archive, key, where) -> content."""


class Archive(Listed):
    """The images in one archive. `wheres` has the place of each of `files`."""

    def __init__(
        self,
        path: Path,
        classes: tuple[str, ...],
        files: Sequence[Entry],
        wheres: Sequence[Where],
        read_member: ReadMember,
    ) -> None:
        super().__init__(path.name, classes, files)
        self.path = path
        self._wheres = np.array(wheres, dtype=np.int64)  # needs much less memory than tuples
        self._read_member = read_member

    def read(self, position: int) -> bytes:
        return self._read_member(self.path, self.key(position), tuple(self._wheres[position].tolist()))


def open_source(spec: Spec) -> Source:
    """List the images in the archive at the path `spec.name`.

    Raises DataError for an archive that is truncated, unsafe, without images or a compressed tar file, and for
    folders that `folder` would refuse; ConfigError if a root or a split is given.
    """
    spec.refuse_root()
    spec.refuse_splits(f"Give an archive that holds only the {spec.split} images.")
    path = Path(spec.name)
    if path.name.lower().endswith(".zip"):
        return _open(list_zip(path), read_zip_member)
    members = list_tar(path)
    return open_shards(path, [members]) if has_labels(members) else _open(members, read_tar_member)


def _open(members: Members, read_member: ReadMember) -> Archive:
    classes, files = sort_into_classes(members.path, members.files, members.folders, wrapped=True)
    wheres = [members.files[name] for name, _ in files]
    for (name, _), (size, *_rest) in zip(files, wheres, strict=True):
        if size > MAX_FILE_BYTES:
            raise too_large(members.path / name)
    return Archive(members.path, classes, files, wheres, read_member)
