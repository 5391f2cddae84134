"""A source to a directory of shards, complete or visibly not.

    .making            a lock, held while shards are made or merged
    .plan.json         what will be there; all that work in the directory agree on it
    000000.tar .npy    a shard and its index; once both are on disk,
    000000.json        their record
    manifest.json      made of the records, which then go, as do the plan and the lock file

Every file gets its name when all of it is on disk. So a directory with a manifest is whole, whenever the
power went, and one without goes on from the shards that have a record when the same command is run again.
Equal plans give equal bytes, however many processes or machines share the work.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from pipeline.data.convert import convert
from pipeline.data.manifest import FILE_NAME, Manifest, check_sizes, load_manifest
from pipeline.data.plan import WHOLE, Part, Plan
from pipeline.data.shard_writer import BadImage, Record, shard_path, too_many
from pipeline.data.sources import Source
from pipeline.data.tar_writer import BLOCK
from pipeline.data.workers import Job, write_shards
from pipeline.durable import replacing, storage_errors, sync_directory
from pipeline.errors import ConfigError, DataError, RunLockedError, StorageError

LOCK_NAME = ".making"
PLAN_NAME = ".plan.json"
BAD_NAME = "bad-images.txt"
FINISHED_FILES = re.compile(rf"\d{{6}}\.(tar|npy)|{re.escape(FILE_NAME)}|{re.escape(BAD_NAME)}")
RECORDS = re.compile(r"\d{6}\.json")
PASSING_FILES = re.compile(rf"{RECORDS.pattern}|\.making|\.plan\.json|\..+\.[0-9a-f]{{8}}\.tmp")
REMEDY = "Replace it with --overwrite, or give another directory."
TRIED_IMAGES = 16


def find_finished(out: Path, plan: Plan) -> Manifest | None:
    """Return the manifest of a finished set at `out` that `plan` would make again; None if none is there.

    Raises ConfigError where `out` holds a damaged or a different set, or files of another kind.
    """
    _refuse_other_files(out)
    if not (out / FILE_NAME).exists():
        return None
    try:
        manifest = load_manifest(out)
        check_sizes(out, manifest)
    except DataError as error:
        raise ConfigError(f"{out} holds a damaged set of shards. {error} {REMEDY}") from None
    _refuse_difference(out, manifest.plan, plan.facts)
    return manifest


def make_shards(
    source: Source,
    plan: Plan,
    out: Path,
    *,
    workers: int = 1,
    part: Part = WHOLE,
    skip_bad: int = 0,
    overwrite: bool = False,
) -> Manifest | None:
    """Write a part of the plan's shards to `out`; return the manifest, or None where other parts are to come.

    A finished set of the same plan is left as it is, and an unfinished one is gone on with; `overwrite`
    begins anew. Up to `skip_bad` images that cannot be used are left out and listed in bad-images.txt.
    What is finished stays when writing fails. Raises ConfigError where `out` cannot be used, DataError where
    images cannot, StorageError where the disk is full or not writable, RunLockedError where another process is
    writing there.
    """
    if overwrite and not part.is_whole:
        raise ConfigError(
            "--overwrite would remove what other parts have made. Remove the directory by hand."
        )
    if not overwrite and (finished := find_finished(out, plan)):
        _remove(out, PASSING_FILES)
        return finished
    if overwrite:
        _refuse_other_files(out)
    _check_space(source, plan, out, part)
    with _locked(out, is_shared=not part.is_whole):
        if overwrite:
            _remove(out, FINISHED_FILES, PASSING_FILES, but=LOCK_NAME)
        _agree_on_plan(out, plan.facts)
        _write_part(source, plan, out, workers, part, skip_bad)
        return _finish(out, plan.facts) if part.is_whole else None


def _write_part(source: Source, plan: Plan, out: Path, workers: int, part: Part, skip_bad: int) -> None:
    bad: list[BadImage] = []
    missing = []
    total = sum(len(plan.places(number)) for number in part.shards(plan))
    with tqdm(total=total, unit="image", desc=source.name, disable=None) as bar:
        for number in part.shards(plan):
            if record := find_record(out, number):
                bad += record.bad
                bar.update(len(plan.places(number)))
            else:
                missing.append(number)
        job = Job(source, plan, out, skip_bad)
        for record in write_shards(job, missing, workers, bar.update):
            bad += record.bad
            if len(bad) > skip_bad:
                break
    if len(bad) > skip_bad:
        raise too_many(source.name, bad, skip_bad)


def find_record(out: Path, number: int) -> Record | None:
    """The record of a shard that is on disk, whole; None where it is to be made."""
    path = shard_path(out, number)
    try:
        record = Record.from_json(path.with_suffix(".json").read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # whatever it is, the shard is made again
    shard = record.shard
    if shard is None:
        return record
    is_whole = path.is_file() and path.stat().st_size == shard.bytes and path.with_suffix(".npy").is_file()
    return record if is_whole else None


def merge_parts(out: Path, others: list[Path]) -> Manifest:
    """Make a finished set of parts that were made in `out`, or in other directories of the same plan.

    Shards of `others` are linked into `out`, or copied where that is another disk; `others` stay as they are.
    Raises DataError where shards are missing, ConfigError where the parts are of different plans.
    """
    if (out / FILE_NAME).exists():
        raise ConfigError(f"{out} is a finished set already: there is nothing to merge.")
    facts = [_read_plan(place) for place in (out, *others) if place != out or (out / PLAN_NAME).exists()]
    if not facts:
        raise DataError(f"{out} holds no parts: no {PLAN_NAME}. Make some with `wgan shards make --part`.")
    for place, theirs in zip(others, facts[-len(others) :] if others else [], strict=True):
        _refuse_difference(place, theirs, facts[0])
    with _locked(out, is_shared=False):
        _agree_on_plan(out, facts[0])
        for other in others:
            _take_shards(out, other, int(facts[0]["shards"]))
        return _finish(out, facts[0])


def _take_shards(out: Path, other: Path, count: int) -> None:
    for number in range(count):
        if find_record(out, number) is None and (record := find_record(other, number)) is not None:
            path = shard_path(other, number)
            # The record comes last here as well.
            for suffix in (".tar", ".npy", ".json") if record.shard else (".json",):
                _link_or_copy(path.with_suffix(suffix), out)


def _link_or_copy(path: Path, out: Path) -> None:
    target = out / path.name
    with storage_errors(target):
        target.unlink(missing_ok=True)
        try:
            os.link(path, target)
            sync_directory(out)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                raise
            with replacing(target, f".{secrets.token_hex(4)}") as copy, path.open("rb") as file:
                shutil.copyfileobj(file, copy, 1 << 22)


def _finish(out: Path, facts: Mapping[str, Any]) -> Manifest:
    """Make a manifest of the records, and remove what was only needed on the way."""
    records = [find_record(out, number) for number in range(facts["shards"])]
    missing = [number for number, record in enumerate(records) if record is None]
    if missing:
        names = ", ".join(f"{number:06d}" for number in missing[:8]) + (" …" if len(missing) > 8 else "")
        raise DataError(
            f"{out} lacks {len(missing)} of {len(records)} shards: {names}. Make the parts that they belong to, or "
            "name the directories that have them."
        )
    shards = tuple(record.shard for record in records if record and record.shard)
    bad = [image for record in records if record for image in record.bad]
    if not shards:
        raise DataError(
            f"None of the {len(bad)} images of {facts['source']} can be used, so there is no set."
        )
    manifest = Manifest(
        source=facts["source"],
        resolution=(facts["height"], facts["width"]),
        channels=facts["channels"],
        classes=tuple(facts["classes"]),
        encoding=facts["encoding"],
        shards=shards,
        plan=dict(facts),
    )
    if bad:
        with replacing(out / BAD_NAME, f".{secrets.token_hex(4)}") as file:
            file.write(
                "".join(f"{key}\t{reason}\n" for key, reason in bad).encode("utf-8", "backslashreplace")
            )
    with replacing(out / FILE_NAME, f".{secrets.token_hex(4)}") as file:
        file.write(manifest.to_json().encode())
    _remove(out, PASSING_FILES)
    return manifest


def _agree_on_plan(out: Path, facts: Mapping[str, Any]) -> None:
    """Write the plan down, or raise ConfigError where what is being made there follows another."""
    if (out / PLAN_NAME).exists():
        _refuse_difference(out, _read_plan(out), facts)
        return
    if any(RECORDS.fullmatch(name) for name in _list_names(out)):
        raise ConfigError(f"{out} holds unfinished shards of an unknown plan. {REMEDY}")
    with replacing(out / PLAN_NAME, f".{secrets.token_hex(4)}") as file:
        file.write(json.dumps(facts, indent=1).encode())


def _read_plan(out: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((out / PLAN_NAME).read_text()))
    except FileNotFoundError:
        raise DataError(
            f"{out} holds no parts of a set: no {PLAN_NAME}. Make one with `wgan shards make --part`."
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{out / PLAN_NAME} cannot be read ({error}). {REMEDY}") from None


def _refuse_difference(out: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    differing = [name for name in ours if theirs.get(name) != ours[name]]
    if not differing:
        return
    if not theirs:
        raise ConfigError(f"{out} holds shards that `wgan shards index` took in, not made by it. {REMEDY}")
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


@contextmanager
def _locked(out: Path, is_shared: bool) -> Iterator[None]:
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


def _refuse_other_files(out: Path) -> None:
    """Raise ConfigError unless `out` is free: absent, empty, or holding only what this file wrote."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ConfigError(f"{out} is a file. Give a directory for the shards.")
    names = sorted(_list_names(out))
    other = [name for name in names if not (FINISHED_FILES.fullmatch(name) or PASSING_FILES.fullmatch(name))]
    # Tar files of these names are common: without a manifest or the lock file they are someone else's.
    if not other and FILE_NAME not in names and LOCK_NAME not in names:
        other = names
    if other:
        raise ConfigError(
            f"{out} holds files that are not of a shard set, {other[0]} for one, and they are left alone. "
            "Give another directory."
        )


