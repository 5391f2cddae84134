"""The manifest: what a directory of shards holds, with the sizes and hashes that show that it is complete.

A shard directory looks like this:

    manifest.json      written last: if it is there, the set is complete
    000000.tar         a webdataset shard: for each sample an image and, if the set has labels, KEY.cls
    000000.npy         its index: int64 (count, 4), with the offset, size in bytes, label and CRC-32 of each
                       image; the label is -1 if the set has no labels

That of a set of originals, of tar files that somebody else made and that stay where they are, looks like this:

    manifest.json      it also says where the tar files are: by absolute paths, or URLs
    NAME.index         the index of one of them, see `indexes`
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, Field, model_validator

from pipeline.data.format.codecs import Encoding
from pipeline.documents import Document, Many, parse_json
from pipeline.errors import ConfigError, DataError
from pipeline.foreign_text import printable, shown
from pipeline.option_data import is_pattern
from pipeline.presets import shards_command
from pipeline.regular_files import read_regular
from pipeline.wording import counted

FORMAT = "wgan-shards/2"
FORMAT_OF_ORIGINALS = "wgan-shards/3"
FILE_NAME = "manifest.json"
MAKE = "Make the shards with `wgan shards make`"
COPY = "Copy it here again, or check its permissions."

MOST_BYTES, MOST_PER_SHARD, MOST_IMAGES, MAX_SIDE = 1 << 28, 1 << 26, 1 << 30, 16_384
MOST_PARTS = 4_000_000
"""Parts of its JSON text. A shard has 34, and a class 2."""
OF_A_SHARD = ("name", "count", "bytes", "sha256", "index", "index_sha256")
"""What is written of a shard of this program, in this order"""
LEAST_MEMBER = 1024
"""The bytes that an image takes in a tar file at least: a header, and one block."""


@dataclass(frozen=True)
class Shard:
    """One tar file and its index, by file name within the shard directory.

    Of a set of originals, `name` is where the tar file is: an absolute path or a URL.
    """

    name: str
    count: int
    bytes: int
    sha256: str
    """Empty for an original on a local disk: its images have their checksums"""
    index: str
    index_sha256: str
    stamp: str = ""
    """Of an original: what changes if the file does, besides its size"""
    unlabelled: int = 0
    """Of an original: how many of its images have no label"""
    left_out: tuple[tuple[str, int], ...] = ()
    """Of an original: what of it is not used, and how often, for example (".json", 1000)"""

    @property
    def is_original(self) -> bool:
        """Whether it is a tar file of another program, which lies where it was."""
        return bool(self.stamp)

    @property
    def is_remote(self) -> bool:
        """Whether it is an original at a URL."""
        return self.is_original and "://" in self.name


class Stored(NamedTuple):
    """How all images of a set are stored, which are of one size. `resolution` is (height, width) in pixels."""

    resolution: tuple[int, int]
    channels: int
    encoding: Encoding


@dataclass(frozen=True)
class Manifest:
    """What a shard directory holds. `resolution` is (height, width) in pixels.

    In a set of originals, tar files of other programs that stay where they are, images have any size and may be PNG,
    JPEG or WebP: `resolution` and `channels` are None and `encoding` is "mixed".

    `plan` holds, as plain JSON values, everything that determined the bytes of the shards, or how originals were
    indexed. It is empty for shards of other programs that were indexed in place.
    """

    source: str
    resolution: tuple[int, int] | None
    channels: int | None
    classes: tuple[str, ...]
    encoding: Encoding | Literal["mixed"]
    shards: tuple[Shard, ...]
    plan: dict[str, Any] = field(default_factory=dict, hash=False)
    are_words: bool = False
    """Of originals: whether labels are words, which the classes are, and not numbers of classes"""

    @property
    def is_of_originals(self) -> bool:
        """Whether the tar files are of other programs, and lie where they were."""
        return self.encoding == "mixed"

    @property
    def stored(self) -> Stored:
        """How all images are stored. Raises ConfigError for originals, which are of any size."""
        if self.resolution is None or self.channels is None or self.encoding == "mixed":
            raise ConfigError(
                f"{self.source} is a set of tar files as somebody else wrote them, whose images have any size, and "
                "this needs images of one size. To train on them, set data.resolution, and data.fit if they should not "
                "be cropped; other commands have --resolution; or make shards of them: `wgan shards make "
                "DIRECTORY_OF_TARS OUT --resolution N`."
            )
        return Stored(self.resolution, self.channels, self.encoding)

    @property
    def count(self) -> int:
        """The number of samples."""
        return sum(shard.count for shard in self.shards)

    @property
    def bytes(self) -> int:
        """The size of all tar files together, in bytes."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def unlabelled(self) -> int:
        """The number of samples without a label in a set that has classes."""
        return sum(shard.unlabelled for shard in self.shards) if self.classes else 0

    @cached_property
    def class_places(self) -> dict[str, int]:
        """The position of each class."""
        return {name: place for place, name in enumerate(self.classes)}

    @cached_property
    def sha256(self) -> str:
        """A hash that identifies the data: the same samples in the same order have the same hash.

        That of originals does not depend on where they lie.
        """
        if not self.is_of_originals:
            return hashlib.sha256(self.to_json().encode()).hexdigest()
        shards = [(shard.count, shard.bytes, shard.index_sha256) for shard in self.shards]
        content = json.dumps([FORMAT_OF_ORIGINALS, self.classes, self.are_words, shards])
        return hashlib.sha256(content.encode()).hexdigest()

    def to_json(self) -> str:
        """The manifest as JSON text; the same content always gives the same bytes."""
        content = {
            "source": self.source,
            "resolution": self.resolution,
            "channels": self.channels,
            "classes": self.classes,
            "encoding": self.encoding,
            "plan": self.plan,
            "count": self.count,
        }
        if self.is_of_originals:
            content = {"format": FORMAT_OF_ORIGINALS, **content, "are_words": self.are_words}
            shards = [original_facts(shard) for shard in self.shards]
        else:
            content = {"format": FORMAT, **content}
            shards = [shard_facts(shard) for shard in self.shards]
        return json.dumps({**content, "shards": shards}, indent=1) + "\n"


