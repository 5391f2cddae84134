"""LSUN: a small LMDB read by several copies, threads and processes, and the errors if it is missing."""

from __future__ import annotations

import pickle
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from pipeline.data.sources import Spec, open_source
from pipeline.errors import ConfigError, DataError
from tests.data.sources.helpers import png, put_lsun, values


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
    with pytest.raises(DataError, match="tower_train_lmdb holds no images"):
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


def test_an_image_that_lmdb_cannot_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lmdb

    class Damaged:
        def begin(self, buffers: bool) -> None:
            raise lmdb.CorruptedError("a page is damaged")

    put_lsun(tmp_path)
    source = open_source(Spec("lsun-bedroom", tmp_path))
    monkeypatch.setattr("pipeline.data.sources.lsun._environment", lambda path: Damaged())
    with pytest.raises(DataError, match=r"bedroom_train_lmdb: 0b cannot be read: .*a page is damaged"):
        source.read(1)


def test_without_the_library_the_message_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_lsun(tmp_path)
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ConfigError, match=r"pip install 'wgan-pipeline\[lsun\]'"):
        open_source(Spec("lsun-bedroom", tmp_path))
