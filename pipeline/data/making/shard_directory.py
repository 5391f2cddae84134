"""A directory in which shards are made: who uses it, what it will hold, and what is finished.

    .making            a lock, held while shards are made or merged
    .plan.json         what the finished set will hold; all processes that write here must have the same plan
    000000.tar .npy    a shard and its index
    000000.json        their record, written when both are on disk
    manifest.json      written last from the records; then the records, the plan and the lock file are removed

Each file gets its final name only when all of it is on disk. So a directory with a manifest is complete even
after a power failure, and a directory without one can be finished from the shards that have a record.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from pipeline.data.format.codecs import Encoding
from pipeline.data.format.manifest import FILE_NAME, load_manifest
from pipeline.data.making.plan import MAX_SHARDS
from pipeline.data.making.shard_writer import Record, shard_path
from pipeline.data.sources.bad_images import BAD_NAME
from pipeline.data.sources.members import unreadable
from pipeline.documents import Document, parse_json
from pipeline.durable import replacing, storage_errors, sync_directory
from pipeline.errors import ConfigError, DataError, RunLockedError
from pipeline.file_lock import LEASE_NAME, FileLock, HeldError
from pipeline.option_types import MAX_SIDE
from pipeline.regular_files import is_absent, read_regular, regular_size
from pipeline.wording import counted

LOCK_NAME = ".making"
PLAN_NAME = ".plan.json"
DUPLICATES_NAME = "duplicates.txt"
FRAMES_NAME = "first-frames.txt"
MOST_PLAN_BYTES, MOST_LIST_BYTES = 1 << 28, 1 << 32
FINISHED_FILES = re.compile(
    rf"\d{{6}}\.(tar|npy)|{'|'.join(map(re.escape, (FILE_NAME, BAD_NAME, DUPLICATES_NAME, FRAMES_NAME)))}"
)
RECORDS = re.compile(r"\d{6}\.json")
HALF_WRITTEN = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
PASSING_FILES = re.compile(rf"{RECORDS.pattern}|\.plan\.json|{HALF_WRITTEN.pattern}")
LOCK_FILES = re.compile(rf"{re.escape(LOCK_NAME)}({LEASE_NAME})?")
GAP = "reducing_gap"
"""A fact that only plans of unfinished sets have: shards of two ways of decoding must not be mixed. Not of manifests,
whose sets are complete, whatever the way, and keep their identity"""
REMEDY = "Replace them with --overwrite, or give another directory."


@contextmanager
def locked(out: Path, is_shared: bool) -> Iterator[FileLock]:
    """Hold the directory's lock: shared for parts, exclusive for a whole set, a merge and --overwrite.

    If a process is killed, its lock ends but the lock file remains. The file also remains if the body fails: tar
    files in a directory with neither a lock file nor a manifest are treated as someone else's.
    """
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK_NAME, is_shared)
    with ExitStack() as stack:
        try:
            stack.enter_context(lock)
        except HeldError:
            raise RunLockedError(
                f"Another process is making shards in {out}. Wait until it ends, or give another directory."
            ) from None
        yield lock


def refuse_other_files(out: Path) -> None:
    """Raise ConfigError unless `out` does not exist, is empty, or holds only what `wgan shards make` wrote."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ConfigError(f"{out} is a file, not a directory. Give a directory for the shards.")
    names = sorted(_list_names(out))
    ours = (FINISHED_FILES, PASSING_FILES, LOCK_FILES)
    other = [name for name in names if not any(kind.fullmatch(name) for kind in ours)]
    # Tar files with such names are common: without a manifest or a lock file they are someone else's.
    if not other and FILE_NAME not in names and LOCK_NAME not in names:
        other = names
    if FILE_NAME in names and _is_taken_in(out):
        raise ConfigError(
            f"{out} holds shards that `wgan shards index` indexed in place, so they are not replaced. Give another "
            "directory."
        )
    if other:
        raise ConfigError(
            f"{out} is not a shard directory: it holds {counted(len(other), 'other file')}, for example {other[0]}. "
            "Give another directory, so that nothing of yours is overwritten."
        )


def _is_taken_in(out: Path) -> bool:
    """Whether the manifest lists tar files of another program, which must not be replaced."""
    try:
        return not load_manifest(out).plan
    except DataError:
        return False  # damaged, or of another version of this program


