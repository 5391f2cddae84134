"""Writing shards: the files, and sets that are there already."""

from __future__ import annotations

import io
import shutil
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from pipeline.data.format.file_checks import check_hashes, check_sizes
from pipeline.data.format.indexes import load_index
from pipeline.data.format.manifest import load_manifest
from pipeline.data.inspecting.index_in_place import index_in_place
from pipeline.data.inspecting.shard_index import index_shard
from pipeline.data.making.convert import Conversion
from pipeline.data.making.plan import plan_shards
from pipeline.data.making.selection import Selection
from pipeline.data.making.writer import find_finished, make_shards
from pipeline.errors import ConfigError, DataError, StorageError
from tests.data.making.sets import contents, make, names
from tests.shards import Given, digits, noise, write

MANIFEST_ONLY = ["000000.npy", "000000.tar", "manifest.json"]


def test_only_shards_indexes_and_a_manifest_are_written(tmp_path: Path) -> None:
    assert make(noise(10), tmp_path / "new" / "out") == [
        *("000000.npy", "000000.tar", "000001.npy", "000001.tar", "000002.npy", "000002.tar"),
        "manifest.json",
    ]
    manifest = load_manifest(tmp_path / "new" / "out")
    check_sizes(tmp_path / "new" / "out", manifest)
    check_hashes(tmp_path / "new" / "out", manifest.shards)
    assert [shard.count for shard in manifest.shards] == [4, 4, 2]
    assert (manifest.source, manifest.classes, manifest.channels) == ("noise", ("even", "odd"), 3)


@pytest.mark.parametrize(("encoding", "extension"), [("png", "png"), ("raw", "npy")])
def test_webdataset_reads_the_same_pixels_and_labels(tmp_path: Path, encoding: str, extension: str) -> None:
    source = noise(6)
    make(source, tmp_path, encoding=encoding, samples_per_shard=6)
    path = str(tmp_path / "000000.tar")
    samples = list(webdataset.WebDataset(path, shardshuffle=False).decode("pil"))
    assert [sample["__key__"] for sample in samples] == [f"{number:08d}" for number in range(6)]
    for position, sample in enumerate(samples):
        assert np.array_equal(np.asarray(sample[extension]), source.read(position))
        assert sample["cls"] == source.label(position)


def test_samples_without_labels_have_no_cls_and_label_minus_one(tmp_path: Path) -> None:
    make(noise(4, labelled=False), tmp_path)
    with tarfile.open(tmp_path / "000000.tar") as archive:
        assert archive.getnames() == [f"{number:08d}.png" for number in range(4)]
    assert (index_shard(tmp_path / "000000.tar").rows[:, 2] == -1).all()


@pytest.mark.parametrize("encoding", ["png", "jpeg", "raw"])
def test_the_index_is_the_one_that_the_tar_file_gives(tmp_path: Path, encoding: str) -> None:
    make(noise(10), tmp_path, encoding=encoding)
    for shard in load_manifest(tmp_path).shards:
        found = index_shard(tmp_path / shard.name)
        assert np.array_equal(load_index(tmp_path, shard), found.rows)
        assert found.encoding == encoding


def test_offsets_point_at_the_bytes_of_the_images(tmp_path: Path) -> None:
    source = noise(10)
    make(source, tmp_path)
    position = 0
    for shard in load_manifest(tmp_path).shards:
        content = (tmp_path / shard.name).read_bytes()
        for offset, size, label, _ in load_index(tmp_path, shard).tolist():
            pixels = np.asarray(Image.open(io.BytesIO(content[offset : offset + size])))
            assert np.array_equal(pixels, source.read(position))
            assert label == source.label(position)
            position += 1


