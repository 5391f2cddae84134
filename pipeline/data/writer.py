"""A source to a directory of shards, complete or visibly not.

While a set is made, the directory holds a lock file, `.making`; each tar and index is written under a
temporary name, brought to disk and then renamed; the manifest comes last. So a directory with a
manifest is whole, whenever the power went; one with only the lock file is what a killed run left, and
the next run replaces it. Equal arguments give equal bytes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from pipeline.data.convert import encode_png, to_array
from pipeline.data.manifest import FILE_NAME, Manifest, Shard, check_sizes, file_sha256, load_manifest
from pipeline.data.sources import Source
from pipeline.errors import ConfigError, DataError, RunLockedError, StorageError

LOCK_NAME = ".making"
OUR_FILES = re.compile(r"\.?(\d{6}\.(tar|npy)|manifest\.json)(\.tmp)?|\.making")
MAX_RESOLUTION = 4096
MAX_SHARDS = 1_000_000
TAR_BLOCK = 512
MEMBERS = ("png", "cls")
MAX_LABEL_DIGITS = 9


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
        with _replacing(out / FILE_NAME) as file:
            file.write(manifest.to_json().encode())
    return manifest


def index_shard(path: Path) -> npt.NDArray[np.int64]:
    """Read the index of an uncompressed tar file of KEY.png and KEY.cls members off the file itself.

    Returns int64 (samples, 3): offset and bytes of each image, and its label or -1. Raises DataError for
    members of any other kind, for keys that come twice, and where the file is cut short.
    """
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            samples = _group_members(archive, path)
            _check_end(file, archive.offset, path)
            rows = [_index_row(file, path, key, members) for key, members in samples.items()]
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{path} is not a whole, uncompressed tar file: {error}.") from None
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


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

    with _replacing(path) as file, TarWriter(file, mtime=0, encoder=False) as tar:
        for number, files in enumerate(members, start=first):
            tar.write({"__key__": f"{number:08d}", **files})
            advance(1)


def _index_and_describe(path: Path, count: int) -> Shard:
    index = index_shard(path)
    if len(index) != count:
        raise DataError(f"{path} has {len(index)} samples, not {count}: the source ended before its time.")
    index_path = path.with_suffix(".npy")
    with _replacing(index_path) as file:
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
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror or error}. "
            "Free some space, or give another directory."
        ) from None


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that gets its name only once all of it is on disk; `_locked` removes what failed."""
    temporary = path.with_name(f".{path.name}.tmp")
    with _storage_errors(path):
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Mark `out` as being made. The mark outlives a killed process, the lock on it does not.

    When the body fails, what it wrote goes before the mark does, for tar files without a mark or a
    manifest count as someone else's.
    """
    path = out / LOCK_NAME
    with _storage_errors(out):
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
    with _storage_errors(path):
        path.unlink(missing_ok=True)
        _sync_directory(path.parent)


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
    with _storage_errors(out):
        return [entry.name for entry in out.iterdir()]


def _remove_ours(out: Path) -> None:
    """Remove the set, its manifest first, so that it never looks whole while it is not."""
    with _storage_errors(out):
        (out / FILE_NAME).unlink(missing_ok=True)
        for name in _list_names(out):
            if name != LOCK_NAME and OUR_FILES.fullmatch(name):
                (out / name).unlink()


def _check_space(out: Path, plan: Plan) -> None:
    with _storage_errors(out):
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


def _group_members(archive: tarfile.TarFile, path: Path) -> dict[str, dict[str, tarfile.TarInfo]]:
    """The members of each sample by key and extension; a sample's members lie side by side."""
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    last = None
    for member in archive:
        _check_member(path, member)
        key, extension = _split_name(member.name)
        if extension not in MEMBERS:
            raise DataError(f"{path} holds {member.name!r}; a shard holds KEY.png and KEY.cls only.")
        if (key != last and key in samples) or extension in samples.get(key, {}):
            raise DataError(
                f"{path} holds {member.name!r} of the key {key!r} twice, or apart from its sample."
            )
        samples.setdefault(key, {})[extension] = member
        last = key
    return samples


def _check_member(path: Path, member: tarfile.TarInfo) -> None:
    plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
    if not plain or member.size < 0:
        raise DataError(
            f"{path} holds {member.name!r}, which is a link, a folder, a device or a sparse file. "
            "A shard holds plain files only."
        )


def _split_name(name: str) -> tuple[str, str]:
    """The webdataset rule: the extension starts at the first dot after the last slash."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension


def _check_end(file: IO[bytes], end: int, path: Path) -> None:
    """A tar file ends in two empty blocks; readers take one that is cut between members for whole."""
    file.seek(end)
    if file.read(2 * TAR_BLOCK) != bytes(2 * TAR_BLOCK):
        raise DataError(f"{path} has no end mark after its last whole member: it was cut short or changed.")


def _index_row(
    file: IO[bytes], path: Path, key: str, members: dict[str, tarfile.TarInfo]
) -> tuple[int, int, int]:
    if "png" not in members:
        raise DataError(f"{path} holds a label but no image for the key {key!r}.")
    image = members["png"]
    label = _read_label(file, path, members["cls"]) if "cls" in members else -1
    return image.offset_data, image.size, label


def _read_label(file: IO[bytes], path: Path, member: tarfile.TarInfo) -> int:
    file.seek(member.offset_data)
    text = file.read(min(member.size, MAX_LABEL_DIGITS + 1))
    if not text.isdigit() or len(text) > MAX_LABEL_DIGITS:
        raise DataError(f"{path} holds {text!r} in {member.name!r}; a label is a whole number from 0 on.")
    return int(text)