def _list_names(out: Path) -> list[str]:
    with storage_errors(out):
        return [entry.name for entry in out.iterdir()]


def remove(out: Path, *kinds: re.Pattern[str]) -> None:
    """Remove files of these kinds, the manifest first, so that an incomplete set never looks complete."""
    with storage_errors(out):
        names = sorted(_list_names(out), key=lambda name: (name != FILE_NAME, name == LOCK_NAME))
        for name in names:
            if any(kind.fullmatch(name) for kind in kinds):
                (out / name).unlink(missing_ok=True)
        sync_directory(out)


def agree_on_plan(out: Path, facts: dict[str, Any]) -> None:
    """Save the plan, or raise ConfigError if the shards that are being made here follow another plan.

    `facts` are those of the plan, and `GAP`; plans of versions that decoded all JPEGs at their full size lack it.
    """
    if not is_absent(out / PLAN_NAME):
        refuse_difference(out, read_plan(out), facts)
        return
    if any(RECORDS.fullmatch(name) for name in _list_names(out)):
        raise ConfigError(
            f"{out} holds unfinished shards, but the plan that they were made by is missing. {REMEDY}"
        )
    with replacing(out / PLAN_NAME, is_shared=True) as file:
        file.write(json.dumps(facts, indent=1).encode())


class _Plan(Document):
    """The facts of a plan by which a set is made; the others are only compared."""

    model_config = ConfigDict(extra="allow")

    source: str
    classes: list[str]
    height: int = Field(ge=1, le=MAX_SIDE)
    width: int = Field(ge=1, le=MAX_SIDE)
    channels: Literal[1, 3, 4]
    encoding: Encoding
    shards: int = Field(ge=1, le=MAX_SHARDS)


def read_plan(out: Path) -> dict[str, Any]:
    """The facts of the plan that the shards in this directory follow. Raises DataError if there is none."""
    try:
        text = read_regular(out / PLAN_NAME, MOST_PLAN_BYTES, out)
        parse_json(text, _Plan)
        facts: dict[str, Any] = json.loads(text)  # in their order, which is a part of the manifest
        return facts
    except FileNotFoundError:
        raise DataError(
            f"{out} holds no parts of a set: it has no {PLAN_NAME}. Make them with `wgan shards make --part I/N`."
        ) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{out / PLAN_NAME} cannot be read ({why}). {REMEDY}") from None


def refuse_difference(out: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Raise ConfigError, naming each difference, unless the facts of both plans are equal."""
    differing = [name for name in ours | theirs if theirs.get(name) != ours.get(name)]
    if not differing:
        return
    shown = [name for name in differing if name not in ("listing", "shards")] or ["listing"]
    what = "; ".join(_DIFFERENCES.get(name) or _difference(name, theirs, ours) for name in shown)
    raise ConfigError(f"{out} already holds different shards: {what}. {REMEDY}")


_DIFFERENCES = {
    "listing": "other images or labels under the same name",
    GAP: "another version began them, which decodes large JPEGs in another way and can finish them",
}


def _difference(name: str, theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    return f"their {name} is {_short(theirs.get(name))}, not {_short(ours.get(name))}"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def find_record(out: Path, number: int) -> Record | None:
    """The record of a shard that is complete on disk; None if the shard must be made."""
    path = shard_path(out, number)
    try:
        record = Record.from_json(read_regular(path.with_suffix(".json"), MOST_LIST_BYTES, out))
        shard = record.shard
        if shard is None:
            return record
        files = (path.name, path.with_suffix(".npy").name)
        is_whole = (
            (shard.name, shard.index) == files
            and len(record.names) == len(record.marks) == shard.count
            and regular_size(out / shard.name, out) == shard.bytes
            and regular_size(out / shard.index, out) > 0
        )
    except (OSError, ValueError):
        return None  # missing or damaged: the shard is made again
    return record if is_whole else None


def count_lines(path: Path) -> int:
    """The number of lines in a list of images that was written here; 0 if there is none. Raises DataError."""
    try:
        return read_regular(path, MOST_LIST_BYTES).count(b"\n")
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise unreadable(path, error) from None
