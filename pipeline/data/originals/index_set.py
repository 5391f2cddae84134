"""Indexes tar files that somebody else made, wherever they lie: each is read once, and stays where it is.

Finished tar files are kept if the command is killed, and only new and changed ones are read when it is repeated.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from tqdm import tqdm

from pipeline.cores import available_cores
from pipeline.data.format.arrivals import Arrivals
from pipeline.data.format.indexes import LABEL, compact_index, read_compact_index
from pipeline.data.format.manifest import FILE_NAME, Manifest, Shard
from pipeline.data.originals.patterns import Found, find_tars
from pipeline.data.originals.records import (
    Record,
    agree,
    clean,
    find_records,
    index_name,
    keep,
    locked,
    write_bad,
)
from pipeline.data.originals.tar_index import Asked, TarIndex, index_tar
from pipeline.data.sources import Remarks
from pipeline.data.sources.bad_images import BAD_NAME, BadLimit
from pipeline.data.sources.class_names import name_classes, read_class_names
from pipeline.data.sources.labels import MOST_CLASSES, number_names
from pipeline.data.sources.members import unreadable
from pipeline.data.threads import Advance, in_threads
from pipeline.durable import replacing
from pipeline.errors import ConfigError, DataError
from pipeline.foreign_text import printable
from pipeline.option_data import RemoteOptions
from pipeline.regular_files import is_absent, open_regular
from pipeline.wording import counted

AS_FOUND, NONE_BAD, BY_DEFAULT = Asked(), BadLimit(), RemoteOptions()
READ_BYTES = 1 << 20
KINDS = ("auto", "none", "cls", "txt", "json")


@dataclass(frozen=True)
class Wanted:
    """How tar files are indexed."""

    asked: Asked = AS_FOUND
    class_names: Path | None = None
    skip_bad: BadLimit = NONE_BAD
    remote: RemoteOptions = BY_DEFAULT


class Indexed(NamedTuple):
    """A finished index, how it differs from what was there before, and what of the tar files is not used."""

    manifest: Manifest
    changes: str
    """For example "2 tar files are new, 1 has changed"; empty for a first index and without changes"""
    remarks: Remarks


def index_originals(patterns: Sequence[str], out: Path, wanted: Wanted) -> Indexed:
    """Index the tar files that the patterns stand for: write an index of each to `out` and, last, manifest.json.

    An index that is there is completed: tar files that are new, or whose size or time or ETag has changed, are read,
    and those that the patterns no longer stand for are dropped.

    Raises DataError for tar files, samples or labels that cannot be used, ConfigError for patterns and options that are
    not allowed and if other files are in the way, RunLockedError if another process works in `out`, and StorageError if
    the disk is full.
    """
    if wanted.asked.labels.kind not in KINDS:
        raise ConfigError(
            f"--labels {wanted.asked.labels}: an index takes labels from `cls`, `txt` (KEY.cls, KEY.txt) or `json:KEY` "
            "(a key of KEY.json), or `none`. `wgan shards make` knows others."
        )
    names = read_class_names(wanted.class_names) if wanted.class_names is not None else None
    with locked(out):
        agree(out, wanted.asked.facts())
        found, known, is_first = (
            find_tars(patterns, wanted.remote),
            find_records(out),
            is_absent(out / FILE_NAME),
        )
        old = {tar.location: known[tar.location] for tar in found if _is_same(tar, known)}
        new = [tar for tar in found if tar.location not in old]
        read = _index_all(new, sum(len(record.bad) for record in old.values()), out, wanted)
        both = old | read.records
        records = {tar.location: both[tar.location] for tar in found}
        manifest = _manifest(out, patterns, records, wanted, names)
        _check_bad(records, wanted.skip_bad, manifest.count)
        write_bad(out, records)
        with replacing(out / FILE_NAME) as file:
            file.write(manifest.to_json().encode())
        clean(out, [record.shard for record in records.values()])
    changes = "" if is_first else _changes(found, new, known)
    return Indexed(manifest, changes, _remarks(manifest, records, read.json_keys))


def _is_same(tar: Found, known: Mapping[str, Record]) -> bool:
    """Whether a tar file was indexed, and has not changed since."""
    record = known.get(tar.location)
    return record is not None and (record.shard.bytes, record.shard.stamp) == tuple(tar.facts)


class _Read(NamedTuple):
    records: dict[str, Record]
    json_keys: str
    """What .json files that are not used have of what may be labels"""


def _index_all(new: Sequence[Found], bad: int, out: Path, wanted: Wanted) -> _Read:
    """Index these tar files, several at a time. `bad` images have been left out of others."""
    records, json_keys = dict[str, Record](), ""
    threads = wanted.remote.parallel if any(map(_is_remote, new)) else available_cores()
    work = partial(_index_one, out, wanted, Arrivals(wanted.remote))
    total = sum(tar.facts.bytes for tar in new)
    with (
        tqdm(total=total, unit="B", unit_scale=True, desc="index", disable=None) as bar,
        closing(in_threads(work, new, bar, threads)) as results,
    ):
        for tar, (record, keys) in zip(new, results, strict=True):
            json_keys = json_keys or keys
            records[tar.location] = record
            bad += len(record.bad)
            if wanted.skip_bad.count is not None and bad > wanted.skip_bad.count:
                raise _too_bad(records)
    return _Read(records, json_keys)


def _is_remote(tar: Found) -> bool:
    return "://" in tar.location


def _index_one(
    out: Path, wanted: Wanted, arrivals: Arrivals, tar: Found, advance: Advance
) -> tuple[Record, str]:
    """The record of a tar file, and what its .json files have of what may be labels."""
    where, facts, digest = tar.location, tar.facts, ""
    if _is_remote(tar):
        file, digest = arrivals.open(where, facts.bytes)
    else:
        try:
            file = _in_large_reads(open_regular(Path(where)))
        except OSError as error:
            raise unreadable(where, error) from None
    with file:
        found = index_tar(file, where, wanted.asked, advance)
    record = _record_of(found, Shard(where, len(found.places), facts.bytes, digest, "", "", facts.stamp), out)
    return record, found.json_keys


def _in_large_reads(file: IO[bytes]) -> IO[bytes]:
    """The same file, read much at a time: whenever a thread reads from the disk, another takes Python's lock."""
    assert isinstance(file, io.BufferedReader)
    return io.BufferedReader(file.detach(), READ_BYTES)


