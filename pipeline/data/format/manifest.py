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
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, cast, get_args

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from pipeline import stopping
from pipeline.data.format.codecs import Encoding
from pipeline.errors import DataError
from pipeline.presets import shards_command
from pipeline.wording import counted

FORMAT = "wgan-shards/2"
FILE_NAME = "manifest.json"
MAKE = "Make the shards with `wgan shards make`"
COPY = "Copy it here again, or check its permissions."

Index = npt.NDArray[np.int64]
"""int64 (count, 4), with the columns below."""

INDEX_COLUMNS = ("offset", "bytes", "label", "crc32")


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
    if not directory.is_dir():
        raise DataError(
            f"The shard directory {directory} does not exist. {_how_to_make(directory)}, or correct data.shards."
        )
    try:
        return parse_manifest(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise DataError(
            f"{directory} has no {FILE_NAME}, so it is not a complete set of shards. {_how_to_make(directory)}."
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}). {MAKE} again.") from None


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
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}). {MAKE} again.") from None
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise DataError(f"{path} has the format {found!r}, but this version reads {FORMAT!r}. {MAKE} again.")
    try:
        manifest = _parse(content)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{path} is damaged: a value is missing or invalid ({error!r}). {MAKE} again."
        ) from None
    names = Counter(name for shard in manifest.shards for name in (shard.name, shard.index))
    name, times = names.most_common(1)[0]
    if times > 1:
        raise DataError(
            f"{path} lists {name} {times} times, so its samples would be used {times} times. {MAKE} again."
        )
    if content.get("count") != manifest.count:
        raise DataError(
            f"{path} is damaged: its count is {content.get('count')}, but its shards hold "
            f"{counted(manifest.count, 'sample')}. {MAKE} again."
        )
    return manifest


def _parse(content: dict[str, Any]) -> Manifest:
    height, width = (int(side) for side in content["resolution"])
    shards = tuple(
        Shard(
            name=_plain_name(shard["name"]),
            count=int(shard["count"]),
            bytes=int(shard["bytes"]),
            sha256=str(shard["sha256"]),
            index=_plain_name(shard["index"]),
            index_sha256=str(shard["index_sha256"]),
        )
        for shard in content["shards"]
    )
    if not shards or any(shard.count < 1 for shard in shards):
        raise ValueError("a shard without samples")
    if height < 1 or width < 1 or content["channels"] not in (1, 3):
        raise ValueError("the shape of the images")
    if content["encoding"] not in get_args(Encoding):
        raise ValueError(f"the encoding {content['encoding']!r}")
    return Manifest(
        source=str(content["source"]),
        resolution=(height, width),
        channels=int(content["channels"]),
        classes=tuple(str(name) for name in content["classes"]),
        encoding=cast(Encoding, content["encoding"]),
        shards=shards,
        plan=dict(content["plan"]),
    )


def _plain_name(name: object) -> str:
    """The name of a file in the shard directory. Raises ValueError for anything that could be a path out of it."""
    if not isinstance(name, str) or not name or Path(name).name != name or name.startswith("."):
        raise ValueError(f"the file name {name!r}")
    return name


def check_sizes(directory: Path, manifest: Manifest) -> None:
    """Raise DataError unless every shard and index exists and every shard has the size in the manifest."""
    for shard in manifest.shards:
        for name in (shard.name, shard.index):
            if not (directory / name).is_file():
                raise DataError(
                    f"{directory / name} is missing, but {FILE_NAME} lists it. Copy it back, or make the shards "
                    "again with `wgan shards make`."
                )
        found = (directory / shard.name).stat().st_size
        if found != shard.bytes:
            raise DataError(
                f"{directory / shard.name} has {counted(found, 'byte')}, but {FILE_NAME} says {shard.bytes:,}: it "
                "was truncated or changed. Copy it again, or make the shards again with `wgan shards make`."
            )


def check_hashes(directory: Path, shards: Sequence[Shard], show_progress: bool = False) -> None:
    """Raise DataError unless each of these shards and its index have the SHA-256 in the manifest."""
    total = sum(shard.bytes for shard in shards)
    hidden = None if show_progress else True
    with tqdm(
        total=total, desc="checking shards", unit="B", unit_scale=True, delay=1, leave=False, disable=hidden
    ) as bar:
        for shard in shards:
            for name, expected in ((shard.name, shard.sha256), (shard.index, shard.index_sha256)):
                found = file_sha256(directory / name, bar.update)
                if found != expected:
                    raise DataError(
                        f"{directory / name} has SHA-256 {found[:16]}…, but {FILE_NAME} says {expected[:16]}…: its "
                        "content has changed. Copy it again, or make the shards again with `wgan shards make`."
                    )


def file_sha256(path: Path, advance: Callable[[int], object] = lambda _: None) -> str:
    """The SHA-256 of a file in hexadecimal. `advance` is called with the size of each block that is read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
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
        with path.open("rb") as file:
            return read_index(file, shard, str(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. {COPY}") from None


def read_index(file: IO[bytes], shard: Shard, path: str) -> Index:
    """Read the index of a shard from an open file; `path` is its name in messages.

    Raises DataError if it is not an index of that shard, or if it points outside the tar file.
    """
    try:
        index: Index = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{path} is not a shard index ({error}). {MAKE} again.") from None
    if index.dtype != np.int64 or index.shape != (shard.count, len(INDEX_COLUMNS)):
        raise DataError(
            f"{path} holds {index.dtype} {index.shape}, but the index of {shard.name} must be int64 ({shard.count}, "
            f"{len(INDEX_COLUMNS)}). {MAKE} again."
        )
    offset, size = index[:, 0], index[:, 1]
    if (offset < 0).any() or (size < 1).any() or (offset > shard.bytes - size).any():
        raise DataError(f"{path} is damaged: it points outside {shard.name}. {MAKE} again.")
    return index
