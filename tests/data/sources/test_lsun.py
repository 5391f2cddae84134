"""LSUN: a small LMDB read by several copies, threads and processes, and the errors if it is missing."""

from __future__ import annotations

import os
import pickle
import struct
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.sources import Spec, open_source
from pipeline.data.sources.lmdb_file import find_values
from pipeline.errors import ConfigError, DataError
from tests.data.sources.helpers import (
    LMDB_PAGE,
    lmdb_branch,
    lmdb_large,
    lmdb_node,
    lmdb_of,
    lmdb_page,
    png,
    put_lsun,
    values,
)

ROOT = 4096 + 16 + 24 + 48 + 40
"""Where the newer of the first two pages of `put_lsun`'s file has the number of the root, which is its only leaf"""
LEAF = 2 * 4096
NODE = LEAF + 4012
"""Its first node"""


def test_images_are_read_as_stored_and_without_labels(tmp_path: Path) -> None:
    put_lsun(tmp_path, "train")
    put_lsun(tmp_path, "val")
    for split in ("train", "val"):
        source = open_source(Spec("lsun-bedroom", tmp_path, split))
        assert (source.name, source.classes) == (f"lsun-bedroom-{split}", ())
        assert (source.native_resolution, source.native_channels) == (None, 3)
        assert values(source) == {"0a": (None, 1), "0b": (None, 2)}
        assert source.read(0) == png(1)


def test_names_of_two_words_have_a_folder(tmp_path: Path) -> None:
    put_lsun(tmp_path).rename(tmp_path / "church_outdoor_train_lmdb")
    assert len(open_source(Spec("lsun-church-outdoor", tmp_path))) == 2


def test_copies_threads_and_processes_can_read_at_once(tmp_path: Path) -> None:
    put_lsun(tmp_path)
    source = open_source(Spec("lsun-bedroom", tmp_path))
    copy = pickle.loads(pickle.dumps(source))
    assert copy.read(1) == source.read(1) == png(2)
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(copy.read, [0, 1] * 20)) == [png(1), png(2)] * 20
    for method in ("fork", "spawn"):
        with ProcessPoolExecutor(2, mp_context=get_context(method)) as processes:
            assert list(processes.map(source.read, [0, 1] * 4)) == [png(1), png(2)] * 4


def test_without_a_root_the_message_says_what_to_download() -> None:
    with pytest.raises(
        ConfigError, match=r"is not downloaded automatically.*bedroom_train_lmdb.*give --root DIR"
    ):
        open_source(Spec("lsun-bedroom"))


def test_a_root_without_the_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no bedroom_val_lmdb/data\.mdb"):
        open_source(Spec("lsun-bedroom", tmp_path, "val"))


def test_an_empty_set_is_refused(tmp_path: Path) -> None:
    import lmdb

    lmdb.open(str(tmp_path / "tower_train_lmdb"), map_size=1 << 20).close()
    with pytest.raises(DataError, match=r"tower_train_lmdb/data\.mdb holds no images"):
        open_source(Spec("lsun-tower", tmp_path))


@pytest.mark.parametrize("content", [b"", b"no database" * 1000])
def test_a_damaged_set_is_refused(content: bytes, tmp_path: Path) -> None:
    (put_lsun(tmp_path) / "data.mdb").write_bytes(content)
    with pytest.raises(DataError, match="is not a readable LMDB"):
        open_source(Spec("lsun-bedroom", tmp_path))


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
def test_a_truncated_set_is_refused_before_it_is_read(share: float, tmp_path: Path) -> None:
    import lmdb

    with (
        lmdb.open(str(tmp_path / "tower_train_lmdb"), map_size=1 << 24) as environment,
        environment.begin(write=True) as transaction,
    ):
        for number in range(50):
            transaction.put(f"{number:02}".encode(), bytes(20_000))
    file = tmp_path / "tower_train_lmdb" / "data.mdb"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match=r"data\.mdb is truncated: it has .* of .* bytes\. Download"):
        open_source(Spec("lsun-tower", tmp_path))


