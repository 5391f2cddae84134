"""Checking a set: every defect is found and located, and duplicates are counted."""

from __future__ import annotations

import io
import shutil
import tarfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tqdm import tqdm

from pipeline.data.format.codecs import encode
from pipeline.data.format.file_checks import file_sha256
from pipeline.data.format.manifest import Shard, load_manifest
from pipeline.data.inspecting.check import check_shards
from pipeline.data.inspecting.shard_index import index_shard
from pipeline.data.threads import in_threads
from pipeline.errors import DataError
from tests.shards import Given, noise, write

CHANGED = "its SHA-256 differs from the one in manifest.json, so its content has changed"


@pytest.fixture(scope="module")
def valid_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("valid")
    write(noise(12), out, samples_per_shard=5)
    return out


@pytest.fixture
def shards(valid_shards: Path, tmp_path: Path) -> Path:
    """A copy to damage: 12 images with alternating labels in shards of 5, 5 and 2."""
    return shutil.copytree(valid_shards, tmp_path / "shards")


def findings_of(shards: Path) -> list[str]:
    """The findings, with the names of files instead of their paths."""
    return [finding.replace(f"{shards}/", "") for finding in check_shards(shards).findings]


def agree_with_tar(shards: Path, ignores_others: bool = False) -> None:
    """Make the index of the first shard, and the manifest, agree with its tar file."""
    path = shards / "000000.tar"
    rows = index_shard(path, ignores_others).rows
    np.save(shards / "000000.npy", rows)
    shard = Shard(
        *("000000.tar", len(rows), path.stat().st_size, file_sha256(path)),
        *("000000.npy", file_sha256(shards / "000000.npy")),
    )
    manifest = load_manifest(shards)
    changed = replace(manifest, shards=(shard, *manifest.shards[1:]))
    (shards / "manifest.json").write_text(changed.to_json())


