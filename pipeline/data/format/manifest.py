"""The manifest: what a directory of shards holds, with the sizes and hashes that show that it is complete.

A shard directory looks like this:

    manifest.json      written last: if it is there, the set is complete
    000000.tar         a webdataset shard: for each sample an image and, if the set has labels, KEY.cls
    000000.npy         its index: int64 (count, 4), with the offset, size in bytes, label and CRC-32 of each
                       image; the label is -1 if the set has no labels
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field, model_validator
from tqdm import tqdm

from pipeline import stopping
from pipeline.data.format.codecs import Encoding
from pipeline.documents import Document, Many, parse_json
from pipeline.errors import DataError
from pipeline.foreign_text import shown
from pipeline.presets import shards_command
from pipeline.regular_files import open_regular, read_regular, regular_size
from pipeline.wording import counted

FORMAT = "wgan-shards/2"
FILE_NAME = "manifest.json"
MAKE = "Make the shards with `wgan shards make`"
COPY = "Copy it here again, or check its permissions."

Index = npt.NDArray[np.int64]
"""int64 (count, 4), with the columns below."""

INDEX_COLUMNS = ("offset", "bytes", "label", "crc32")
INDEX_HEADER_BYTES = 128
INDEX_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00\x76\x00\{'descr': '<i8', 'fortran_order': False, 'shape': \((\d{1,9}), 4\), \} *\n$"
)
"""What NumPy writes before the rows of an index: the only .npy header that is read."""

MOST_BYTES, MOST_PER_SHARD, MOST_IMAGES, MAX_SIDE = 1 << 28, 1 << 26, 1 << 30, 16_384
MOST_PARTS = 4_000_000
"""Parts of its JSON text. A shard has 34, and a class 2."""
LEAST_MEMBER = 1024
"""The bytes that an image takes in a tar file at least: a header, and one block."""


@dataclass(frozen=True)
class Shard:
    """One tar file and its index, by file name within the shard directory."""

    name: str
    count: int
    bytes: int
    sha256: str
    index: str
    index_sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a shard directory holds. `resolution` is (height, width) in pixels.

    `plan` holds, as plain JSON values, everything that determined the bytes of the shards. It is empty for shards
    of other programs, which `wgan shards index` indexed in place.
    """

    source: str
    resolution: tuple[int, int]
    channels: int
    classes: tuple[str, ...]
    encoding: Encoding
    shards: tuple[Shard, ...]
    plan: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def count(self) -> int:
        """The number of samples."""
        return sum(shard.count for shard in self.shards)

    @property
    def bytes(self) -> int:
        """The size of all tar files together, in bytes."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def decoded_bytes(self) -> int:
        """The size of all decoded images as uint8, in bytes."""
        return self.count * self.channels * self.resolution[0] * self.resolution[1]

    @cached_property
    def sha256(self) -> str:
        """A hash that identifies the data: the same samples in the same order have the same hash."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """The manifest as JSON text; the same content always gives the same bytes."""
        fields = asdict(self)
        fields.pop("shards")
        content = {
            "format": FORMAT,
            **fields,
            "count": self.count,
            "shards": [asdict(shard) for shard in self.shards],
        }
        return json.dumps(content, indent=1) + "\n"


def load_manifest(directory: Path) -> Manifest:
    """Read and check `directory/manifest.json`. Raises DataError if it is missing, or as `parse_manifest` does."""
    path = directory / FILE_NAME
    try:
        return parse_manifest(read_regular(path, MOST_BYTES, directory), str(path))
    except (FileNotFoundError, NotADirectoryError):
        missing = (
            "has no manifest.json, so it is not a complete set of shards"
            if directory.is_dir()
            else "does not exist"
        )
        raise DataError(
            f"The shard directory {directory} {missing}. {_how_to_make(directory)}, or correct data.shards."
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. {COPY}") from None


def _how_to_make(directory: Path) -> str:
    """What to do if the shards are missing; with the whole command if they are those of a preset."""
    command = shards_command(str(directory))
    return MAKE if command is None else f"Make the shards with `{command}`"


def parse_manifest(text: bytes, path: str) -> Manifest:
    """Parse and check the text of a manifest; `path` is its name in messages.

    Raises DataError if it is not JSON or of another format, if values are missing or wrong, if a file name is a
    path, or if a file is listed twice.
    """
    try:
        found = parse_json(text, _Versioned, MOST_PARTS).format
        if found != FORMAT:
            raise DataError(
                f"{path} has the format {shown(found, 60)}, but this version reads {FORMAT!r}. {MAKE} again."
            )
        document = parse_json(text, _Document, MOST_PARTS)
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}. {MAKE} again.") from None
    manifest = document.manifest()
    names = Counter(name for shard in manifest.shards for name in (shard.name, shard.index))
    name, times = names.most_common(1)[0]
    if times > 1:
        raise DataError(
            f"{path} lists {name} {times} times, so its samples would be used {times} times. {MAKE} again."
        )
    if document.count != manifest.count:
        raise DataError(
            f"{path} is damaged: its count is {document.count}, but its shards hold "
            f"{counted(manifest.count, 'sample')}. {MAKE} again."
        )
    return manifest


def _check_name(name: str) -> str:
    """Refuse names that could be paths out of the directory."""
    if Path(name).name != name or name.startswith(".") or "\0" in name:
        raise ValueError("it is not the name of a file in this directory")
    return name


FileName = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_check_name)]
Hash = Annotated[str, Field(max_length=64)]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]


class _Versioned(Document):
    """What the manifest of every version has."""

    format: str | None = None


class ShardEntry(Document):
    """What a JSON text says of one tar file and its index."""

    name: FileName
    count: int = Field(ge=1, le=MOST_PER_SHARD)
    bytes: int = Field(ge=1, lt=2**45)
    sha256: Hash
    index: FileName
    index_sha256: Hash

    def shard(self) -> Shard:
        """The shard that it describes."""
        return Shard(**dict(self))

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        """A count that is too high would take memory and time before anything else shows that it is wrong."""
        if self.count * LEAST_MEMBER > self.bytes:
            raise ValueError(f"{self.count:,} samples do not fit into {self.bytes:,} bytes of a tar file")
        return self


class _Document(Document):
    """The content of manifest.json."""

    source: str
    resolution: tuple[Side, Side]
    channels: Literal[1, 3]
    classes: Many[str]
    encoding: Encoding
    count: int = Field(le=MOST_IMAGES)
    shards: Many[ShardEntry] = Field(min_length=1)
    plan: dict[str, Any]

    def manifest(self) -> Manifest:
        """The manifest that it describes."""
        return Manifest(
            source=self.source,
            resolution=self.resolution,
            channels=self.channels,
            classes=tuple(self.classes),
            encoding=self.encoding,
            shards=tuple(shard.shard() for shard in self.shards),
            plan=self.plan,
        )


def check_sizes(directory: Path, manifest: Manifest) -> None:
    """Raise DataError unless every shard and index exists and every shard has the size in the manifest."""
    for shard in manifest.shards:
        size = _size(directory, shard.name)
        _size(directory, shard.index)
        if size != shard.bytes:
            raise DataError(
                f"{directory / shard.name} has {counted(size, 'byte')}, but {FILE_NAME} says {shard.bytes:,}: it "
                "was truncated or changed. Copy it again, or make the shards again with `wgan shards make`."
            )


def _size(directory: Path, name: str) -> int:
    """The size of a file of the set. Raises DataError."""
    try:
        return regular_size(directory / name, directory)
    except FileNotFoundError:
        raise DataError(
            f"{directory / name} is missing, but {FILE_NAME} lists it. Copy it back, or make the shards again with "
            "`wgan shards make`."
        ) from None
    except OSError as error:
        raise DataError(f"{directory / name} cannot be used: {error.strerror}. {COPY}") from None


def check_hashes(directory: Path, shards: Sequence[Shard], show_progress: bool = False) -> None:
    """Raise DataError unless each of these shards and its index have the SHA-256 in the manifest."""
    total = sum(shard.bytes for shard in shards)
    hidden = None if show_progress else True
    with tqdm(
        total=total, desc="checking shards", unit="B", unit_scale=True, delay=1, leave=False, disable=hidden
    ) as bar:
        for shard in shards:
            for name, expected in ((shard.name, shard.sha256), (shard.index, shard.index_sha256)):
                found = file_sha256(directory / name, bar.update, directory)
                if found != expected:
                    raise DataError(
                        f"{directory / name} has SHA-256 {found[:16]}…, but {FILE_NAME} says {expected[:16]}…: its "
                        "content has changed. Copy it again, or make the shards again with `wgan shards make`."
                    )


def file_sha256(
    path: Path, advance: Callable[[int], object] = lambda _: None, within: Path | None = None
) -> str:
    """The SHA-256 of a file in hexadecimal. `advance` is called with the size of each block that is read.

    `within` is the directory of its set, out of which no link may lead. Raises DataError if it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open_regular(path, within) as file:
            while block := file.read(1 << 22):
                stopping.check()
                digest.update(block)
                advance(len(block))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. {COPY}") from None
    return digest.hexdigest()


