"""Indexes of originals: 16 bytes a sample, the same in memory as those of other shards, and never trusted."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.format.indexes import (
    CompactIndex,
    Index,
    compact_index,
    read_compact_index,
    with_classes,
)
from pipeline.data.format.manifest import Manifest, Shard, load_manifest
from pipeline.errors import ConfigError, DataError

FAR = 2**41 - 512
"""The last block of the largest file that can be indexed."""


def rows(labels: list[int]) -> Index:
    places = [512, FAR, *range(1024, 512 * len(labels), 512)][: len(labels)]
    return np.array([(place, 1, label, 2**32 - 1) for place, label in zip(places, labels, strict=True)])


def original(count: int, **facts: object) -> Shard:
    return Shard("/far/a.tar", count, 2**41 - 1, "", "a.index", "0" * 64, "1", **facts)  # type: ignore[arg-type]


def manifest(*classes: str, are_words: bool = False, shards: tuple[Shard, ...] = ()) -> Manifest:
    return Manifest("x", None, None, classes, "mixed", shards, are_words=are_words)


def read(content: bytes, count: int) -> CompactIndex:
    return read_compact_index(io.BytesIO(content), original(count), "a.index")


@pytest.mark.parametrize("words", [(), ("cat", "Straße")])
def test_a_compact_index_reads_back_as_written(words: tuple[str, ...]) -> None:
    given = rows([0, 1, -1])
    content = compact_index(given, words)
    assert len(content) - len(compact_index(given[:0], words)) == 3 * 16
    found = read(content, 3)
    assert np.array_equal(found.rows, given)
    assert found.rows.dtype == np.int64
    assert found.words == words


def labels(found: CompactIndex, of: Manifest) -> list[int]:
    return with_classes(found, of, "a.index")[:, 2].tolist()


def test_labels_become_positions_of_the_classes_of_the_whole_set() -> None:
    words = CompactIndex(rows([1, 0, -1, 1]), ("b", "d"))
    assert labels(words, manifest("a", "b", "c", "d", are_words=True)) == [3, 1, -1, 3]
    # Another tar file of the same set may have only numbers.
    assert labels(CompactIndex(rows([7, 10])), manifest("10", "7", "x", are_words=True)) == [1, 0]
    assert labels(CompactIndex(rows([0, 2, -1])), manifest("a", "b", "c")) == [0, 2, -1]
    assert labels(CompactIndex(rows([0, 2])), manifest()) == [-1, -1]
    with pytest.raises(
        DataError, match=r"a\.index has the label 3, which is no class of the manifest\. Index"
    ):
        labels(CompactIndex(rows([3])), manifest("a", "b", "c"))
    with pytest.raises(DataError, match=r"a\.index has the label 'd', which is no class of the manifest"):
        labels(CompactIndex(rows([1]), ("b", "d")), manifest("a", "b", are_words=True))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an index of a tar file"),
        (b"\x80\x04" + compact_index(rows([0, 1])), "is not an index of a tar file"),
        (compact_index(rows([0, 1]))[:-1], "is cut short"),
        (compact_index(rows([0, 1])) + b"x", "is cut short"),
        (compact_index(rows([0])), "does not have the 2 rows of the index of /far/a.tar"),
        (compact_index(rows([0, 2]), ("a", "b")), "has a label that is none of its words"),
        (compact_index(rows([0, 1]), ("a", "b")).replace(b'"words"', b'"wards"'), "words is missing"),
        (compact_index(rows([0, 1]) * np.array([1, 0, 1, 1], dtype=np.int64)), "points outside /far/a.tar"),
        (compact_index(rows([0, 1]) + np.array([0, 512, 0, 0], dtype=np.int64)), "points outside /far/a.tar"),
    ],
)
def test_a_damaged_index_is_refused_with_the_remedy(content: bytes, message: str) -> None:
    with pytest.raises(DataError) as refusal:
        read(content, 2)
    assert str(refusal.value).startswith("a.index ")
    assert message in str(refusal.value)
    assert "`wgan shards index`" in str(refusal.value)


def test_a_manifest_of_originals_reads_back_and_has_no_size(tmp_path: Path) -> None:
    shards = (
        original(5, unlabelled=2, left_out=((".json", 5),)),
        replace(original(1), name="https://x/b.tar", index="b"),
    )
    given = manifest("cat", "dog", shards=shards)
    (tmp_path / "manifest.json").write_text(given.to_json())
    found = load_manifest(tmp_path)
    assert found == given
    assert found.to_json() == given.to_json()
    assert (found.count, found.unlabelled, found.is_of_originals) == (6, 2, True)
    assert [(shard.is_original, shard.is_remote) for shard in found.shards] == [(True, False), (True, True)]
    with pytest.raises(
        ConfigError, match=r"any size.*data.resolution.* make shards of them: `wgan shards make"
    ):
        found.stored  # noqa: B018


def test_what_identifies_originals_does_not_depend_on_where_they_lie() -> None:
    shard = original(5)
    moved = replace(shard, name="s3://bucket/b.tar", sha256="1" * 64, stamp="etag", index="b.index")
    assert manifest("a", shards=(shard,)).sha256 == manifest("a", shards=(moved,)).sha256
    others = [replace(shard, count=4), replace(shard, bytes=5), replace(shard, index_sha256="1" * 64)]
    hashes = {manifest("a", shards=(each,)).sha256 for each in (shard, *others)}
    hashes |= {manifest("b", shards=(shard,)).sha256, manifest("a", are_words=True, shards=(shard,)).sha256}
    assert len(hashes) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"location": ""}, "location"),
        ({"location": "/a\x1b[31m"}, "location"),
        ({"stamp": ""}, "stamp"),
        ({"index": "../x"}, "it is not the name of a file"),
        ({"count": 2**40}, "count"),
        ({"unlabelled": -1}, "unlabelled"),
    ],
)
def test_a_damaged_manifest_of_originals_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    content = json.loads(manifest(shards=(original(5),)).to_json())
    content["shards"][0] |= change
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        load_manifest(tmp_path)
