"""Checking finished shards, and the sheet of samples."""

from __future__ import annotations

import io
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.inspect import check_shards, contact_sheet
from pipeline.data.manifest import Shard, file_sha256, load_manifest
from pipeline.data.sources import open_source
from pipeline.data.tar_index import index_shard
from pipeline.data.writer import make_shards
from pipeline.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def sound_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(12):
        path = folder / ("dark" if number < 6 else "light") / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), number * 20).save(path)
    out = tmp_path_factory.mktemp("shards")
    source = open_source(str(folder), root=None, split="train")
    make_shards(source, out, resolution=8, channels=1, samples_per_shard=5)
    return out


@pytest.fixture
def shards(sound_shards: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(sound_shards, tmp_path / "shards")


def replace_tar(shards: Path, members: list[tuple[str, bytes]]) -> None:
    """Put another first shard in place and make index and manifest agree with it."""
    path = shards / "000000.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    index = index_shard(path)
    np.save(shards / "000000.npy", index)
    shard = Shard(
        "000000.tar",
        len(index),
        path.stat().st_size,
        file_sha256(path),
        "000000.npy",
        file_sha256(shards / "000000.npy"),
    )
    manifest = load_manifest(shards)
    changed = replace(manifest, shards=(shard, *manifest.shards[1:]))
    (shards / "manifest.json").write_text(changed.to_json())


def png(*size: int, mode: str = "L") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, format="PNG")
    return stream.getvalue()


def test_sound_shards_have_no_findings(shards: Path) -> None:
    report = check_shards(shards)
    assert report.findings == ()
    assert report.manifest == load_manifest(shards)


def test_a_missing_manifest_is_raised(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no manifest\.json"):
        check_shards(tmp_path)


def test_defects_in_different_files_are_all_found(shards: Path) -> None:
    tar = bytearray((shards / "000000.tar").read_bytes())
    offset, size, _ = index_shard(shards / "000000.tar")[1].tolist()
    tar[offset + size // 2] ^= 0xFF
    (shards / "000000.tar").write_bytes(tar)
    (shards / "000001.tar").write_bytes((shards / "000001.tar").read_bytes()[:3000])
    (shards / "000002.npy").unlink()
    findings = check_shards(shards).findings
    assert all("\n" not in finding for finding in findings)
    for name, defect in (
        ("000000.tar", "SHA-256 is not the manifest's"),
        ("000001.tar", "3000 bytes instead of"),
        ("000001.tar", "SHA-256 is not the manifest's"),
        ("000001.tar", "not a whole, uncompressed tar file"),
        ("000002.npy", "missing"),
    ):
        assert any(f"{shards / name}: " in line and defect in line for line in findings), (name, defect)


def test_an_index_that_disagrees_with_its_tar_file_is_found(shards: Path) -> None:
    index = np.load(shards / "000001.npy")
    index[0, 0] += 1
    np.save(shards / "000001.npy", index)
    findings = check_shards(shards).findings
    assert [finding.split(": ", 1)[1] for finding in findings] == [
        "its SHA-256 is not the manifest's, so its content changed",
        "does not agree with the members of 000001.tar",
    ]


def test_a_damaged_index_file_is_found(shards: Path) -> None:
    (shards / "000001.npy").write_bytes(b"hello")
    assert any("000001.npy is no shard index" in finding for finding in check_shards(shards).findings)


def test_images_that_do_not_fit_the_manifest_are_found_one_by_one(shards: Path) -> None:
    members = [
        ("0.cls", b"0"),
        ("0.png", b"no image"),
        ("1.cls", b"7"),
        ("1.png", png(8, 8)),
        ("2.cls", b"1"),
        ("2.png", png(9, 8)),
        ("3.cls", b"1"),
        ("3.png", png(8, 8, mode="RGB")),
        ("4.png", png(8, 8)),
    ]
    replace_tar(shards, members)
    findings = check_shards(shards).findings
    expected = [
        "image 0: not a PNG",
        "image 1: label 7 is outside 0 to 1",
        "image 2: 9 x 8 in mode L instead of 8 x 8 in mode L",
        "image 3: 8 x 8 in mode RGB instead of 8 x 8 in mode L",
        "image 4: label -1 is outside 0 to 1",
    ]
    assert len(findings) == len(expected)
    for finding, start in zip(findings, expected, strict=True):
        assert finding.startswith(f"{shards / '000000.tar'}: {start}")


def test_the_sheet_shows_evenly_spaced_samples_in_reading_order(shards: Path) -> None:
    sheet = np.asarray(contact_sheet(shards, 2, 2))
    height, width = sheet.shape
    quarters = [sheet[top + 10, left + 10] for top in (0, height // 2) for left in (0, width // 2)]
    assert quarters == [0, 80, 140, 220]  # the samples 0, 4, 7 and 11 of 12


def test_the_sheet_has_class_names_below_the_images(shards: Path) -> None:
    sheet = np.asarray(contact_sheet(shards, 1, 1))
    caption = sheet[2 + 56 :, 2:58]
    assert caption.shape[0] >= 12
    assert (caption < 128).sum() > 10


@pytest.mark.parametrize(
    ("asked", "rows", "columns"),
    [((4, 4), 3, 4), ((1_000_000, 5), 3, 5), ((10**9, 10**9), 1, 12), ((1, 13), 1, 12), ((10**9, 1), 12, 1)],
)
def test_a_sheet_larger_than_the_set_is_cut_to_it(
    shards: Path, asked: tuple[int, int], rows: int, columns: int
) -> None:
    assert contact_sheet(shards, *asked).size == contact_sheet(shards, rows, columns).size


def test_a_sheet_leaves_cells_empty_after_the_last_sample(shards: Path) -> None:
    sheet = np.asarray(contact_sheet(shards, 3, 5))
    assert (sheet[-60:, -3 * 58 :] == 255).all()


def test_a_sheet_of_too_many_pixels_is_refused(shards: Path) -> None:
    manifest = load_manifest(shards)
    (shards / "manifest.json").write_text(replace(manifest, resolution=(8192, 8192)).to_json())
    with pytest.raises(ConfigError, match=r"A sheet of 3 x 4 would have .* pixels.*fewer --rows"):
        contact_sheet(shards, 8, 4)


def test_a_sheet_without_cells_is_refused(shards: Path) -> None:
    with pytest.raises(ConfigError, match="A sheet of 0 x 3 has no cells"):
        contact_sheet(shards, 0, 3)


def test_a_sheet_of_a_damaged_image_names_it(shards: Path) -> None:
    replace_tar(shards, [("0.cls", b"0"), ("0.png", b"no image")])
    with pytest.raises(DataError, match=r"000000\.tar, image 0: not a PNG.*wgan shards check"):
        contact_sheet(shards, 1, 1)