def _record_of(found: TarIndex, shard: Shard, out: Path) -> Record:
    """Write the index of a tar file and its record."""
    rows, words = found.rows()
    content = compact_index(rows, words)
    digest = hashlib.sha256(content).hexdigest()
    record = Record(
        replace(
            shard,
            index=index_name(shard.name, digest),
            index_sha256=digest,
            unlabelled=sum(label is None for label in found.labels),
            left_out=tuple(sorted(found.left_out.items())),
        ),
        tuple(found.bad),
    )
    keep(out, record, content)
    return record


def _manifest(
    out: Path,
    patterns: Sequence[str],
    records: Mapping[str, Record],
    wanted: Wanted,
    names: Sequence[str] | None,
) -> Manifest:
    """The manifest of a finished index. Raises DataError if there are no images, or too many or too few classes."""
    shards = tuple(record.shard for record in records.values() if record.shard.count)
    if not shards:
        raise _without_images(patterns, records, wanted.asked)
    classes, are_words = _classes(out, shards)
    if names is not None:
        if are_words or not classes:
            raise ConfigError(
                f"--class-names {wanted.class_names} names numbered classes, and these labels are "
                f"{'words' if are_words else 'missing'}. Leave it out."
            )
        classes = name_classes(str(wanted.class_names), names, classes)
    source = shards[0].name.rpartition("/")[0].rpartition("/")[2] or "tar files"
    return Manifest(source, None, None, classes, "mixed", shards, dict(wanted.asked.facts()), are_words)


def _without_images(patterns: Sequence[str], records: Mapping[str, Record], asked: Asked) -> DataError:
    kinds = "jpg, jpeg, png or webp" if asked.image is None else f"{asked.image} (--images)"
    found = "; ".join(_left_out(records)) or "nothing"
    return DataError(
        f"The tar files {printable(' '.join(patterns))} hold no images that can be used. Images are what ends in "
        f"{kinds}, and there is: {found}. Correct the pattern{'' if asked.image is None else ' or --images'}."
    )


