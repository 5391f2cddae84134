"""Writes a source to a directory of shards, which is either complete or recognisably incomplete.

The same plan always gives the same bytes, with any number of processes or machines, and after any number of kills.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pipeline.data.format.conversion import REDUCING_GAP
from pipeline.data.format.file_checks import check_sizes
from pipeline.data.format.manifest import FILE_NAME, Manifest, load_manifest
from pipeline.data.format.tar_writer import BLOCK
from pipeline.data.making.duplicates import drop_copies, find_copies, name_copies
from pipeline.data.making.plan import WHOLE, Part, Plan
from pipeline.data.making.shard_directory import (
    DUPLICATES_NAME,
    FINISHED_FILES,
    FRAMES_NAME,
    GAP,
    HALF_WRITTEN,
    LOCK_FILES,
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
from pipeline.data.making.shard_writer import Job, TooManyError, shard_path, too_many
from pipeline.data.making.worker import Task
from pipeline.data.making.workers import Workers, workers_for
from pipeline.data.sources.bad_images import BAD_NAME, BadImage, list_of_images
from pipeline.durable import replacing, storage_errors, sync_directory
from pipeline.errors import ConfigError, DataError, StorageError
from pipeline.foreign_text import printable
from pipeline.regular_files import is_absent, open_regular
from pipeline.wording import counted

TRIED_IMAGES = 16
TRIED_TOGETHER = 32
MOST_TRIED, SECONDS_TO_COUNT = 100_000, 10.0
"""How many images are tried, and how long, to say how many cannot be used after the first that cannot."""
WITHOUT_HARD_LINKS = {
    errno.EXDEV,
    errno.EPERM,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.EMLINK,
    errno.ENOSYS,
    errno.EINVAL,
}


def find_finished(out: Path, plan: Plan) -> Manifest | None:
    """Return the manifest in `out` if it is the finished set of this plan; None if `out` has no manifest.

    Raises ConfigError if `out` holds a damaged or a different set, or other files.
    """
    refuse_other_files(out)
    if is_absent(out / FILE_NAME):
        return None
    try:
        manifest = load_manifest(out)
        check_sizes(out, manifest)
    except DataError as error:
        raise ConfigError(f"{out} holds damaged shards: {error} {REMEDY}") from None
    refuse_difference(out, manifest.plan, plan.facts)
    return manifest


def make_shards(
    plan: Plan,
    out: Path,
    *,
    workers: int | None = None,
    part: Part = WHOLE,
    skip_bad: int = 0,
    overwrite: bool = False,
) -> Manifest | None:
    """Write one part of the plan's shards, by default all, to `out`.

    Returns the manifest, or None if this is one of several parts. A finished set of the same plan is left as it is,
    an unfinished one is resumed, and `overwrite` starts from the beginning. Up to `skip_bad` images that cannot be
    used are left out and listed in bad-images.txt. `workers` is the number of processes: a decoder that crashes or
    hangs ends one of them, and its image is one that cannot be used. With None, all is done in this process, which
    such a decoder would end. Finished shards are kept if writing fails. Raises ConfigError if
    `out` cannot be used, DataError if an image cannot be used, StorageError if the disk is full or not writable,
    and RunLockedError if another process is writing to `out`.
    """
    if overwrite and not part.is_whole:
        raise ConfigError(
            "--overwrite with --part would remove the finished shards of the other parts. Remove the directory by hand."
        )
    if not overwrite and (finished := find_finished(out, plan)):
        remove(out, PASSING_FILES, LOCK_FILES)
        return finished
    if overwrite:
        refuse_other_files(out)
    job = Job(plan, out, skip_bad)
    try:
        with workers_for(job, workers) as hands:
            _check_space(job, part, hands)
            with locked(out, is_shared=not part.is_whole) as lock:
                if overwrite:
                    remove(out, FINISHED_FILES, PASSING_FILES)
                if part.is_whole:
                    remove(out, HALF_WRITTEN)
                agree_on_plan(out, {**plan.facts, GAP: REDUCING_GAP})
                _write_part(job, part, hands)
                lock.check()
                return _finish(out, plan.facts) if part.is_whole else None
    except TooManyError as error:
        raise DataError(f"{error} {_count_bad(job, part, workers)}") from None


def _write_part(job: Job, part: Part, workers: Workers) -> None:
    plan, out, skip_bad = job.plan, job.out, job.skip_bad
    bad: list[BadImage] = []
    missing = _missing(plan, out, part)
    total, left = _count(plan, part.shards(plan)), _count(plan, missing)
    with tqdm(
        total=total, initial=total - left, unit="image", desc=printable(plan.source.name), disable=None
    ) as bar:
        for record in workers.run([Task(number) for number in missing], bar.update):
            bad += record.bad
            if len(bad) > skip_bad:
                break
    if len(bad) > skip_bad:
        raise too_many(plan.source.name, bad, skip_bad)


def _count_bad(job: Job, part: Part, workers: int | None) -> str:
    """Say how many images of this part cannot be used: of all, or of those that there is time for."""
    plan = job.plan
    places = list(islice(chain.from_iterable(map(plan.places, part.shards(plan))), MOST_TRIED))
    tasks = [
        Task(None, tuple(places[at : at + TRIED_TOGETHER])) for at in range(0, len(places), TRIED_TOGETHER)
    ]
    tried, bad, end = 0, list[BadImage](), time.monotonic() + SECONDS_TO_COUNT
    # One that crashes its worker ends the count.
    with workers_for(job, workers) as hands, suppress(TooManyError):
        for found in hands.run(tasks, lambda images: None):
            tried += len(found.sizes) + len(found.bad)
            bad += found.bad
            if time.monotonic() > end:
                break
    some = ", ".join(image.name for image in sorted(bad)[:3])
    which = f", for example {some}" if some else ""
    total = _count(plan, part.shards(plan))
    if tried < total:
        return f"Of the {counted(total, 'image')}, {tried:,} were tried: {len(bad):,} cannot be used{which}."
    return f"Of the {counted(total, 'image')}, {len(bad):,} cannot be used{which}."


def _missing(plan: Plan, out: Path, part: Part) -> list[int]:
    """The shards of this part that must be made, and those with images left out, which may be repaired by now."""
    records = ((number, find_record(out, number)) for number in part.shards(plan))
    return [number for number, record in records if record is None or record.bad]


def _count(plan: Plan, shards: Iterable[int]) -> int:
    return sum(len(plan.places(number)) for number in shards)


def merge_parts(out: Path, others: list[Path]) -> Manifest:
    """Combine parts of one plan, made in `out` or in the directories `others`, to a finished set in `out`.

    Shards of `others` are hard-linked into `out`, or copied if it is on another disk; `others` do not change.
    Raises DataError if shards are missing, and ConfigError if the parts follow different plans.
    """
    refuse_other_files(out)
    if not is_absent(out / FILE_NAME):
        raise ConfigError(
            f"{out} is already a finished set, so there is nothing to merge. Give another directory to merge into."
        )
    places = [out, *others] if not is_absent(out / PLAN_NAME) else others
    if not places:
        raise DataError(
            f"{out} holds no parts of a set: it has no {PLAN_NAME}. Make them with `wgan shards make --part I/N`."
        )
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
            # Here too the record comes last.
            for suffix in (".tar", ".npy", ".json") if record.shard else (".json",):
                _link_or_copy(path.with_suffix(suffix), out)


def _link_or_copy(path: Path, out: Path) -> None:
    target = out / path.name
    with storage_errors(target):
        target.unlink(missing_ok=True)
        # In another directory, a copy of a link would lead to another file.
        if path.is_symlink() or not _is_linked(path, target):
            with replacing(target, is_shared=True) as copy, open_regular(path, within=path.parent) as file:
                shutil.copyfileobj(file, copy, 1 << 22)


def _is_linked(path: Path, target: Path) -> bool:
    """Make `target` a second name of the file. Returns False if that is not possible between these places."""
    try:
        os.link(path, target)
    except OSError as error:
        if error.errno not in WITHOUT_HARD_LINKS:
            raise
        return False
    sync_directory(target.parent)
    return True


def _finish(out: Path, facts: Mapping[str, Any]) -> Manifest:
    """Write the manifest from the records, and remove the files that only unfinished sets have."""
    found = [find_record(out, number) for number in range(facts["shards"])]
    missing = [number for number, record in enumerate(found) if record is None]
    if missing:
        names = ", ".join(f"{number:06d}" for number in missing[:8]) + (" …" if len(missing) > 8 else "")
        raise DataError(
            f"{out} is not complete: {len(missing)} of {counted(len(found), 'shard')} are missing: {names}. Make "
            "the parts that they belong to, or name the directories that hold them."
        )
    records = [record for record in found if record is not None]
    shape = (facts["height"], facts["width"], facts["channels"])
    copies = find_copies(out, records, shape, facts["encoding"])
    named = name_copies(records, copies)
    if facts.get("drop_duplicates"):
        records = drop_copies(out, records, copies)
    shards = tuple(record.shard for record in records if record.shard)
    bad = [image for record in records for image in record.bad]
    if not shards:
        raise DataError(
            f"{facts['source']}: no image can be used, for example {bad[0].name}: {bad[0].reason}. Give another source."
        )
    manifest = Manifest(
        source=facts["source"],
        resolution=(facts["height"], facts["width"]),
        channels=facts["channels"],
        classes=tuple(facts["classes"]),
        encoding=facts["encoding"],
        shards=shards,
        plan={name: fact for name, fact in facts.items() if name != GAP},
    )
    _write_list(out / BAD_NAME, bad)
    _write_list(out / DUPLICATES_NAME, named)
    _write_list(out / FRAMES_NAME, sorted((name,) for record in records for name in record.first_frames))
    with replacing(out / FILE_NAME, is_shared=True) as file:
        file.write(manifest.to_json().encode())
    remove(out, PASSING_FILES, LOCK_FILES)
    return manifest


def _write_list(path: Path, rows: Iterable[tuple[str, ...]]) -> None:
    """Write one line per image, with tabs between its columns; no file if there are none."""
    if content := list_of_images(rows):
        with replacing(path, is_shared=True) as file:
            file.write(content)


def _check_space(job: Job, part: Part, workers: Workers) -> None:
    """Raise StorageError if the disk is too small for the shards, estimated from a few images of the set."""
    plan, out = job.plan, job.out
    count = _count(plan, _missing(plan, out, part))
    if count == 0:
        return
    tried = np.linspace(0, plan.count - 1, min(TRIED_IMAGES, plan.count)).astype(int).tolist()
    (found,) = workers.run([Task(None, tuple(tried))], lambda images: None)
    sizes = found.sizes
    # Each member of a tar file has a header and is padded to whole blocks.
    needed = int(count * ((max(sizes) + np.mean(sizes)) / 2 + 4 * BLOCK)) if sizes else 0
    with storage_errors(out):
        place = next(place for place in (out, *out.absolute().parents) if place.exists())
        free = shutil.disk_usage(place).free
    if needed > free:
        raise StorageError(
            f"{out} has {free / 1e9:.2f} GB of free space, but {counted(count, 'image')} will need about "
            f"{needed / 1e9:.2f} GB. Free some space, or give another directory."
        )
