"""Writing shards: the files, and what remains if writing fails."""

from __future__ import annotations

import fcntl
import io
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from pipeline.data.format.manifest import check_hashes, check_sizes, load_index, load_manifest
from pipeline.data.format.tar_index import index_shard
from pipeline.data.inspecting.index_in_place import index_in_place
from pipeline.data.making.convert import Conversion
from pipeline.data.making.plan import Part, plan_shards
from pipeline.data.making.selection import Selection
from pipeline.data.making.writer import find_finished, make_shards, merge_parts
from pipeline.data.sources import Picture, Source
from pipeline.errors import ConfigError, DataError, PipelineError, RunLockedError, StorageError
from tests.shards import Given, digits, noise, write

MANIFEST_ONLY = ["000000.npy", "000000.tar", "manifest.json"]


def make(source: Source, out: Path, overwrite: bool = False, **options: object) -> list[str]:
    """Make shards of 8 x 8 colour images, by default 4 per shard; return the names of all files."""
    settings: dict[str, object] = {"resolution": (8, 8), "channels": 3, **options}
    per_shard = settings.pop("samples_per_shard", 4)
    plan = plan_shards(source, Conversion(**settings), samples_per_shard=per_shard)  # type: ignore[arg-type]
    make_shards(plan, out, overwrite=overwrite)
    return names(out)


def names(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir())


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


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
        ({"channels": 2}, r"--channels 2 is not supported: expected 1 \(grey\) or 3 \(colour\)"),
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


class Failing(Given):
    """Fails at image 6 from the second read on; the first read estimates the size of the shards."""

    def __init__(self, failure: Callable[[], object]) -> None:
        whole = noise(10)
        super().__init__(whole.pictures, whole.labels, whole.classes, "noise")
        self.fail = failure
        self.is_armed = False

    def read(self, position: int) -> Picture:
        if position == 6:
            if self.is_armed:
                self.fail()
            self.is_armed = True
        return super().read(position)


def interrupt() -> None:
    raise KeyboardInterrupt


