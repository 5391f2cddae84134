"""Writing shards: the files themselves, and what is left when writing goes wrong."""

from __future__ import annotations

import fcntl
import io
import random
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from pipeline.data.manifest import check_hashes, check_sizes, load_index, load_manifest
from pipeline.data.sources import Sample, Source, open_source
from pipeline.data.tar_index import index_shard
from pipeline.data.writer import find_finished, make_shards, plan_shards
from pipeline.errors import ConfigError, DataError, PipelineError, RunLockedError, StorageError


class Noise:
    """Random images; a subclass may do something in the middle."""

    name = "noise"
    native_resolution = 8
    native_channels = 3

    def __init__(self, count: int, classes: tuple[str, ...] = ("even", "odd")) -> None:
        self.count = count
        self.classes = classes

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Sample]:
        pixels = np.random.default_rng(0).integers(0, 256, (self.count, 8, 8, 3), dtype=np.uint8)
        for number, image in enumerate(pixels):
            self.before(number)
            yield Sample(f"../{number}", image, number % 2 if self.classes else None)

    def before(self, number: int) -> None:
        pass


def make(source: Source, out: Path, **options: object) -> list[str]:
    """Make shards of 8 x 8 colour images, 4 a shard unless told otherwise; the names of all files left."""
    settings = {"resolution": 8, "channels": 3, "samples_per_shard": 4, **options}
    make_shards(source, out, **settings)  # type: ignore[arg-type]
    return names(out)


def names(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir())


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_shards_indexes_and_manifest_are_all_that_is_written(tmp_path: Path) -> None:
    assert make(Noise(10), tmp_path / "new" / "out") == [
        *("000000.npy", "000000.tar", "000001.npy", "000001.tar", "000002.npy", "000002.tar"),
        "manifest.json",
    ]
    manifest = load_manifest(tmp_path / "new" / "out")
    check_sizes(tmp_path / "new" / "out", manifest)
    check_hashes(tmp_path / "new" / "out", manifest.shards)
    assert [shard.count for shard in manifest.shards] == [4, 4, 2]
    assert (manifest.source, manifest.classes, manifest.channels) == ("noise", ("even", "odd"), 3)


def test_webdataset_reads_the_same_pixels_and_labels(tmp_path: Path) -> None:
    source = Noise(6)
    make(source, tmp_path, samples_per_shard=6)
    path = str(tmp_path / "000000.tar")
    samples = list(webdataset.WebDataset(path, shardshuffle=False).decode("pil"))
    assert [sample["__key__"] for sample in samples] == [f"{number:08d}" for number in range(6)]
    for sample, original in zip(samples, source, strict=True):
        assert np.array_equal(np.asarray(sample["png"]), original.image)
        assert sample["cls"] == original.label


def test_unlabelled_samples_have_no_label_member_and_index_minus_one(tmp_path: Path) -> None:
    make(Noise(4, classes=()), tmp_path)
    with tarfile.open(tmp_path / "000000.tar") as archive:
        assert archive.getnames() == [f"{number:08d}.png" for number in range(4)]
    assert (index_shard(tmp_path / "000000.tar")[:, 2] == -1).all()


def test_offsets_point_at_the_png_bytes_themselves(tmp_path: Path) -> None:
    source = Noise(10)
    make(source, tmp_path)
    images = iter(source)
    for shard in load_manifest(tmp_path).shards:
        with (tmp_path / shard.name).open("rb") as file:
            for offset, size, label in load_index(tmp_path, shard).tolist():
                original = next(images)
                file.seek(offset)
                pixels = np.asarray(Image.open(io.BytesIO(file.read(size))))
                assert np.array_equal(pixels, original.image)
                assert label == original.label