def test_values_of_any_size_are_found_in_the_order_of_their_keys(tmp_path: Path) -> None:
    """Against LMDB's own library: small values lie in the leaves, large ones on pages of their own."""
    import lmdb

    random, written = np.random.default_rng(0), {}
    with lmdb.open(str(tmp_path / "set"), map_size=1 << 26) as environment:
        for _ in range(3):  # overwritten and removed values leave free pages behind
            with environment.begin(write=True) as transaction:
                for number in random.integers(0, 4000, 2000).tolist():
                    size = int(random.choice([0, 1, 700, 2100, 5000, 20_000]))
                    written[b"%040d" % number] = content = random.bytes(size)
                    transaction.put(b"%040d" % number, content)
                for key in list(written)[::7]:
                    del written[key]
                    transaction.delete(key)
    file = tmp_path / "set" / "data.mdb"
    whole = file.read_bytes()
    found = [(value.key, whole[value.offset : value.offset + value.size]) for value in find_values(file)]
    assert found == sorted(written.items())


def test_an_image_that_was_cut_since_is_named(tmp_path: Path) -> None:
    file = put_lsun(tmp_path) / "data.mdb"
    source = open_source(Spec("lsun-bedroom", tmp_path))
    file.write_bytes(file.read_bytes()[:4096])
    with pytest.raises(DataError, match=r"data\.mdb became shorter while it was read: 0b is cut"):
        source.read(1)


@pytest.mark.parametrize(
    ("place", "content", "message"),
    [
        (16, b"MDB?", "does not begin like one"),
        (40, b"\3\x10\0\0", "does not begin like one"),
        (ROOT, b"\x99", "is not a readable LMDB: it has no page 153"),
        (ROOT, b"\1", "is not a readable LMDB: one of its pages is of an unknown kind"),
        (LEAF + 12, b"\xff\xff", "one of its pages is of an unknown kind"),
        (LEAF + 16, b"\xff\x0f", "a node lies outside of its page"),
        (NODE, b"\xff\xff", "a value lies outside of its page"),
        (NODE + 4, b"\1", "a value lies outside of the file"),
        (NODE + 4, b"\2", "a value lies outside of its page"),
        (NODE + 6, b"\xff\xff", "a value lies outside of its page"),
        (NODE + 6, b"\0\0", "it has a key of 0 bytes"),
        (NODE + 8, b"zz", "its keys are not in order"),
        (LEAF, b"\3", "page 2 has the number 3"),
        (ROOT - 8, b"\3", "it has 2 of 3 values"),
        (ROOT - 8, b"\1", "it has more than its 1 values"),
        (40, struct.pack("<I", 1 << 16), "does not begin like one"),
    ],
)
def test_a_file_that_leads_astray_is_refused(
    place: int, content: bytes, message: str, tmp_path: Path
) -> None:
    file = put_lsun(tmp_path) / "data.mdb"
    damaged = bytearray(file.read_bytes())
    damaged[place : place + len(content)] = content
    file.write_bytes(damaged)
    with pytest.raises(DataError, match=message):
        open_source(Spec("lsun-bedroom", tmp_path))


