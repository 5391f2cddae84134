"""A directory in which shards are made: whose it is, what it is to hold, and what is finished.

    .making            a lock, held while shards are made or merged
    .plan.json         what will be there; all that work in the directory agree on it
    000000.tar .npy    a shard and its index; once both are on disk,
    000000.json        their record
    manifest.json      made of the records, which then go, as do the plan and the lock file

Every file gets its name when all of it is on disk. So a directory with a manifest is whole, whenever the
power went, and one without goes on from the shards that have a record.
"""

from __future__ import annotations

import errno
import fcntl
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pipeline.data.format.manifest import FILE_NAME, load_manifest
from pipeline.data.making.shard_writer import Record, shard_path
from pipeline.durable import replacing, storage_errors, sync_directory
from pipeline.errors import ConfigError, DataError, RunLockedError, StorageError

LOCK_NAME = ".making"
PLAN_NAME = ".plan.json"
BAD_NAME = "bad-images.txt"
FINISHED_FILES = re.compile(rf"\d{{6}}\.(tar|npy)|{re.escape(FILE_NAME)}|{re.escape(BAD_NAME)}")
RECORDS = re.compile(r"\d{6}\.json")
HALF_WRITTEN = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
PASSING_FILES = re.compile(rf"{RECORDS.pattern}|\.making|\.plan\.json|{HALF_WRITTEN.pattern}")
REMEDY = "Replace it with --overwrite, or give another directory."


@contextmanager
def locked(out: Path, is_shared: bool) -> Iterator[None]:
    """Hold the directory's lock. Parts share it; a whole set, a merge and --overwrite have it alone.

    The lock file outlives a killed process, the lock on it does not. It stays where the body fails, for tar
    files without it or a manifest count as someone else's.
    """
    path = out / LOCK_NAME
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        file = path.open("ab+")
    with file:
        _lock(file, out, fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX)
        yield


def _lock(file: IO[bytes], out: Path, kind: int) -> None:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunLockedError(
            f"Another process is making shards in {out}. Wait for it, or give another directory."
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):  # disks that know no locks
            raise StorageError(f"{out / LOCK_NAME} cannot be locked: {error.strerror}.") from None


def refuse_other_files(out: Path) -> None:
    """Raise ConfigError unless `out` is free: absent, empty, or holding only what `wgan shards make` wrote."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ConfigError(f"{out} is a file. Give a directory for the shards.")
    names = sorted(_list_names(out))
    other = [name for name in names if not (FINISHED_FILES.fullmatch(name) or PASSING_FILES.fullmatch(name))]
    # Tar files of these names are common: without a manifest or the lock file they are someone else's.
    if not other and FILE_NAME not in names and LOCK_NAME not in names:
        other = names
    if FILE_NAME in names and _is_taken_in(out):
        raise ConfigError(
            f"{out} holds shards that `wgan shards index` took in as they were, and they are left alone. Give another "
            "directory."
        )
    if other:
        raise ConfigError(
            f"{out} holds files that are not of a shard set, {other[0]} for one, and they are left alone. "
            "Give another directory."
        )


def _is_taken_in(out: Path) -> bool:
    """Whether a manifest is of tar files that were not made here, and so are not to be replaced."""
    try:
        return not load_manifest(out).plan
    except DataError:
        return False  # damaged, or of another version of this program


def _list_names(out: Path) -> list[str]:
    with storage_errors(out):
        return [entry.name for entry in out.iterdir()]


def remove(out: Path, *kinds: re.Pattern[str], but: str = "") -> None:
    """Remove files of these kinds: the manifest first, so that a set never looks whole while it is not."""
    with storage_errors(out):
        names = sorted(_list_names(out), key=lambda name: (name != FILE_NAME, name == LOCK_NAME))
        for name in names:
            if name != but and any(kind.fullmatch(name) for kind in kinds):
                (out / name).unlink(missing_ok=True)
        sync_directory(out)


def agree_on_plan(out: Path, facts: Mapping[str, Any]) -> None:
    """Write the plan down, or raise ConfigError where what is being made there follows another."""
    if (out / PLAN_NAME).exists():
        refuse_difference(out, read_plan(out), facts)
        return
    if any(RECORDS.fullmatch(name) for name in _list_names(out)):
        raise ConfigError(f"{out} holds unfinished shards of an unknown plan. {REMEDY}")
    with replacing(out / PLAN_NAME, is_shared=True) as file:
        file.write(json.dumps(facts, indent=1).encode())


def read_plan(out: Path) -> dict[str, Any]:
    """The facts of the plan that is followed there. Raises DataError where there is none."""
    try:
        return dict(json.loads((out / PLAN_NAME).read_text()))
    except FileNotFoundError:
        raise DataError(
            f"{out} holds no parts of a set: no {PLAN_NAME}. Make one with `wgan shards make --part`."
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{out / PLAN_NAME} cannot be read ({error}). {REMEDY}") from None


def refuse_difference(out: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raise ConfigError, naming what differs, unless the facts of both plans are equal."""
    differing = [name for name in ours if theirs.get(name) != ours[name]]
    if not differing:
        return
    shown = [name for name in differing if name not in ("listing", "shards")] or ["listing"]
    what = "; ".join(
        "other images or labels under the same name"
        if name == "listing"
        else f"{name} is {_short(theirs.get(name))} there, not {_short(ours[name])}"
        for name in shown
    )
    raise ConfigError(f"{out} already holds other shards: {what}. {REMEDY}")


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def find_record(out: Path, number: int) -> Record | None:
    """The record of a shard that is on disk, whole; None where it is to be made."""
    path = shard_path(out, number)
    try:
        record = Record.from_json(path.with_suffix(".json").read_text())
    except (OSError, ValueError, KeyError, TypeError):
        return None  # none, or a damaged one: whatever it is, the shard is made again
    shard = record.shard
    if shard is None:
        return record
    is_whole = path.is_file() and path.stat().st_size == shard.bytes and path.with_suffix(".npy").is_file()
    return record if is_whole else None
