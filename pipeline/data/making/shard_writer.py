"""Writes one shard: images of a source become a tar file, its index, and a record that both are complete."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple, Protocol

import numpy as np
from pydantic import Field

from pipeline.data.format.codecs import EXTENSIONS, Bytes
from pipeline.data.format.file_checks import file_sha256
from pipeline.data.format.indexes import INDEX_COLUMNS
from pipeline.data.format.manifest import Shard, ShardEntry, shard_facts
from pipeline.data.format.native_output import hidden_native_output
from pipeline.data.format.tar_writer import TarWriter
from pipeline.data.making.convert import Converted, convert_image
from pipeline.data.making.plan import Plan
from pipeline.data.sources.bad_images import BadImage
from pipeline.documents import Document, Many, parse_json
from pipeline.durable import replacing
from pipeline.errors import DataError
from pipeline.foreign_text import storable

MOST_PARTS = 16_000_000
"""Parts of a record's JSON text. An image has 2."""
EXTENSION_OF = {encoding: extension for extension, encoding in reversed(EXTENSIONS.items())}


class Copy(NamedTuple):
    """An image with the same pixels as an earlier one, both by their names in the source."""

    original: str
    copy: str


@dataclass(frozen=True)
class Record:
    """A file next to a finished shard until the whole set is finished. `shard` is None if it holds no image."""

    shard: Shard | None
    bad: tuple[BadImage, ...]
    names: tuple[str, ...] = ()
    """The names of the shard's images in the source."""
    marks: tuple[int, ...] = ()
    """Numbers of these images, which are equal if their pixels are."""
    dropped: tuple[Copy, ...] = ()
    """Copies that were in the shard and no longer are."""
    first_frames: tuple[str, ...] = ()
    """The names of those images of which only the first of several frames or pages is used."""

    def to_json(self) -> str:
        """The record as JSON text; the same content always gives the same text."""
        content = {
            "shard": shard_facts(self.shard) if self.shard else None,
            "bad": self.bad,
            "names": self.names,
            "marks": self.marks,
            "dropped": self.dropped,
            "first_frames": self.first_frames,
        }
        return json.dumps(content) + "\n"

    @staticmethod
    def from_json(text: bytes) -> Record:
        """Parse a record. Raises ValueError if the text is not one."""
        content = parse_json(text, _Document, MOST_PARTS)
        return Record(
            content.shard.shard() if content.shard else None,
            tuple(BadImage(*bad) for bad in content.bad),
            tuple(content.names),
            tuple(content.marks),
            tuple(Copy(*copy) for copy in content.dropped),
            tuple(content.first_frames),
        )


class _Document(Document):
    """The content of a record's file."""

    shard: ShardEntry | None
    bad: Many[tuple[str, str]]
    names: Many[str]
    marks: Many[Annotated[int, Field(ge=0, lt=2**32)]]
    dropped: Many[tuple[str, str]]
    first_frames: Many[str] = Field(default=[])


class Watch(Protocol):
    """Is told which image is worked on."""

    def begin(self, place: int) -> None:
        """The image at this place of the plan is read."""

    def end(self) -> None:
        """It is converted, or cannot be used."""

    def written(self) -> None:
        """It is in the shard."""


@dataclass(frozen=True)
class Job:
    """What all processes that make shards together need to know."""

    plan: Plan
    out: Path
    skip_bad: int


def shard_path(out: Path, number: int) -> Path:
    """The tar file of a shard; its index and record have the same stem."""
    return out / f"{number:06d}.tar"


def write_shard(job: Job, number: int, watch: Watch, spoilt: Mapping[int, str]) -> Record:
    """Write a shard, its index and, last, its record: if there is a record, all of the shard is on disk.

    Up to `job.skip_bad` images that cannot be used are left out; `spoilt` says why those at some places are known to be
    such. Raises DataError at the next unusable image, and StorageError if the disk is full or not writable.
    """
    plan, path = job.plan, shard_path(job.out, number)
    bad: list[BadImage] = []
    rows, names, marks, first_frames = [], list[str](), [], list[str]()
    # Shared: workers of a killed process may still be writing the same files.
    with replacing(path, is_shared=True) as file, hidden_native_output():
        tar = TarWriter(file)
        for place, converted in _convert(job, number, watch, spoilt, bad):
            label = int(plan.chosen.labels[place])
            key = f"{place:08d}"
            offset = tar.add(f"{key}.{EXTENSION_OF[plan.conversion.encoding]}", converted.content)
            if plan.chosen.classes:
                tar.add(f"{key}.cls", b"%d" % label)
            rows.append(_row(converted.content, offset, label, plan))
            names.append(storable(plan.source.key(int(plan.chosen.positions[place]))))
            marks.append(mark_of(converted.pixels))
            first_frames += names[-1:] if converted.frames_follow else ()
            watch.written()
        sha256 = tar.finish()
    if not rows:
        path.unlink()
    shard = finish_shard(path, tar.bytes, sha256, rows) if rows else None
    record = Record(shard, tuple(bad), tuple(names), tuple(marks), first_frames=tuple(first_frames))
    write_record(path, record)
    return record