def test_making_shards_twice_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(noise(10), tmp_path / "a")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    make(noise(10), tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    # Nor is there the time of a file: a tar file would keep it in whole seconds, which both sets may share.
    with tarfile.open(tmp_path / "a" / "000000.tar") as tar:
        assert {member.mtime for member in tar} == {0}


def test_several_processes_give_the_same_bytes_as_one(tmp_path: Path) -> None:
    source = digits()
    plan = plan_shards(source, Conversion((16, 16), 1), samples_per_shard=100)
    for workers in (1, 3):
        make_shards(plan, tmp_path / str(workers), workers=workers)
    assert len(names(tmp_path / "1")) == 2 * 18 + 1
    assert contents(tmp_path / "1") == contents(tmp_path / "3")


def test_a_finished_set_is_not_changed(tmp_path: Path) -> None:
    make(noise(10), tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    make(noise(10), tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"resolution": (4, 8)}, "their height is 8, not 4"),
        ({"channels": 1}, "their channels is 3, not 1"),
        ({"samples_per_shard": 5}, "their samples_per_shard is 4, not 5"),
        ({"fit": "pad"}, "their fit is crop, not pad"),
        (
            {"encoding": "jpeg", "quality": 80},
            "their encoding is png, not jpeg; their quality is None, not 80",
        ),
    ],
)
def test_a_set_of_another_plan_is_kept_until_overwrite(
    tmp_path: Path, options: dict[str, Any], difference: str
) -> None:
    make(noise(10), tmp_path)
    with pytest.raises(ConfigError, match=rf"already holds different shards: {difference}.*--overwrite"):
        make(noise(10), tmp_path, **options)
    make(noise(10), tmp_path / "fresh", **options)
    fresh = contents(tmp_path / "fresh")
    shutil.rmtree(tmp_path / "fresh")
    make(noise(10), tmp_path, overwrite=True, **options)
    assert contents(tmp_path) == fresh


def test_other_images_with_the_same_names_are_another_set(tmp_path: Path) -> None:
    make(Given(noise(4).pictures, [0, 0, 1, 1], ("even", "odd"), "noise"), tmp_path)
    with pytest.raises(ConfigError, match="different shards: other images or labels under the same name"):
        make(noise(4), tmp_path)


def test_overwrite_leaves_no_shard_of_a_larger_set(tmp_path: Path) -> None:
    make(noise(10), tmp_path)
    assert make(noise(4), tmp_path, overwrite=True) == MANIFEST_ONLY


def test_a_damaged_set_is_not_finished(tmp_path: Path) -> None:
    make(noise(10), tmp_path)
    (tmp_path / "000001.tar").unlink()
    with pytest.raises(ConfigError, match=r"holds damaged shards: .*000001\.tar is missing.*--overwrite"):
        make(noise(10), tmp_path)


@pytest.mark.parametrize("name", ["notes.txt", "000000.tar", "000000.npy"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_someone_else_are_never_changed(tmp_path: Path, name: str, overwrite: bool) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(
        ConfigError, match=f"is not a shard directory: it holds 1 other file, for example {name}"
    ):
        make(noise(4), tmp_path, overwrite=overwrite)
    assert contents(tmp_path) == {name: b"precious"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_shards_indexed_in_place_are_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    make(noise(10), tmp_path)
    for file in [*tmp_path.glob("*.npy"), tmp_path / "manifest.json"]:
        file.unlink()
    index_in_place(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match="indexed in place, so they are not replaced"):
        make(noise(10), tmp_path, overwrite=overwrite)
    assert contents(tmp_path) == before


def test_out_must_not_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file is a file"):
        make(noise(4), tmp_path / "file")
    with pytest.raises(StorageError, match="file/out cannot be written: Not a directory"):
        make(noise(4), tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": (8, 0)}, "--resolution 8x0 is out of range: each side must be 1 to 4096 pixels"),
        (
            {"resolution": (5000, 8)},
            "--resolution 5000x8 is out of range: each side must be 1 to 4096 pixels",
        ),
        ({"channels": 2}, r"--channels 2 is not supported: expected 1 \(grey\), 3 \(colour\) or 4"),
        ({"samples_per_shard": 0}, "--samples-per-shard 0 leaves shards without images"),
        (
            {"encoding": "jpeg", "quality": 101},
            "--quality 101 is out of range: the JPEG quality must be 1 to 100",
        ),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(noise(4), tmp_path, **options)


def test_an_empty_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="noise has no images"):
        make(noise(0), tmp_path)


def test_only_a_finished_set_is_found(tmp_path: Path) -> None:
    plan = plan_shards(noise(4), Conversion((8, 8), 3), samples_per_shard=4)
    assert find_finished(tmp_path, plan) is None
    make(noise(4), tmp_path)
    assert find_finished(tmp_path, plan) == load_manifest(tmp_path)


def test_a_selection_limits_what_is_written(tmp_path: Path) -> None:
    write(noise(10), tmp_path, selection=Selection(classes=("odd",), limit=3))
    manifest = load_manifest(tmp_path)
    assert (manifest.count, manifest.classes) == (3, ("odd",))