def test_finished_shards_are_not_made_again_after_an_interruption(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(Failing(interrupt), tmp_path)
    assert names(tmp_path) == [".making", ".plan.json", "000000.json", "000000.npy", "000000.tar"]
    made = (tmp_path / "000000.tar").stat().st_mtime_ns
    make(noise(10), tmp_path)
    assert (tmp_path / "000000.tar").stat().st_mtime_ns == made
    make(noise(10), tmp_path / "clean")
    clean = contents(tmp_path / "clean")
    shutil.rmtree(tmp_path / "clean")
    assert contents(tmp_path) == clean


def test_an_unfinished_set_of_another_plan_is_kept_until_overwrite(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(Failing(interrupt), tmp_path)
    with pytest.raises(
        ConfigError, match=r"already holds different shards: their channels is 3, not 1.*--overwrite"
    ):
        make(noise(10), tmp_path, channels=1)
    make(noise(10), tmp_path, channels=1, overwrite=True)
    assert load_manifest(tmp_path).channels == 1


@pytest.mark.parametrize("damage", ["", "{", '{"shard": {}, "bad": []}', '{"shard": null}'])
def test_only_the_shard_of_a_damaged_record_is_made_again(tmp_path: Path, damage: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(Failing(interrupt), tmp_path)
    (tmp_path / "000000.json").write_text(damage)
    assert len(make(noise(10), tmp_path)) == 7


def bad_images(*bad: int) -> Given:
    """Twelve PNG files, some of them truncated."""
    from pipeline.data.format.codecs import encode

    files = [encode(pixels, "png", 95) for pixels in noise(12).pictures]  # type: ignore[arg-type]
    return Given([file[:-20] if number in bad else file for number, file in enumerate(files)])


def test_a_bad_image_is_an_error_with_name_reason_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"given: \.\./5 cannot be used: it is a damaged PNG\. Replace or remove .* --skip-bad N",
    ):
        make(bad_images(5), tmp_path)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_bad_images_within_the_limit_are_left_out_and_listed(tmp_path: Path, workers: int) -> None:
    source = bad_images(4, 5, 6, 7, 9)
    plan = plan_shards(source, Conversion((8, 8), 3), samples_per_shard=4)
    with pytest.raises(
        DataError, match=r"more than --skip-bad 4 allows; for example \.\./\d: it is a damaged PNG"
    ):
        make_shards(plan, tmp_path, skip_bad=4, workers=workers)
    manifest = make_shards(plan, tmp_path, skip_bad=5, workers=workers)
    assert manifest is not None
    # All images of the second shard are bad, so it does not exist.
    assert [(shard.name, shard.count) for shard in manifest.shards] == [("000000.tar", 4), ("000002.tar", 3)]
    report = (tmp_path / "bad-images.txt").read_text().splitlines()
    assert report == [f"../{number}\tit is a damaged PNG" for number in (4, 5, 6, 7, 9)]
    assert find_finished(tmp_path, plan) == manifest


def test_a_set_of_only_bad_images_is_refused(tmp_path: Path) -> None:
    source = bad_images(*range(12))
    plan = plan_shards(source, Conversion((8, 8), 3), samples_per_shard=4)
    with pytest.raises(
        DataError, match=r"given: no image can be used, for example \.\./0: it is a damaged PNG"
    ):
        make_shards(plan, tmp_path, skip_bad=12)


@pytest.mark.parametrize("label", [None, -1, 2])
def test_a_label_outside_the_classes_is_refused(tmp_path: Path, label: int | None) -> None:
    with pytest.raises(DataError, match=f"has label {label}, but the source has 2 classes, numbered from 0"):
        make(Given(noise(2).pictures, [0, label], ("even", "odd")), tmp_path)


@pytest.mark.parametrize("where", ["one directory", "directories of their own"])
def test_merged_parts_have_the_bytes_of_the_whole(tmp_path: Path, where: str) -> None:
    source, out = noise(22), tmp_path / "out"
    plan = plan_shards(source, Conversion((8, 8), 3), samples_per_shard=4)
    places = [out if where == "one directory" else tmp_path / str(number) for number in (1, 2, 3)]
    for number, place in enumerate(places, start=1):
        with pytest.raises(
            DataError, match=r"not complete: \d of 6 shards are missing: 00000\d|holds no parts"
        ):
            merge_parts(out, [place for place in places[: number - 1] if place != out])
        assert make_shards(plan, place, part=Part(number, 3)) is None
    merge_parts(out, [place for place in places if place != out])
    make(source, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def test_a_merge_never_changes_files_of_someone_else(tmp_path: Path) -> None:
    plan = plan_shards(noise(8), Conversion((8, 8), 3), samples_per_shard=4)
    make_shards(plan, tmp_path / "1", part=Part(1, 2))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "000000.tar").write_text("precious")
    with pytest.raises(
        ConfigError, match=r"is not a shard directory: it holds 1 other file, for example 000000\.tar"
    ):
        merge_parts(tmp_path / "out", [tmp_path / "1"])
    assert contents(tmp_path / "out") == {"000000.tar": b"precious"}


def test_repaired_images_are_used_on_the_next_run(tmp_path: Path) -> None:
    def plan(source: Given) -> Any:
        return plan_shards(source, Conversion((8, 8), 3), samples_per_shard=2)

    with pytest.raises(DataError, match="more than --skip-bad 1 allows"):
        make_shards(plan(bad_images(1, 5)), tmp_path, skip_bad=1)
    manifest = make_shards(plan(bad_images()), tmp_path)
    assert manifest is not None
    assert manifest.count == 12


def test_parts_of_different_plans_are_not_merged(tmp_path: Path) -> None:
    source = noise(8)
    for number, channels in ((1, 1), (2, 3)):
        plan = plan_shards(source, Conversion((8, 8), channels), samples_per_shard=4)
        make_shards(plan, tmp_path / str(number), part=Part(number, 2))
    with pytest.raises(ConfigError, match="2 already holds different shards: their channels is 3, not 1"):
        merge_parts(tmp_path / "out", [tmp_path / "1", tmp_path / "2"])


def test_a_directory_is_locked_while_shards_are_made(tmp_path: Path) -> None:
    with (tmp_path / ".making").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RunLockedError, match="Another process is making shards in"):
            make(noise(4), tmp_path)
    make(noise(4), tmp_path)


PROGRAM = """
import sys
from pathlib import Path
from typing import Any
from pipeline.data.making.convert import Conversion
from pipeline.data.making.plan import plan_shards
from pipeline.data.sources import Spec, open_source
from pipeline.data.making.writer import make_shards

if __name__ == "__main__":
    digits = open_source(Spec("digits"))
    plan = plan_shards(digits, Conversion((16, 16), 1), samples_per_shard=20)
    make_shards(plan, Path(sys.argv[1]), workers=2)
"""


@pytest.mark.slow
def test_a_rerun_after_a_kill_gives_the_same_bytes(tmp_path: Path) -> None:
    killed, script = tmp_path / "killed", tmp_path / "make.py"
    script.write_text(PROGRAM)
    process = subprocess.Popen([sys.executable, script, killed], cwd=Path.cwd(), env={"PYTHONPATH": "."})
    while not (killed / "000002.tar").exists():
        assert process.poll() is None, "the set was finished, or failed, before it could be killed"
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.05))
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = names(killed)
    assert "manifest.json" not in left
    for name in left:
        if name.endswith(".tar") and not name.startswith("."):
            assert len(index_shard(killed / name).rows) == 20
    # Workers of the killed process may still be running: what they write must not harm the next run.
    for place in (killed, tmp_path / "clean"):
        plan = plan_shards(digits(), Conversion((16, 16), 1), samples_per_shard=20)
        make_shards(plan, place)
    assert contents(killed) == contents(tmp_path / "clean")