def shard_facts(shard: Shard) -> dict[str, Any]:
    """What a JSON text says of a shard of this program, as `ShardEntry` reads it."""
    return {name: getattr(shard, name) for name in OF_A_SHARD}


def original_facts(shard: Shard) -> dict[str, Any]:
    """What a JSON text says of an original, as `OriginalEntry` reads it."""
    facts = asdict(shard)
    return {"location": facts.pop("name"), **facts, "left_out": dict(shard.left_out)}


def load_manifest(directory: Path) -> Manifest:
    """Read and check `directory/manifest.json`. Raises DataError if it is missing, or as `parse_manifest` does."""
    path = directory / FILE_NAME
    try:
        return parse_manifest(read_regular(path, MOST_BYTES, directory), str(path))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(_why_no_set(directory)) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. {COPY}") from None


def _why_no_set(directory: Path) -> str:
    """What is in the place of a set of shards, and what to do."""
    if directory.is_file():
        command = f"wgan shards make {quote(printable(str(directory)))} OUT"
        return f"{directory} is a file, and a set of shards is a directory. Make one of it, `{command}`, and name OUT."
    make = f"{_how_to_make(directory)}, or correct data.shards"
    if not directory.is_dir() and is_pattern(str(directory)):
        place = printable(str(directory))
        return (
            f"{place} is a pattern of tar files. Index them, `wgan shards index '{place}' OUT`, and name OUT."
        )
    if not directory.is_dir():
        return f"The shard directory {directory} does not exist. {make}."
    if any(directory.glob(".asked.json")):
        return (
            f"The directory {directory} holds an index of tar files that is not finished. Run the same `wgan shards "
            "index` command again, which goes on where it was."
        )
    # Before shards are complete, their directory has a plan and a lock.
    if next(directory.glob("*.tar"), None) is None or any(directory.glob(".plan.json")):
        return f"The shard directory {directory} has no manifest.json, so it is not a complete set of shards. {make}."
    pattern = repr(printable(f"{directory}/*.tar"))
    return (
        f"{directory} holds tar files and no manifest.json, so it is not a complete set of shards. To train on tar "
        f"files of another program as they are, name them by a pattern, {pattern}; or make shards of them."
    )


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
        if found not in _DOCUMENTS:
            raise DataError(
                f"{path} has the format {shown(found, 60)}, but this version reads "
                f"{' and '.join(map(repr, _DOCUMENTS))}. {MAKE} again."
            )
        document = parse_json(text, _DOCUMENTS[found], MOST_PARTS)
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


class _Entry(Document):
    """What a JSON text says of any tar file and its index."""

    count: int = Field(ge=1, le=MOST_PER_SHARD)
    bytes: int = Field(ge=1, lt=2**45)
    sha256: Hash
    index: FileName
    index_sha256: Hash

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        """A count that is too high would take memory and time before anything else shows that it is wrong."""
        if self.count * LEAST_MEMBER > self.bytes:
            raise ValueError(f"{self.count:,} samples do not fit into {self.bytes:,} bytes of a tar file")
        return self


class ShardEntry(_Entry):
    """What a JSON text says of one tar file and its index."""

    name: FileName

    def shard(self) -> Shard:
        """The shard that it describes."""
        return Shard(**dict(self))


class OriginalEntry(_Entry):
    """What a JSON text says of a tar file of another program and its index."""

    location: str = Field(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f]*$")
    stamp: str = Field(min_length=1, max_length=200)
    unlabelled: int = Field(ge=0)
    left_out: dict[str, int]

    def shard(self) -> Shard:
        """The shard that it describes."""
        facts = dict(self)
        left_out = tuple(facts.pop("left_out").items())
        return Shard(name=facts.pop("location"), left_out=left_out, **facts)


class _Document(Document):
    """The content of manifest.json."""

    source: str
    resolution: tuple[Side, Side]
    channels: Literal[1, 3, 4]
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


class _Originals(Document):
    """The content of the manifest.json of a set of originals."""

    source: str
    classes: Many[str]
    are_words: bool
    count: int = Field(le=MOST_IMAGES)
    shards: Many[OriginalEntry] = Field(min_length=1)
    plan: dict[str, Any]

    def manifest(self) -> Manifest:
        """The manifest that it describes."""
        return Manifest(
            source=self.source,
            resolution=None,
            channels=None,
            classes=tuple(self.classes),
            encoding="mixed",
            shards=tuple(shard.shard() for shard in self.shards),
            plan=self.plan,
            are_words=self.are_words,
        )


_DOCUMENTS: dict[str | None, type[_Document | _Originals]] = {
    FORMAT: _Document,
    FORMAT_OF_ORIGINALS: _Originals,
}
