"""Whether the files of a set on a local disk have the sizes and hashes in its manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from tqdm import tqdm

from pipeline import stopping
from pipeline.data.format.manifest import COPY, FILE_NAME, Manifest, Shard
from pipeline.errors import DataError
from pipeline.regular_files import open_regular, regular_size
from pipeline.wording import counted

MAKE_AGAIN = "make the shards again with `wgan shards make`"
INDEX_AGAIN = "run `wgan shards index` again, which indexes what has changed"


def check_sizes(directory: Path, manifest: Manifest) -> None:
    """Raise DataError unless every shard and index exists and every shard has the size in the manifest.

    Originals at a URL are checked when they are fetched.
    """
    remedy = INDEX_AGAIN if manifest.is_of_originals else MAKE_AGAIN
    for shard in manifest.shards:
        _size(directory, shard.index, remedy)
        if shard.is_remote:
            continue
        size = _size(directory, shard.name, remedy)
        if size != shard.bytes:
            raise DataError(
                f"{directory / shard.name} has {counted(size, 'byte')}, but {FILE_NAME} says {shard.bytes:,}: it "
                f"was truncated or changed. Copy it again, or {remedy}."
            )


def _size(directory: Path, name: str, remedy: str) -> int:
    """The size of a file of the set. Raises DataError."""
    path = directory / name
    try:
        # Of originals, the manifest has whole paths, as a user would write them: they may be links.
        return regular_size(path, None if Path(name).is_absolute() else directory)
    except FileNotFoundError:
        raise DataError(f"{path} is missing, but {FILE_NAME} lists it. Copy it back, or {remedy}.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be used: {error.strerror}. {COPY}") from None


def check_hashes(directory: Path, shards: Sequence[Shard], show_progress: bool = False) -> None:
    """Raise DataError unless each of these shards and its index have the SHA-256 in the manifest.

    Of originals only the indexes have one, with the checksum of each image.
    """
    total = sum(shard.bytes for shard in shards if not shard.is_original)
    hidden = None if show_progress else True
    with tqdm(
        total=total, desc="checking shards", unit="B", unit_scale=True, delay=1, leave=False, disable=hidden
    ) as bar:
        for shard in shards:
            hashes = {shard.name: shard.sha256, shard.index: shard.index_sha256}
            if shard.is_original:
                del hashes[shard.name]
            for name, expected in hashes.items():
                found = file_sha256(directory / name, bar.update, directory)
                if found != expected:
                    raise _changed(str(directory / name), found, expected, shard)


def check_hash(file: IO[bytes], shard: Shard, where: str) -> None:
    """Raise DataError unless the open index of a shard has its SHA-256. It is left at its start."""
    found = _sha256(file)
    file.seek(0)
    if found != shard.index_sha256:
        raise _changed(where, found, shard.index_sha256, shard)


def _changed(where: str, found: str, expected: str, shard: Shard) -> DataError:
    remedy = INDEX_AGAIN if shard.is_original else MAKE_AGAIN
    return DataError(
        f"{where} has SHA-256 {found[:16]}…, but {FILE_NAME} says {expected[:16]}…: its content has changed. Copy it "
        f"again, or {remedy}."
    )


def file_sha256(
    path: Path, advance: Callable[[int], object] = lambda _: None, within: Path | None = None
) -> str:
    """The SHA-256 of a file in hexadecimal. `advance` is called with the size of each block that is read.

    `within` is the directory of its set, out of which no link may lead. Raises DataError if it cannot be read.
    """
    try:
        with open_regular(path, within) as file:
            return _sha256(file, advance)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. {COPY}") from None


def _sha256(file: IO[bytes], advance: Callable[[int], object] = lambda _: None) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 22):
        stopping.check()
        digest.update(block)
        advance(len(block))
    return digest.hexdigest()