def test_pages_in_a_circle_are_refused(tmp_path: Path) -> None:
    file = put_lsun(tmp_path) / "data.mdb"
    damaged = bytearray(file.read_bytes())
    damaged[LEAF + 10] = 1  # a branch
    damaged[NODE : NODE + 6] = struct.pack("<IH", LEAF // 4096, 0)
    file.write_bytes(damaged)
    with pytest.raises(DataError, match="its pages lead back to earlier ones"):
        open_source(Spec("lsun-bedroom", tmp_path))


def put_lmdb(root: Path, content: bytes) -> Path:
    file = root / "bedroom_train_lmdb" / "data.mdb"
    file.parent.mkdir()
    file.write_bytes(content)
    return file


def test_the_crafted_files_below_are_read_if_nothing_is_wrong_with_them(tmp_path: Path) -> None:
    leaf = lmdb_page(3, 2, [lmdb_node(b"a", b"small"), lmdb_node(b"b", struct.pack("<Q", 5), 1, 90)])
    last = lmdb_page(4, 2, [lmdb_node(b"c", b"last")])
    root = lmdb_page(2, 1, [lmdb_branch(3), lmdb_branch(4)])
    put_lmdb(tmp_path, lmdb_of(root, leaf, last, lmdb_large(5, b"x" * 90), entries=3))
    source = open_source(Spec("lsun-bedroom", tmp_path))
    assert [source.read(position) for position in range(len(source))] == [b"small", b"x" * 90, b"last"]


BIG = struct.pack("<Q", 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lmdb_of(lmdb_page(2, 2, [lmdb_node(b"a")], repeat=20), entries=20), "keys are not in order"),
        (lmdb_of(lmdb_page(2, 2, [lmdb_node(b"a" * 440)], repeat=2), entries=2), "its nodes overlap"),
        (lmdb_of(lmdb_page(2, 2, [lmdb_node(b"b"), lmdb_node(b"a")]), entries=2), "keys are not in order"),
        (
            lmdb_of(
                lmdb_page(2, 1, [lmdb_branch(3)], repeat=200), lmdb_page(3, 2, [lmdb_node(b"a")]), entries=200
            ),
            "lead back to earlier ones",
        ),
        (
            lmdb_of(
                lmdb_page(2, 1, [lmdb_branch(3), lmdb_branch(2)]),
                lmdb_page(3, 2, [lmdb_node(b"a")]),
                entries=9,
            ),
            "lead back to earlier ones",
        ),
        (
            lmdb_of(
                lmdb_page(2, 2, [lmdb_node(key, BIG, 1, 90) for key in (b"a", b"b")]),
                lmdb_large(3, bytes(90)),
                entries=2,
            ),
            "two keys have the same value",
        ),
        (lmdb_of(lmdb_page(2, 2, [lmdb_node(b"a", bytes(8), 1, 90)]), entries=1), "in its first page"),
    ],
)
def test_a_file_that_names_pages_or_values_again_is_refused(
    content: bytes, message: str, tmp_path: Path
) -> None:
    put_lmdb(tmp_path, content)
    with pytest.raises(DataError, match=rf"is not a readable LMDB: .*{message}"):
        open_source(Spec("lsun-bedroom", tmp_path))


def test_the_holes_of_a_file_are_no_pages(tmp_path: Path) -> None:
    last = 1 << 30
    root = lmdb_page(2, 1, [lmdb_branch(3), lmdb_branch(last)])
    file = put_lmdb(tmp_path, lmdb_of(root, lmdb_page(3, 2, [lmdb_node(b"a")]), entries=1 << 40, last=last))
    os.truncate(file, (last + 1) * LMDB_PAGE)
    with pytest.raises(DataError, match="one of its pages is of an unknown kind"):
        open_source(Spec("lsun-bedroom", tmp_path))


def test_keys_longer_than_lmdb_writes_are_refused(tmp_path: Path) -> None:
    """512 bytes fit into larger pages only."""
    file = put_lsun(tmp_path) / "data.mdb"
    damaged = bytearray(file.read_bytes())
    damaged[LEAF + 16 : LEAF + 18] = struct.pack("<H", 1000)
    damaged[LEAF + 1000 : LEAF + 1008] = struct.pack("<IHH", 1, 0, 512)
    file.write_bytes(damaged)
    with pytest.raises(DataError, match="it has a key of 512 bytes"):
        open_source(Spec("lsun-bedroom", tmp_path))


@pytest.mark.parametrize(("number", "kind"), [(4, 4), (3, 2)])
def test_a_large_value_on_another_page_is_refused_when_it_is_read(
    number: int, kind: int, tmp_path: Path
) -> None:
    leaf = lmdb_page(2, 2, [lmdb_node(b"a", BIG, 1, 90)])
    put_lmdb(tmp_path, lmdb_of(leaf, lmdb_large(number, bytes(90), kind), entries=1))
    source = open_source(Spec("lsun-bedroom", tmp_path))
    with pytest.raises(DataError, match=r"data\.mdb: a is damaged: no value begins on page 3\. Download"):
        source.read(0)


def test_a_named_pipe_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    file = put_lsun(tmp_path) / "data.mdb"
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(DataError, match="it is a named pipe, not a file"):
        open_source(Spec("lsun-bedroom", tmp_path))
