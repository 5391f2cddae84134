"""The files of an index of originals: what was asked for, what is finished, and what was left out.

.indexing          a lock, held while the index is made
.asked.json        how the samples are read; all that is kept here was read in this way
NAME.index         the index of one tar file, named after its content
NAME.json          its record, written when the index is on disk, until the manifest is; later only of tar files without
                   images, which the manifest does not have, so that they are not read again
bad-images.txt     the images that were left out, with the reasons
manifest.json      written last
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.data.format.file_checks import file_sha256
from pipeline.data.format.manifest import (
    FILE_NAME,
    MOST_PER_SHARD,
    OriginalEntry,
    Shard,
    load_manifest,
    original_facts,
)
from pipeline.data.sources.bad_images import BAD_NAME, BadImage, list_of_images
from pipeline.documents import Document, Many, parse_json
from pipeline.durable import replacing, storage_errors, sync_directory
from pipeline.errors import ConfigError, DataError, RunLockedError
from pipeline.file_lock import LEASE_NAME, FileLock, HeldError
from pipeline.foreign_text import printable
from pipeline.regular_files import is_absent, read_regular

LOCK_NAME, ASKED_NAME = ".indexing", ".asked.json"
OPTIONS = {"labels": "--labels", "image": "--images"}
"""The option of the command that each fact is asked with"""
MOST_BYTES = 1 << 28
INDEXES = re.compile(r"[\w-]{1,80}\.index")
RECORDS = re.compile(r"[\w-]{1,80}\.json")
HALF_WRITTEN = re.compile(rf"\.({INDEXES.pattern}|{RECORDS.pattern}|{BAD_NAME}|\.asked\.json)\.tmp")
PASSING = re.compile(rf"{RECORDS.pattern}|\.asked\.json|{HALF_WRITTEN.pattern}")
OURS = re.compile(
    rf"{INDEXES.pattern}|{PASSING.pattern}|{FILE_NAME}|{BAD_NAME}|{re.escape(LOCK_NAME)}({LEASE_NAME})?"
)


@dataclass(frozen=True)
class Record:
    """What is known of one tar file that was indexed."""

    shard: Shard
    bad: tuple[BadImage, ...] = ()


class _RecordEntry(OriginalEntry):
    """A tar file that may have no images."""

    count: int = Field(ge=0, le=MOST_PER_SHARD)


class _Record(Document):
    """The content of a record's file."""

    shard: _RecordEntry
    bad: Many[tuple[str, str]]


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Be the only process that writes to `out`, which is created if needed.

    Raises ConfigError if it holds anything else than an index, RunLockedError if another process makes one there.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file, and an index is a directory. Name a directory.")
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        other = sorted(path.name for path in out.iterdir() if not OURS.fullmatch(path.name))
    if other:
        raise ConfigError(
            f"{out} is not an index of tar files: it holds {other[0]!r}. Give another directory, so that nothing of "
            "yours is changed."
        )
    try:
        with FileLock(out / LOCK_NAME):
            yield
    except HeldError:
        raise RunLockedError(
            f"Another process is indexing in {out}. Wait until it ends, or give another directory."
        ) from None


def agree(out: Path, asked: Mapping[str, Any]) -> None:
    """Note how samples are read. Raises ConfigError if what is in `out` was read in another way.

    Where no image was found yet, nothing was: so the option that a refusal asks for can be given to the same command.
    """
    found: dict[str, Any] | None = None
    if not is_absent(out / FILE_NAME):
        manifest = load_manifest(out)
        if not manifest.is_of_originals:
            raise ConfigError(
                f"{out} holds shards that were made by another command. Give another directory."
            )
        found = {name: manifest.plan.get(name) for name in asked}
    elif _record_paths(out) and not is_absent(out / ASKED_NAME):
        try:
            found = json.loads(read_regular(out / ASKED_NAME, MOST_BYTES, out))
        except (OSError, ValueError):
            raise ConfigError(f"{out / ASKED_NAME} cannot be read. Remove {out}.") from None
    if found is not None and found != asked:
        if any(record.shard.count for record in find_records(out).values()):
            raise ConfigError(
                f"{out} was made with other options: {_describe(found)} instead of {_describe(asked)}. Give the same "
                "ones, or another directory, or remove this one."
            )
        clean(out, ())
    with replacing(out / ASKED_NAME) as file:
        file.write(json.dumps(dict(asked)).encode())