def replace_tar(shards: Path, members: list[tuple[str, bytes]]) -> None:
    """Replace the first shard."""
    with tarfile.open(shards / "000000.tar", "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def image(height: int, width: int, channels: int, encoding: str = "png") -> bytes:
    pixels = np.arange(height * width * channels, dtype=np.uint8).reshape(height, width, channels)
    return encode(pixels, encoding, 90)  # type: ignore[arg-type]


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("encoding", ["png", "jpeg", "raw"])
@pytest.mark.parametrize("labelled", [True, False])
def test_undamaged_shards_of_every_encoding_have_no_findings(
    tmp_path: Path, encoding: str, labelled: bool
) -> None:
    manifest = write(noise(9, labelled=labelled), tmp_path / "shards", encoding=encoding)
    report = check_shards(tmp_path / "shards")
    assert (report.manifest, report.findings, report.remarks) == (manifest, (), ())
    assert report.is_valid
    assert report.verdict == "valid"


def test_a_missing_manifest_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no manifest\.json"):
        check_shards(tmp_path)


def test_all_defects_are_found_in_the_order_of_the_manifest(shards: Path) -> None:
    offset, size, _, _ = index_shard(shards / "000000.tar").rows[1].tolist()
    flip(shards / "000000.tar", offset + size // 2)
    whole = (shards / "000001.tar").stat().st_size
    cut = int(index_shard(shards / "000001.tar").rows[3, 0]) + 10
    (shards / "000001.tar").write_bytes((shards / "000001.tar").read_bytes()[:cut])
    (shards / "000002.npy").unlink()
    findings = findings_of(shards)
    cut_short = findings.pop(4)
    assert findings == [
        f"000000.tar: {CHANGED}",
        "000000.tar: image 1: its CRC-32 differs from the one in the index, so its bytes have changed",
        f"000001.tar: {cut:,} bytes instead of {whole:,}",
        f"000001.tar: {CHANGED}",
        "000001.tar: images 3 to 4: truncated: the file ends before the image does",
        "000002.npy: missing",
    ]
    assert cut_short.startswith("000001.tar is not a complete tar file")
    assert check_shards(shards).verdict == "damaged (7 defects)"


def test_one_defect_is_counted_as_one(shards: Path) -> None:
    (shards / "000001.tar").unlink()
    report = check_shards(shards)
    assert report.findings == (f"{shards / '000001.tar'}: missing",)
    assert not report.is_valid
    assert report.verdict == "damaged (1 defect)"


def test_images_of_a_shard_without_an_index_are_still_checked(shards: Path) -> None:
    replace_tar(shards, [("0.cls", b"0"), ("0.png", image(8, 8, 1))])
    (shards / "000000.npy").unlink()
    assert "000000.tar: image 0: png of 8 x 8 in grey instead of png of 8 x 8 in colour" in findings_of(
        shards
    )


def test_a_flipped_byte_between_members_is_found_by_the_hash(shards: Path) -> None:
    offset, size, _, _ = index_shard(shards / "000000.tar").rows[0].tolist()
    assert size % 512
    flip(shards / "000000.tar", offset + size)  # in the padding of the block
    assert findings_of(shards) == [f"000000.tar: {CHANGED}"]


def test_an_index_that_differs_from_its_tar_file_is_found(shards: Path) -> None:
    index = np.load(shards / "000001.npy")
    offset, size, label, _ = index[3].tolist()
    index[3, 0] += 1
    index[4, 2] = 0
    np.save(shards / "000001.npy", index)
    assert findings_of(shards) == [
        f"000001.npy: {CHANGED}",
        "000001.npy: 2 of 5 rows differ from the tar file; row 3 has the offset, size and label "
        f"[{offset + 1}, {size}, {label}] instead of [{offset}, {size}, {label}]",
    ]


def test_a_damaged_index_file_is_found(shards: Path) -> None:
    (shards / "000001.npy").write_bytes(b"hello")
    assert any("000001.npy is not a shard index" in finding for finding in findings_of(shards))


def test_a_tar_file_with_another_number_of_samples_is_found(shards: Path) -> None:
    replace_tar(shards, [("0.cls", b"0"), ("0.png", image(8, 8, 3))])
    assert "000000.tar: 1 sample instead of 5" in findings_of(shards)


def test_every_image_that_does_not_fit_the_manifest_is_found(shards: Path) -> None:
    members = [
        *(("0.cls", b"0"), ("0.png", b"no image")),
        *(("1.cls", b"7"), ("1.png", image(8, 8, 3))),
        *(("2.cls", b"1"), ("2.png", image(9, 8, 3))),
        *(("3.cls", b"2"), ("3.png", image(8, 8, 1))),
        ("4.png", image(8, 8, 3)),
        *(("5.cls", b"1"), ("5.png", image(8, 8, 3)[:-20])),
    ]
    replace_tar(shards, members)
    agree_with_tar(shards)
    assert findings_of(shards) == [
        "000000.tar: image 0: not an 8-bit grey, RGB or RGBA image of the expected encoding",
        "000000.tar: image 1: label 7 is outside 0 to 1",
        "000000.tar: image 2: png of 9 x 8 in colour instead of png of 8 x 8 in colour",
        "000000.tar: image 3: png of 8 x 8 in grey instead of png of 8 x 8 in colour; label 2 is outside 0 to 1",
        "000000.tar: image 4: label -1 is outside 0 to 1",
        "000000.tar: image 5: a damaged PNG: its part IDAT says that it has 39 bytes, but the file ends before them",
    ]


def test_consecutive_images_with_the_same_defect_share_a_line(shards: Path) -> None:
    broken = {1, 2, 3, 5}
    content = [(f"{number}.png", b"no" if number in broken else image(8, 8, 3)) for number in range(6)]
    replace_tar(shards, [member for pair in content for member in ((f"{pair[0][0]}.cls", b"0"), pair)])
    agree_with_tar(shards)
    defect = "not an 8-bit grey, RGB or RGBA image of the expected encoding"
    assert findings_of(shards) == [
        f"000000.tar: images 1 to 3: {defect}",
        f"000000.tar: image 5: {defect}",
    ]


def test_a_grey_jpeg_among_coloured_ones_is_found(tmp_path: Path) -> None:
    write(noise(4), tmp_path, encoding="jpeg")
    members = [
        *(("0.cls", b"0"), ("0.jpg", image(8, 8, 1, "jpeg"))),
        *(("1.cls", b"1"), ("1.jpg", image(8, 8, 3, "jpeg"))),
    ]
    replace_tar(tmp_path, members)
    agree_with_tar(tmp_path)
    assert findings_of(tmp_path) == [
        "000000.tar: image 0: jpeg of 8 x 8 in grey instead of jpeg of 8 x 8 in colour"
    ]


def test_images_of_another_encoding_are_found(shards: Path) -> None:
    replace_tar(shards, [("0.cls", b"0"), ("0.jpg", image(8, 8, 3, "jpeg"))])
    agree_with_tar(shards)
    assert "000000.tar: its images are jpeg, but manifest.json says png" in findings_of(shards)


def test_labels_in_a_set_without_classes_are_found(shards: Path) -> None:
    manifest = load_manifest(shards)
    (shards / "manifest.json").write_text(replace(manifest, classes=()).to_json())
    assert "000002.tar: image 1: label 1 in a set without labels" in findings_of(shards)


def test_other_members_are_a_defect_only_in_shards_made_here(shards: Path) -> None:
    members = [("0.cls", b"0"), ("0.json", b"{}"), ("0.png", image(8, 8, 3)), ("0.txt", b"")]
    replace_tar(shards, members)
    agree_with_tar(shards, ignores_others=True)
    assert findings_of(shards) == [
        "000000.tar holds '0.json', but a shard holds only images (png, jpg, jpeg, npy) and KEY.cls. "
        "Make the shards again with `wgan shards make`."
    ]
    (shards / "manifest.json").write_text(replace(load_manifest(shards), plan={}).to_json())
    report = check_shards(shards)
    assert report.findings == ()
    assert report.left_out == ("2 files of other kinds (1 .json, 1 .txt), for example 0.json",)


def test_unlisted_files_are_reported_but_are_not_defects(shards: Path) -> None:
    shutil.copy(shards / "000000.tar", shards / "000003.tar")
    (shards / "notes.txt").write_text("notes")
    report = check_shards(shards)
    assert report.verdict == "valid"
    assert report.left_out == ("2 files of other kinds (1 .tar, 1 .txt), for example 000003.tar",)


def repeated(repeats: dict[int, int], labels: list[int | None], classes: tuple[str, ...]) -> Given:
    """Random images, some of them duplicates."""
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8, 3), dtype=np.uint8)
    for copy, original in repeats.items():
        pixels[copy] = pixels[original]
    return Given(pixels, labels, classes)