def _left_out(records: Mapping[str, Record]) -> list[str]:
    """What of the tar files is not used, and how often."""
    totals = _totals(records)
    left_out = [
        f"{counted(number, what)}" if not what.startswith(".") else f"{number:,} {what}"
        for what, number in totals.most_common()
    ]
    if bad := sum(len(record.bad) for record in records.values()):
        left_out.append(f"{counted(bad, 'image')} that cannot be used ({BAD_NAME})")
    if empty := sum(not record.shard.count for record in records.values()):
        left_out.append(f"{counted(empty, 'tar file')} without images")
    return left_out


def _totals(records: Mapping[str, Record]) -> Counter[str]:
    totals = Counter[str]()
    for record in records.values():
        totals.update(dict(record.shard.left_out))
    return totals


def _classes(out: Path, shards: Sequence[Shard]) -> tuple[tuple[str, ...], bool]:
    """The classes of all tar files, and whether they are words."""
    words, highest, numbers = set[str](), -1, set[int]()
    for shard in shards:
        try:
            with open_regular(out / shard.index, out) as file:
                index = read_compact_index(file, shard, shard.index)
        except OSError as error:
            raise unreadable(out / shard.index, error) from None
        words.update(index.words)
        if not index.words:
            labels = np.unique(index.rows[:, LABEL])
            highest = max(highest, int(labels[-1]))
            numbers.update(labels[labels >= 0].tolist() if len(numbers) < MOST_CLASSES else ())
    if not words:
        return number_names(shards[0].name, highest) if highest >= 0 else (), False
    classes = tuple(sorted(words | set(map(str, numbers))))
    if len(classes) > MOST_CLASSES:
        raise DataError(
            f"There are {len(classes):,} different labels, more than the {MOST_CLASSES:,} classes that a set can have. "
            "Choose other labels, or give --labels none."
        )
    return classes, True


def _check_bad(records: Mapping[str, Record], limit: BadLimit, count: int) -> None:
    """Raise DataError if more images cannot be used than the limit allows."""
    bad = sum(len(record.bad) for record in records.values())
    if bad > limit.of(count + bad):
        raise _too_bad(records)


def _too_bad(records: Mapping[str, Record]) -> DataError:
    place, image = next((place, image) for place, record in records.items() for image in record.bad)
    bad = sum(len(record.bad) for record in records.values())
    return DataError(
        f"{counted(bad, 'image')} cannot be used, for example {printable(image.name)} of {place}: {image.reason}. "
        "Remove them from the tar files, or leave them out: --skip-bad N, --skip-bad 5% or --skip-bad all."
    )


def _changes(found: Sequence[Found], new: Sequence[Found], known: Mapping[str, Record]) -> str:
    """How the tar files differ from those of the last index."""
    changed = sum(tar.location in known for tar in new)
    gone = len(known.keys() - {tar.location for tar in found})
    numbers = {"new": len(new) - changed, "changed": changed, "no longer there": gone}
    return ", ".join(f"{counted(number, 'tar file')} {what}" for what, number in numbers.items() if number)


def _origin(labels: str) -> str:
    kind, _, key = labels.partition(":")
    return f"KEY.{'cls' if kind == 'auto' else kind}" + (f": {key}" if key else "")


def _remarks(manifest: Manifest, records: Mapping[str, Record], json_keys: str) -> Remarks:
    """Where labels come from, and what is not used."""
    totals = _totals(records)
    unused = [
        f"{totals[ending]:,} KEY{ending} (--labels {option})"
        for ending, option in (
            (".cls", "cls"),
            (".json", f"json:KEY, where KEY is one of {json_keys}" if json_keys else "json:KEY"),
            (".txt", "txt"),
        )
        if totals[ending] and (ending == ".cls" or not manifest.classes)
    ]
    labels = str(manifest.plan["labels"])
    return Remarks(_origin(labels) if manifest.classes else "", tuple(_left_out(records)), tuple(unused))
