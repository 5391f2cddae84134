"""A source to a directory of shards, complete or visibly not.

While a set is made, the directory holds a lock file, `.making`; each tar and index is written under a
temporary name, brought to disk and then renamed; the manifest comes last. So a directory with a
manifest is whole, whenever the power went; one with only the lock file is what a killed run left, and
the next run replaces it. Equal arguments give equal bytes.
"""

from __future__ import annotations

import errno
import fcntl
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
from tqdm import tqdm

from pipeline.data.convert import encode_png, to_array
from pipeline.data.manifest import FILE_NAME, Manifest, Shard, check_sizes, file_sha256, load_manifest
from pipeline.data.sources import Source
from pipeline.data.tar_index import TAR_BLOCK, index_shard
from pipeline.durable import replacing, storage_errors, sync_directory
from pipeline.errors import ConfigError, DataError, RunLockedError, StorageError

LOCK_NAME = ".making"
OUR_FILES = re.compile(r"\.?(\d{6}\.(tar|npy)|manifest\.json)(\.tmp)?|\.making")
MAX_RESOLUTION = 4096
MAX_SHARDS = 1_000_000


@dataclass(frozen=True)
class Plan:
    """What a finished directory would hold: enough to tell whether one is finished already."""

    source: str
    classes: tuple[str, ...]
    resolution: int
    channels: int
    counts: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many samples there are."""
        return sum(self.counts)

    @property
    def upper_bytes(self) -> int:
        """The most disk that the shards can need: pixels that do not compress at all."""
        image = self.resolution * (self.resolution * self.channels + 1)
        return self.count * (image + image // 1000 + 6 * TAR_BLOCK)


def plan_shards(source: Source, *, resolution: int, channels: int, samples_per_shard: int) -> Plan:
    """Check the arguments and divide the source into shards; the last one may be smaller.

    Raises ConfigError for values out of range, DataError for a source without samples.
    """
    if not 1 <= resolution <= MAX_RESOLUTION:
        raise ConfigError(f"The resolution {resolution} is outside 1 to {MAX_RESOLUTION} pixels.")
    if channels not in (1, 3):
        raise ConfigError(f"Images have 1 (grey) or 3 (colour) channels, not {channels}.")
    if samples_per_shard < 1:
        raise ConfigError(f"A shard holds at least 1 sample, not {samples_per_shard}.")
    if len(source) == 0:
        raise DataError(f"The source {source.name} has no images, so there is nothing to write.")
    full, rest = divmod(len(source), samples_per_shard)
    counts = (samples_per_shard,) * full + ((rest,) if rest else ())
    if len(counts) > MAX_SHARDS:
        raise ConfigError(
            f"{len(source)} images at {samples_per_shard} a shard make {len(counts)} shards, "
            f"over {MAX_SHARDS:,}. Put more samples into each."
        )
    return Plan(source.name, source.classes, resolution, channels, counts)


def find_finished(out: Path, plan: Plan) -> Manifest | None:
    """Return the manifest of a finished set at `out` that `plan` would make again; None if none is there.

    Raises ConfigError where `out` holds a damaged or a different set, or files of another kind.
    """
    _refuse_other_files(out)
    if not (out / FILE_NAME).exists():
        return None
    remedy = "Replace it with --overwrite, or give another directory."
    try:
        manifest = load_manifest(out)
        check_sizes(out, manifest)
    except DataError as error:
        raise ConfigError(f"{out} holds a damaged set of shards. {error} {remedy}") from None
    found = Plan(
        manifest.source,
        manifest.classes,
        manifest.resolution[0],
        manifest.channels,
        tuple(shard.count for shard in manifest.shards),
    )
    if found != plan:
        raise ConfigError(
            f"{out} already holds other shards: {_describe(found)}, not {_describe(plan)}. {remedy}"
        )
    return manifest


def make_shards(
    source: Source,
    out: Path,
    *,
    resolution: int,
    channels: int,
    samples_per_shard: int = 4096,
    overwrite: bool = False,
) -> Manifest:
    """Write `source` to `out` as webdataset shards of resolution x resolution images; return the manifest.

    A finished set of the same plan is left as it is; `overwrite` replaces any set. When writing fails,
    what was written is removed. Raises ConfigError where `out` cannot be used, DataError where the
    source cannot be read, StorageError where the disk is full or not writable, RunLockedError where
    another process is writing there.
    """
    plan = plan_shards(source, resolution=resolution, channels=channels, samples_per_shard=samples_per_shard)
    if overwrite:
        _refuse_other_files(out)
    elif finished := find_finished(out, plan):
        return finished
    _check_space(out, plan)
    with _locked(out):
        _remove_ours(out)
        shards = tuple(_write_all(source, out, plan))
        manifest = Manifest(plan.source, (resolution, resolution), channels, plan.classes, "png", shards)
        with replacing(out / FILE_NAME) as file:
            file.write(manifest.to_json().encode())
    return manifest


def _write_all(source: Source, out: Path, plan: Plan) -> Iterator[Shard]:
    with tqdm(total=plan.count, unit="image", desc=plan.source, disable=None) as bar:
        members = _encode(source, plan)
        first = 0
        for number, count in enumerate(plan.counts):
            path = out / f"{number:06d}.tar"
            _write_tar(path, islice(members, count), first, bar.update)
            yield _index_and_describe(path, count)
            first += count
        if next(members, None) is not None:
            raise DataError(f"{source.name} says that it has {plan.count} images, but gives more.")


def _encode(source: Source, plan: Plan) -> Iterator[dict[str, bytes]]:
    """The files of each sample, by extension."""
    try:
        for sample in source:
            pixels = to_array(sample.image, plan.resolution, plan.channels)
            files = {"png": encode_png(pixels)}
            if plan.classes:
                files["cls"] = str(_checked_label(sample.key, sample.label, plan)).encode()
            yield files
    except OSError as error:  # kept apart here from the failures of writing
        raise DataError(f"{source.name} cannot be read: {error}.") from None


def _checked_label(key: str, label: int | None, plan: Plan) -> int:
    if label is None or not 0 <= label < len(plan.classes):
        raise DataError(f"{plan.source}: {key} has label {label}, outside its {len(plan.classes)} classes.")
    return int(label)


def _write_tar(
    path: Path, members: Iterator[dict[str, bytes]], first: int, advance: Callable[[int], object]
) -> None:
    from webdataset import TarWriter

    with replacing(path) as file, TarWriter(file, mtime=0, encoder=False) as tar:
        for number, files in enumerate(members, start=first):
            tar.write({"__key__": f"{number:08d}", **files})
            advance(1)


def _index_and_describe(path: Path, count: int) -> Shard:
    index = index_shard(path)
    if len(index) != count:
        raise DataError(f"{path} has {len(index)} samples, not {count}: the source ended before its time.")
    index_path = path.with_suffix(".npy")
    with replacing(index_path) as file:
        np.save(file, index, allow_pickle=False)
    return Shard(
        name=path.name,
        count=count,
        bytes=path.stat().st_size,
        sha256=file_sha256(path),
        index=index_path.name,
        index_sha256=file_sha256(index_path),
    )


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Mark `out` as being made. The mark outlives a killed process, the lock on it does not.

    When the body fails, what it wrote goes before the mark does, for tar files without a mark or a
    manifest count as someone else's.
    """
    path = out / LOCK_NAME
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        file = path.open("wb")
    with file:
        _lock(file, out)
        try:
            yield
        except BaseException:
            _remove_ours(out)
            _unlink_mark(path)
            raise
        _unlink_mark(path)