@pytest.fixture
def small_disk(mount_disk: Callable[[str], Path]) -> Path:
    """A file system of one megabyte."""
    return mount_disk("size=1m")


def test_a_too_small_disk_is_refused_before_anything_is_written(small_disk: Path) -> None:
    with pytest.raises(
        StorageError, match=r"disk/out has 0\.00 GB of free space, but 1,000 images will need about 0\.00 GB"
    ):
        make(noise(1000), small_disk / "out")
    assert names(small_disk) == []


def test_finished_shards_are_kept_when_the_disk_is_full(small_disk: Path) -> None:
    filler = small_disk / "filler"

    def fill() -> None:
        filler.write_bytes(bytes(shutil.disk_usage(small_disk).free))

    with pytest.raises(StorageError, match=r"000001\.\w+ cannot be written: No space left on device\. Free"):
        make(Failing(fill), small_disk / "out", samples_per_shard=5)
    assert [name for name in names(small_disk / "out") if name.endswith("tar")] == ["000000.tar"]
    filler.unlink()
    assert len(make(noise(10), small_disk / "out", samples_per_shard=5)) == 5


def test_a_file_size_limit_is_a_storage_error(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(StorageError, match=r"000000\.tar cannot be written: File too large"):
            make(noise(100), tmp_path, samples_per_shard=100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "000000.tar").exists()


def test_only_a_finished_set_is_found(tmp_path: Path) -> None:
    plan = plan_shards(noise(4), Conversion((8, 8), 3), samples_per_shard=4)
    assert find_finished(tmp_path, plan) is None
    make(noise(4), tmp_path)
    assert find_finished(tmp_path, plan) == load_manifest(tmp_path)


class Dying(Given):
    """Kills the process that reads its last image, unless it is this one."""

    def __init__(self, here: int) -> None:
        super().__init__(noise(12).pictures)
        self.here = here

    def read(self, position: int) -> Picture:
        if position == 11 and os.getpid() != self.here:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(position)


@pytest.mark.slow
def test_a_killed_worker_is_reported(tmp_path: Path) -> None:
    source = Dying(os.getpid())
    plan = plan_shards(source, Conversion((8, 8), 3), samples_per_shard=4)
    with pytest.raises(PipelineError, match="A worker process was killed, perhaps because memory ran out"):
        make_shards(plan, tmp_path, workers=2)


def test_a_selection_limits_what_is_written(tmp_path: Path) -> None:
    write(noise(10), tmp_path, selection=Selection(classes=("odd",), limit=3))
    manifest = load_manifest(tmp_path)
    assert (manifest.count, manifest.classes) == (3, ("odd",))