def load_index(directory: Path, shard: Shard) -> Index:
    """Read the index of a shard. Raises DataError if it cannot be opened, or as `read_index` does."""
    path = directory / shard.index
    try:
        with open_regular(path, directory) as file:
            return read_index(file, shard, str(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. {COPY}") from None


def read_index(file: IO[bytes], shard: Shard, path: str) -> Index:
    """Read the index of a shard from an open file; `path` is its name in messages.

    Raises DataError if it is not an index of that shard, or if it points outside the tar file.
    """
    columns = len(INDEX_COLUMNS)
    header = INDEX_HEADER.match(file.read(INDEX_HEADER_BYTES))
    if header is None:
        raise DataError(
            f"{path} is not a shard index: it does not begin as a .npy file of int64 (count, {columns}). {MAKE} again."
        )
    # One byte more than there should be. A header may say anything, so it does not decide how much is read.
    content = file.read(shard.count * columns * 8 + 1)
    if int(header[1]) != shard.count or len(content) != shard.count * columns * 8:
        raise DataError(
            f"{path} is cut short, or does not have the {counted(shard.count, 'row')} of the index of {shard.name}. "
            f"{MAKE} again."
        )
    index: Index = np.frombuffer(content, dtype="<i8").astype(np.int64, copy=False).reshape(-1, columns)
    offset, size = index[:, 0], index[:, 1]
    if (offset < 0).any() or (size < 1).any() or (offset > shard.bytes - size).any():
        raise DataError(f"{path} is damaged: it points outside {shard.name}. {MAKE} again.")
    return index