def test_two_makes_give_the_same_bytes(tmp_path: Path) -> None:
    make(Noise(10), tmp_path / "a")
    time.sleep(1.1)  # tar files keep times in seconds
    make(Noise(10), tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_finished_set_is_left_as_it_is(tmp_path: Path) -> None:
    make(Noise(10), tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    make(Noise(10), tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("options", [{"resolution": 4}, {"channels": 1}, {"samples_per_shard": 5}])
def test_a_set_of_another_plan_is_kept_until_overwrite(tmp_path: Path, options: dict[str, int]) -> None:
    make(Noise(10), tmp_path)
    with pytest.raises(ConfigError, match=r"already holds other shards: noise \(10 images.*--overwrite"):
        make(Noise(10), tmp_path, **options)
    make(Noise(10), tmp_path / "fresh", **options)
    fresh = contents(tmp_path / "fresh")
    shutil.rmtree(tmp_path / "fresh")
    make(Noise(10), tmp_path, overwrite=True, **options)
    assert contents(tmp_path) == fresh


def test_a_smaller_set_leaves_no_shard_of_the_larger_one_it_replaces(tmp_path: Path) -> None:
    make(Noise(10), tmp_path)
    assert make(Noise(4), tmp_path, overwrite=True) == ["000000.npy", "000000.tar", "manifest.json"]


def test_a_damaged_set_is_not_taken_for_finished(tmp_path: Path) -> None:
    make(Noise(10), tmp_path)
    (tmp_path / "000001.tar").unlink()
    with pytest.raises(ConfigError, match=r"damaged set of shards\. .*000001\.tar is missing.*--overwrite"):
        make(Noise(10), tmp_path)


@pytest.mark.parametrize("name", ["notes.txt", "000000.tar", "000000.npy"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_someone_else_are_never_touched(tmp_path: Path, name: str, overwrite: bool) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(ConfigError, match=f"not of a shard set, {name} for one, and they are left alone"):
        make(Noise(4), tmp_path, overwrite=overwrite)
    assert contents(tmp_path) == {name: b"precious"}


def test_out_must_not_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file is a file"):
        make(Noise(4), tmp_path / "file")
    with pytest.raises(StorageError, match="file/out cannot be written: Not a directory"):
        make(Noise(4), tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 0}, "resolution 0 is outside 1 to 4096"),
        ({"channels": 2}, r"1 \(grey\) or 3 \(colour\) channels, not 2"),
        ({"samples_per_shard": 0}, "at least 1 sample, not 0"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(Noise(4), tmp_path, **options)


def test_an_empty_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="noise has no images"):
        make(Noise(0), tmp_path)


class Failing(Noise):
    def __init__(self, failure: BaseException) -> None:
        super().__init__(10)
        self.failure = failure

    def before(self, number: int) -> None:
        if number == 6:
            raise self.failure


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (DataError("image 6 is broken"), DataError),
        (OSError("the disk of the source fell out"), DataError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_failure_in_the_middle_leaves_nothing(
    tmp_path: Path, failure: BaseException, raised: type[BaseException]
) -> None:
    with pytest.raises(raised):
        make(Failing(failure), tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize(("claimed", "message"), [(5, "gives more"), (9, "ended before its time")])
def test_a_source_that_miscounts_itself_is_refused(tmp_path: Path, claimed: int, message: str) -> None:
    class Miscounting(Noise):
        def __len__(self) -> int:
            return claimed

    with pytest.raises(DataError, match=message):
        make(Miscounting(6), tmp_path)


@pytest.mark.parametrize("label", [None, -1, 2])
def test_a_label_outside_the_classes_is_refused(tmp_path: Path, label: int | None) -> None:
    class Mislabelling(Noise):
        def __iter__(self) -> Iterator[Sample]:
            for sample in super().__iter__():
                yield sample._replace(label=label)

    with pytest.raises(DataError, match=f"has label {label}, outside its 2 classes"):
        make(Mislabelling(4), tmp_path)


def test_a_directory_being_made_is_locked(tmp_path: Path) -> None:
    with (tmp_path / ".making").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RunLockedError, match="Another process is making shards in"):
            make(Noise(4), tmp_path)
    make(Noise(4), tmp_path)


def test_a_kill_at_any_moment_leaves_no_manifest_and_a_rerun_gives_the_same_bytes(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path\n"
        "from pipeline.data.sources import open_source\n"
        "from pipeline.data.writer import make_shards\n"
        "digits = open_source('digits', root=None, split='train')\n"
        f"make_shards(digits, Path({str(tmp_path / 'killed')!r}), resolution=16, channels=1,"
        " samples_per_shard=40)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    while not (tmp_path / "killed" / "000002.tar").exists():
        assert process.poll() is None, "the set was finished, or failed, before it could be killed"
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.05))
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = names(tmp_path / "killed")
    assert "manifest.json" not in left
    for name in left:
        if name.endswith(".tar") and not name.startswith("."):
            assert len(index_shard(tmp_path / "killed" / name)) == 40

    digits = open_source("digits", root=None, split="train")
    for name in ("killed", "clean"):
        make_shards(digits, tmp_path / name, resolution=16, channels=1, samples_per_shard=40)
    assert contents(tmp_path / "killed") == contents(tmp_path / "clean")


@pytest.fixture
def small_disk(mount_disk: Callable[[str], Path]) -> Path:
    """A file system of one megabyte."""
    return mount_disk("size=1m")


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(small_disk: Path) -> None:
    with pytest.raises(StorageError, match=r"disk/out has 0\.00 GB free, but 1000 images may need"):
        make(Noise(1000), small_disk / "out")
    assert names(small_disk) == []


def test_a_disk_that_fills_in_the_middle_leaves_no_file(small_disk: Path) -> None:
    class Filling(Noise):
        def before(self, number: int) -> None:
            if number == 6:
                free = shutil.disk_usage(small_disk).free
                (small_disk / "filler").write_bytes(bytes(free))

    with pytest.raises(StorageError, match=r"000001\.tar cannot be written: No space left on device\. Free"):
        make(Filling(50), small_disk / "out", samples_per_shard=5)
    assert names(small_disk / "out") == []


def test_a_file_that_may_not_grow_is_a_storage_error_and_goes(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(StorageError, match=r"000000\.tar cannot be written: File too large"):
            make(Noise(100), tmp_path, samples_per_shard=100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == []


def test_a_finished_set_is_found_only_where_one_is(tmp_path: Path) -> None:
    plan = plan_shards(Noise(4), resolution=8, channels=3, samples_per_shard=4)
    assert find_finished(tmp_path / "absent", plan) is None
    make(Noise(4), tmp_path / "out")
    assert find_finished(tmp_path / "out", plan) == load_manifest(tmp_path / "out")


def write_tar(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("0.png", b"x"), ("0.png", b"x")], "'0.png' of the key '0' twice"),
        ([("0.png", b"x"), ("1.png", b"x"), ("0.cls", b"1")], "apart from its sample"),
        ([("0.cls", b"1")], "a label but no image for the key '0'"),
        ([("0.png", b"x"), ("0.pkl", b"x")], r"'0.pkl'; a shard holds KEY\.png and KEY\.cls only"),
        ([("0.b.png", b"x")], "'0.b.png'; a shard holds"),
        ([("0.cls", b"-1"), ("0.png", b"x")], "a label is a whole number"),
        ([("0.cls", b"9" * 5000), ("0.png", b"x")], "a label is a whole number"),
    ],
)
def test_members_that_make_no_samples_are_refused(
    tmp_path: Path, members: list[tuple[str, bytes]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        index_shard(write_tar(tmp_path / "0.tar", members))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_links_devices_and_folders_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        member = tarfile.TarInfo("0.png")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(DataError, match=r"'0\.png', which is a link, a folder, a device or a sparse file"):
        index_shard(tmp_path / "0.tar")


def test_sparse_members_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("0.png")
        member.pax_headers = {"GNU.sparse.size": "4096", "GNU.sparse.map": "0,1"}
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(DataError, match="sparse file"):
        index_shard(tmp_path / "0.tar")


@pytest.mark.parametrize("mode", ["w:gz", "w:xz"])
def test_compressed_tar_files_are_refused(tmp_path: Path, mode: str) -> None:
    with pytest.raises(DataError, match="is not a whole, uncompressed tar file"):
        index_shard(write_tar(tmp_path / "0.tar", [("0.png", b"x" * 2000)], mode))


@pytest.mark.parametrize("keep", [0, 100, 700, 1024, 1500, 2048, 2560])
def test_a_tar_file_cut_anywhere_is_refused(tmp_path: Path, keep: int) -> None:
    path = write_tar(tmp_path / "0.tar", [("0.png", b"x"), ("1.png", b"x")])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(PipelineError, match=r"0\.tar (is not a whole|has no end mark)"):
        index_shard(path)


def test_an_empty_but_whole_tar_file_has_an_empty_index(tmp_path: Path) -> None:
    assert index_shard(write_tar(tmp_path / "0.tar", [])).shape == (0, 3)