def _describe(asked: object) -> str:
    if not isinstance(asked, Mapping):
        return "others"
    return (
        printable(
            " ".join(f"{OPTIONS[name]} {asked[name]}" for name in OPTIONS if asked.get(name) is not None)
        )
        or "none"
    )


def find_records(out: Path) -> dict[str, Record]:
    """The tar files that were indexed in `out`, by their location, with indexes that are whole."""
    found: dict[str, Record] = {}
    if not is_absent(out / FILE_NAME):
        bad = _read_bad(out)
        for shard in load_manifest(out).shards:
            found[shard.name] = Record(shard, tuple(bad.get(shard.name, ())))
    for path in _record_paths(out):
        try:
            content = parse_json(read_regular(path, MOST_BYTES, out), _Record)
        except (OSError, ValueError):
            continue  # half of one, or not ours: the tar file is indexed again
        shard = content.shard.shard()
        found[shard.name] = Record(shard, tuple(BadImage(*image) for image in content.bad))
    return {place: record for place, record in found.items() if _is_whole(out, record.shard)}


def _record_paths(out: Path) -> list[Path]:
    """The records of an unfinished index."""
    with storage_errors(out):
        return [path for path in out.iterdir() if RECORDS.fullmatch(path.name) and path.name != FILE_NAME]


def _is_whole(out: Path, shard: Shard) -> bool:
    try:
        return file_sha256(out / shard.index, within=out) == shard.index_sha256
    except DataError:
        return False


def index_name(location: str, digest: str) -> str:
    """The name of the index of a tar file, of the given SHA-256: other content has another name."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", location.rpartition("/")[2].removesuffix(".tar"))[:48]
    return (
        f"{stem}-{hashlib.sha256(f'{location} {digest}'.encode('utf-8', 'replace')).hexdigest()[:16]}.index"
    )


def keep(out: Path, record: Record, index: bytes) -> None:
    """Write the index of a tar file and then its record."""
    with replacing(out / record.shard.index) as file:
        file.write(index)
    content = {"shard": original_facts(record.shard), "bad": record.bad}
    with replacing((out / record.shard.index).with_suffix(".json")) as file:
        file.write(json.dumps(content).encode())


def write_bad(out: Path, records: Mapping[str, Record]) -> None:
    """Write a line for each image that was left out: where its tar file is, its name and the reason."""
    content = list_of_images((place, *image) for place, record in records.items() for image in record.bad)
    if content or not is_absent(out / BAD_NAME):
        with replacing(out / BAD_NAME) as file:
            file.write(content)


def _read_bad(out: Path) -> dict[str, list[BadImage]]:
    """The lines that `write_bad` wrote; a list that was edited may have others."""
    if is_absent(out / BAD_NAME):
        return {}
    found: dict[str, list[BadImage]] = {}
    for line in read_regular(out / BAD_NAME, MOST_BYTES, out).decode("utf-8", "replace").splitlines():
        place, *image = line.split("\t")
        if len(image) == 2:
            found.setdefault(place, []).append(BadImage(*image))
    return found


def clean(out: Path, shards: Sequence[Shard]) -> None:
    """Remove what only an unfinished index of these tar files has, and indexes that are no longer used."""
    used = {shard.index for shard in shards}
    without_images = {str(Path(shard.index).with_suffix(".json")) for shard in shards if not shard.count}
    with storage_errors(out):
        for path in sorted(out.iterdir()):
            is_old = INDEXES.fullmatch(path.name) and path.name not in used
            is_passing = PASSING.fullmatch(path.name) and path.name not in {FILE_NAME, *without_images}
            if is_old or is_passing:
                path.unlink(missing_ok=True)
        sync_directory(out)
