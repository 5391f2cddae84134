"""A source to a directory of shards, complete or visibly not.

Equal plans give equal bytes, however many processes or machines share the work, and however often it was killed.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pipeline.data.format.manifest import FILE_NAME, Manifest, check_sizes, load_manifest
from pipeline.data.format.tar_writer import BLOCK
from pipeline.data.making.convert import convert
from pipeline.data.making.plan import WHOLE, Part, Plan
from pipeline.data.making.shard_directory import (
    BAD_NAME,
    FINISHED_FILES,
    HALF_WRITTEN,
    LOCK_NAME,
    PASSING_FILES,
    PLAN_NAME,
    REMEDY,
    agree_on_plan,
    find_record,
    locked,
    read_plan,
    refuse_difference,
    refuse_other_files,
    remove,
)
from pipeline.data.making.shard_writer import BadImage, shard_path, too_many
from pipeline.data.making.workers import Job, write_shards
from pipeline.durable import replacing, storage_errors, sync_directory
from pipeline.errors import ConfigError, DataError, StorageError

TRIED_IMAGES = 16


def find_finished(out: Path, plan: Plan) -> Manifest | None:
    """Return the manifest of a finished set at `out` that `plan` would make again; None if none is there.

    Raises ConfigError where `out` holds a damaged or a different set, or files of another kind.
    """
    refuse_other_files(out)
    if not (out / FILE_NAME).exists():
        return None
    try:
        manifest = load_manifest(out)
        check_sizes(out, manifest)
    except DataError as error:
        raise ConfigError(f"{out} holds a damaged set of shards. {error} {REMEDY}") from None
    refuse_difference(out, manifest.plan, plan.facts)
    return manifest


def make_shards(
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
        remove(out, PASSING_FILES)
        return finished
    if overwrite:
        refuse_other_files(out)
    _check_space(plan, out, part)
    with locked(out, is_shared=not part.is_whole):
        if overwrite:
            remove(out, FINISHED_FILES, PASSING_FILES, but=LOCK_NAME)
        if part.is_whole:
            remove(out, HALF_WRITTEN)
        agree_on_plan(out, plan.facts)
        _write_part(plan, out, workers, part, skip_bad)
        return _finish(out, plan.facts) if part.is_whole else None


def _write_part(plan: Plan, out: Path, workers: int, part: Part, skip_bad: int) -> None:
    bad: list[BadImage] = []
    missing = _missing(plan, out, part)
    total, left = _count(plan, part.shards(plan)), _count(plan, missing)
    with tqdm(total=total, initial=total - left, unit="image", desc=plan.source.name, disable=None) as bar:
        job = Job(plan, out, skip_bad)
        for record in write_shards(job, missing, workers, bar.update):
            bad += record.bad
            if len(bad) > skip_bad:
                break
    if len(bad) > skip_bad:
        raise too_many(plan.source.name, bad, skip_bad)


def _missing(plan: Plan, out: Path, part: Part) -> list[int]:
    """The part's shards that are to be made; also those that left out images, which may have been replaced."""
    records = ((number, find_record(out, number)) for number in part.shards(plan))
    return [number for number, record in records if record is None or record.bad]


def _count(plan: Plan, shards: Iterable[int]) -> int:
    return sum(len(plan.places(number)) for number in shards)


def merge_parts(out: Path, others: list[Path]) -> Manifest:
    """Make a finished set of parts that were made in `out`, or in other directories of the same plan.

    Shards of `others` are linked into `out`, or copied where that is another disk; `others` stay as they are.
    Raises DataError where shards are missing, ConfigError where the parts are of different plans.
    """
    refuse_other_files(out)
    if (out / FILE_NAME).exists():
        raise ConfigError(f"{out} is a finished set already: there is nothing to merge.")
    places = [out, *others] if (out / PLAN_NAME).exists() else others
    if not places:
        raise DataError(f"{out} holds no parts: no {PLAN_NAME}. Make some with `wgan shards make --part`.")
    facts = read_plan(places[0])
    for place in places[1:]:
        refuse_difference(place, read_plan(place), facts)
    with locked(out, is_shared=False):
        agree_on_plan(out, facts)
        for other in others:
            _take_shards(out, other, int(facts["shards"]))
        return _finish(out, facts)


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
            with replacing(target, is_shared=True) as copy, path.open("rb") as file:
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
        with replacing(out / BAD_NAME, is_shared=True) as file:
            file.write(
                "".join(f"{key}\t{reason}\n" for key, reason in bad).encode("utf-8", "backslashreplace")
            )
    with replacing(out / FILE_NAME, is_shared=True) as file:
        file.write(manifest.to_json().encode())
    remove(out, PASSING_FILES)
    return manifest


def _check_space(plan: Plan, out: Path, part: Part) -> None:
    """Raise StorageError where the shards will not fit, going by some images spread over the set."""
    count = _count(plan, _missing(plan, out, part))
    if count == 0:
        return
    sizes = []
    for place in np.linspace(0, plan.count - 1, min(TRIED_IMAGES, plan.count)).astype(int).tolist():
        with suppress(DataError):  # met again, and told, when its turn comes
            sizes.append(len(convert(plan.source.read(int(plan.chosen.positions[place])), plan.conversion)))
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
