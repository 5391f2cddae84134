"""A shard set as a data set of the webdataset library, for training loops of your own.

The library opens URLs by shell commands, follows links, unpacks compressed tar files of any size, unpickles some fields
when it decodes them, and lets an image's content choose its decoder, of which some start other programs. Here it does
none of this: files are opened and read as everywhere else in this package, and fields that could hold code are left
out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import IO, Any

import webdataset
from webdataset.cache import StreamingOpen
from webdataset.tariterators import tar_file_expander

from pipeline.data.format.codecs import MAX_FILE_BYTES
from pipeline.data.format.manifest import COPY
from pipeline.data.format.open_shards import open_shards
from pipeline.data.format.picture_files import read_picture_file
from pipeline.data.format.shard_set import ShardSet
from pipeline.data.format.tar_reader import TarError, TarMember, read_members
from pipeline.data.format.tar_writer import BLOCK
from pipeline.data.originals.opening import settled
from pipeline.data.originals.tar_index import PICTURES
from pipeline.data.sources.compressed import tool_for
from pipeline.data.sources.members import is_hidden_member, too_large
from pipeline.errors import DataError
from pipeline.option_data import DataOptions

FORMATS = ("PNG", "JPEG", "WEBP")
"""What the content of such a field may be, whatever its name says"""
FIELDS = PICTURES | {"npy", "cls", "json", "txt"}
"""The last part of the names of members that are read. None of them is unpickled by the library's decoders."""


class FieldReader:
    """Reads shards by their names in the manifest: complete and, if they were fetched, compared with their hashes.

    It takes the place of the library's own two stages, which open files and unpack them. It can be pickled, and each
    process opens the set by itself.
    """

    def __init__(self, options: DataOptions) -> None:
        self._options = settled(options)
        self._opened: tuple[int, ShardSet] | None = None

    @property
    def shards(self) -> ShardSet:
        """This process's own set: a forked worker must not use the threads and files of its parent."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), open_shards(self._options)
        return self._opened[1]

    def __call__(self, places: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The members of shards as the library's next stage takes them, with an empty one after each shard.

        Raises DataError, which names the shard and the member.
        """
        files = self.shards.files
        for place in places:
            name = place["url"]
            with files.open(name) as file:
                for member, content in read_fields(file, files.where(name)):
                    yield {"fname": member, "data": content, "__url__": name}
            yield {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


def as_webdataset(options: DataOptions, seed: int | None = None) -> Any:
    """A `webdataset.WebDataset` over the set that `options.shards` names. Raises DataError or ConfigError."""
    reader = FieldReader(options)
    reader.shards.check_sizes()
    names = [shard.name for shard in reader.shards.manifest.shards]
    dataset = webdataset.WebDataset(
        names,
        shardshuffle=False if seed is None else len(names),
        detshuffle=True,
        seed=seed,
        nodesplitter=webdataset.split_by_node,
        # A worker may have no shards if there are many workers.
        empty_check=False,
    )
    opens = [number for number, stage in enumerate(dataset.pipeline) if isinstance(stage, StreamingOpen)]
    (place,) = opens
    assert dataset.pipeline[place + 1].f is tar_file_expander, "the library unpacks what it has opened"
    dataset.pipeline[place : place + 2] = [reader]
    return dataset


def read_fields(file: IO[bytes], where: str) -> Iterator[tuple[str, bytes]]:
    """The names and contents of an open shard's members that are part of a sample; `where` is its path or URL.

    Raises DataError if it is compressed or no complete tar file, and for a member that is no plain file, is too large,
    or is named as an image and is none of FORMATS or one that no decoder should see.
    """
    if tool_for(file.read(BLOCK)) is not None:
        raise DataError(f"{where} is compressed, and shards are plain tar files. {COPY}")
    try:
        for member in read_members(file):
            if member.kind != "folder" and is_read(member.name):
                yield member.name, _content(file, where, member)
    except TarError as error:
        raise DataError(f"{where} is not a complete tar file: {error}. {error.remedy}") from None


def is_read(member: str) -> bool:
    """Whether a member of a shard is part of its sample."""
    return _field(member) in FIELDS and not is_hidden_member(member)


def _field(member: str) -> str:
    return member.rpartition(".")[2].lower()


def _content(file: IO[bytes], where: str, member: TarMember) -> bytes:
    if member.kind != "file":
        raise DataError(
            f"{where}: {member.name} is a link, a device, a pipe or a sparse file, not a plain file. Remove it."
        )
    if member.size > MAX_FILE_BYTES:
        raise too_large(f"{where}: {member.name}")
    file.seek(member.start)
    content = file.read(member.size)
    if len(content) != member.size:
        raise DataError(f"{where}: {member.name} is cut: the file became shorter while it was read.")
    if _field(member.name) in PICTURES:
        _check_picture(content, f"{where}: {member.name}")
    return content


def _check_picture(content: bytes, what: str) -> None:
    try:
        kind = read_picture_file(content).kind
    except DataError as error:
        raise DataError(f"{what} cannot be used as an image: {error}. Remove it from the shard.") from None
    if kind not in FORMATS:
        raise DataError(
            f"{what} holds a {kind}, which no shard holds as an image. Remove it from the shard, or save it as "
            f"{' or '.join(FORMATS)}."
        )