def _list_names(out: Path) -> list[str]:
    with storage_errors(out):
        return [entry.name for entry in out.iterdir()]


def _remove(out: Path, *kinds: re.Pattern[str], but: str = "") -> None:
    """Remove files of these kinds: the manifest first, so that a set never looks whole while it is not."""
    with storage_errors(out):
        names = sorted(_list_names(out), key=lambda name: (name != FILE_NAME, name == LOCK_NAME))
        for name in names:
            if name != but and any(kind.fullmatch(name) for kind in kinds):
                (out / name).unlink(missing_ok=True)
        sync_directory(out)


def _check_space(source: Source, plan: Plan, out: Path, part: Part) -> None:
    """Raise StorageError where the shards will not fit, going by some images spread over the set."""
    count = sum(len(plan.places(number)) for number in part.shards(plan) if find_record(out, number) is None)
    if count == 0:
        return
    sizes = []
    for place in np.linspace(0, plan.count - 1, min(TRIED_IMAGES, plan.count)).astype(int).tolist():
        with suppress(DataError):  # met again, and told, when its turn comes
            sizes.append(len(convert(source.read(int(plan.chosen.positions[place])), plan.conversion)))
    # Each member has a header and is filled up to whole blocks.
    needed = int(count * ((max(sizes) + np.mean(sizes)) / 2 + 4 * BLOCK)) if sizes else 0
    with storage_errors(out):
        place = next(place for place in (out, *out.absolute().parents) if place.exists())
        free = shutil.disk_usage(place).free
    if needed > free:
        raise StorageError(
            f"{out} has {free / 1e9:.2f} GB free, but {count} images will need about {needed / 1e9:.2f} GB. "
            "Free some space, or give another directory."
        )