def test_duplicates_are_counted_over_the_whole_set_and_shown(tmp_path: Path) -> None:
    write(repeated({5: 2, 9: 2, 3: 0}, [0] * 10, ("one",)), tmp_path / "shards", samples_per_shard=4)
    report = check_shards(tmp_path / "shards")
    assert report.is_valid
    assert report.verdict == "valid, with 3 duplicates"
    assert (report.duplicates.copies, report.duplicates.relabelled) == (3, 0)
    assert report.duplicates.examples == (
        "000000.tar 0 = 000000.tar 3",
        "000000.tar 2 = 000001.tar 1",
        "000000.tar 2 = 000002.tar 1",
    )
    assert report.remarks == (f"3 duplicates: {', '.join(report.duplicates.examples)}",)


def test_duplicates_with_another_label_are_listed_first(tmp_path: Path) -> None:
    labels: list[int | None] = [0, 1, 0, 0, 0, 1]
    write(repeated({2: 0, 5: 3}, labels, ("cat", "dog")), tmp_path / "shards", samples_per_shard=4)
    report = check_shards(tmp_path / "shards")
    assert report.remarks == (
        "2 duplicates, 1 of them with another label: 000000.tar 3 (cat) = 000001.tar 1 (dog), "
        "000000.tar 0 = 000000.tar 2",
    )


def test_only_some_of_many_duplicates_are_shown(tmp_path: Path) -> None:
    write(repeated(dict.fromkeys(range(1, 8), 0), [None] * 8, ()), tmp_path / "shards")
    report = check_shards(tmp_path / "shards")
    assert report.verdict == "valid, with 7 duplicates"
    assert len(report.duplicates.examples) == 5
    assert report.remarks[0].endswith(", 000000.tar 0 = 000001.tar 1, …")


def test_damaged_images_are_not_duplicates(shards: Path) -> None:
    replace_tar(shards, [("0.cls", b"0"), ("0.png", b"no"), ("1.cls", b"0"), ("1.png", b"no")])
    agree_with_tar(shards)
    assert check_shards(shards).duplicates.copies == 0


def test_results_of_threads_are_in_order_whichever_ends_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.threads.available_cores", lambda: 4)
    first_may_end = threading.Event()

    def work(item: int, advance: Callable[[int], None]) -> int:
        if item == 0:
            assert first_may_end.wait(10)
        if item == 3:
            first_may_end.set()
        advance(item)
        return item

    with tqdm(disable=True) as bar:
        assert list(in_threads(work, range(4), bar)) == [0, 1, 2, 3]


def test_an_error_stops_the_other_threads_at_their_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.threads.available_cores", lambda: 2)
    is_running = threading.Event()

    def work(item: int, advance: Callable[[int], None]) -> None:
        if item == 0:
            assert is_running.wait(10)
            raise DataError("the first")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            is_running.set()
            advance(1)
        raise AssertionError("was not stopped")

    start = time.monotonic()
    with tqdm(disable=True) as bar, pytest.raises(DataError, match="the first"):
        list(in_threads(work, range(2), bar))
    assert time.monotonic() - start < 30