def _lock(file: IO[bytes], out: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunLockedError(
            f"Another process is making shards in {out}. Wait for it, or give another directory."
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):  # disks that know no locks
            raise StorageError(f"{out / LOCK_NAME} cannot be locked: {error.strerror}.") from None


def _unlink_mark(path: Path) -> None:
    with storage_errors(path):
        path.unlink(missing_ok=True)
        sync_directory(path.parent)


def _refuse_other_files(out: Path) -> None:
    """Raise ConfigError unless `out` is free: absent, empty, or holding only what this file wrote."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ConfigError(f"{out} is a file. Give a directory for the shards.")
    names = sorted(_list_names(out))
    other = [name for name in names if not OUR_FILES.fullmatch(name)]
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


def _remove_ours(out: Path) -> None:
    """Remove the set, its manifest first, so that it never looks whole while it is not."""
    with storage_errors(out):
        (out / FILE_NAME).unlink(missing_ok=True)
        for name in _list_names(out):
            if name != LOCK_NAME and OUR_FILES.fullmatch(name):
                (out / name).unlink()


def _check_space(out: Path, plan: Plan) -> None:
    with storage_errors(out):
        place = next(place for place in (out, *out.absolute().parents) if place.exists())
        old = sum((out / name).stat().st_size for name in _list_names(out)) if place == out else 0
        free = shutil.disk_usage(place).free + old
    if plan.upper_bytes > free:
        raise StorageError(
            f"{out} has {free / 1e9:.2f} GB free, but {plan.count} images may need "
            f"{plan.upper_bytes / 1e9:.2f} GB. Free some space, or give another directory."
        )


def _describe(plan: Plan) -> str:
    return (
        f"{plan.source} ({plan.count} images, {len(plan.classes)} classes) at {plan.resolution} x "
        f"{plan.resolution} x {plan.channels}, {plan.counts[0]} a shard"
    )