class Tried(NamedTuple):
    """Images that were converted and not written: the bytes that each has in a shard, and those that cannot be used."""

    sizes: list[int]
    bad: list[BadImage]


def try_images(job: Job, places: Iterable[int], watch: Watch, spoilt: Mapping[int, str]) -> Tried:
    """Convert these images. Those that cannot be used are no error before they are to be written."""
    tried = Tried([], [])
    with hidden_native_output():
        for place in places:
            try:
                tried.sizes.append(len(_convert_one(job.plan, place, watch, spoilt).content))
            except DataError as error:
                tried.bad.append(bad_image(job.plan, place, str(error)))
    return tried


def mark_of(pixels: Bytes) -> int:
    """A number that is equal for equal pixels, uint8 (height, width, channels), and seldom equal for others.

    It is the checksum of two rows, because one of all pixels would slow down the making of shards.
    """
    height = len(pixels)
    return zlib.crc32(pixels[height // 3].tobytes() + pixels[2 * height // 3].tobytes())


def finish_shard(path: Path, size: int, sha256: str, rows: Sequence[tuple[int, ...]]) -> Shard:
    """Write the index of a tar file that is complete, and describe both."""
    index = path.with_suffix(".npy")
    with replacing(index, is_shared=True) as file:
        np.save(file, np.array(rows, dtype=np.int64).reshape(-1, len(INDEX_COLUMNS)), allow_pickle=False)
    return Shard(path.name, len(rows), size, sha256, index.name, file_sha256(index))


def write_record(path: Path, record: Record) -> None:
    """Write the record of a shard: from then on, all of the shard is on disk."""
    with replacing(path.with_suffix(".json"), is_shared=True) as file:
        file.write(record.to_json().encode())


def _convert(
    job: Job, number: int, watch: Watch, spoilt: Mapping[int, str], bad: list[BadImage]
) -> Iterator[tuple[int, Converted]]:
    """Yield the index and the converted form of each usable image; the other images are added to `bad`."""
    for place in job.plan.places(number):
        try:
            converted = _convert_one(job.plan, place, watch, spoilt)
        except DataError as error:
            bad.append(bad_image(job.plan, place, str(error)))
            if len(bad) > job.skip_bad:
                raise too_many(job.plan.source.name, bad, job.skip_bad) from None
            continue
        yield place, converted


def _convert_one(plan: Plan, place: int, watch: Watch, spoilt: Mapping[int, str]) -> Converted:
    if place in spoilt:
        raise DataError(spoilt[place])
    watch.begin(place)
    try:
        return convert_image(plan.source.read(int(plan.chosen.positions[place])), plan.conversion)
    finally:
        watch.end()


def bad_image(plan: Plan, place: int, why: str) -> BadImage:
    """An image by its place in the plan, and why it cannot be used."""
    return BadImage(storable(plan.source.key(int(plan.chosen.positions[place]))), why.rstrip("."))


class TooManyError(DataError):
    """More images cannot be used than may be left out."""


def too_many(source: str, bad: list[BadImage], skip_bad: int) -> TooManyError:
    """The error for a source with more unusable images than `skip_bad` allows, as far as they are known."""
    last = bad[-1]
    if skip_bad == 0:
        return TooManyError(
            f"{source}: {last.name} cannot be used: {last.reason}. Replace or remove such images, or leave out up to N "
            "of them with --skip-bad N, a share with --skip-bad 5%, or however many there are with --skip-bad all, "
            "which lists them in bad-images.txt."
        )
    return TooManyError(
        f"{source}: more images cannot be used than --skip-bad {skip_bad} allows, for example {last.name}: "
        f"{last.reason}. Replace or remove such images, or raise --skip-bad: --skip-bad all leaves out however many "
        "there are, and lists them in bad-images.txt."
    )


def _row(picture: bytes, offset: int, label: int, plan: Plan) -> tuple[int, int, int, int]:
    height, width, channels = plan.conversion.shape
    # The index points to the pixels, after the .npy header.
    skipped = len(picture) - height * width * channels if plan.conversion.encoding == "raw" else 0
    return offset + skipped, len(picture) - skipped, label, zlib.crc32(memoryview(picture)[skipped:])
