"""The manifest: it reads back as written, and every kind of damaged set is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data.format.file_checks import check_hashes, check_sizes, file_sha256
from pipeline.data.format.indexes import load_index
from pipeline.data.format.manifest import Manifest, load_manifest
from pipeline.errors import DataError
from tests.shards import digits, write


@pytest.fixture(scope="module")
def valid_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    write(digits(), out, 8, 1, 1000)
    return out


@pytest.fixture
def shards(valid_shards: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(valid_shards, tmp_path / "shards")


def edit(directory: Path, change: Callable[[Any], object]) -> None:
    path = directory / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def flip_a_byte(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def check_all(directory: Path) -> Manifest:
    manifest = load_manifest(directory)
    check_sizes(directory, manifest)
    check_hashes(directory, manifest.shards)
    return manifest


def test_a_manifest_reads_back_as_written_and_undamaged_shards_pass(shards: Path) -> None:
    manifest = check_all(shards)
    assert manifest.to_json() == (shards / "manifest.json").read_text()
    assert (manifest.count, manifest.resolution, manifest.channels) == (1797, (8, 8), 1)
    assert [shard.count for shard in manifest.shards] == [1000, 797]
    assert manifest.bytes == sum(path.stat().st_size for path in shards.glob("*.tar"))


def test_the_identity_changes_with_any_shard(shards: Path) -> None:
    manifest = load_manifest(shards)
    changed = replace(manifest.shards[1], sha256="0" * 64)
    assert manifest.sha256 == load_manifest(shards).sha256
    assert manifest.sha256 != replace(manifest, shards=(manifest.shards[0], changed)).sha256


def test_progress_counts_every_byte(shards: Path) -> None:
    seen: list[int] = []
    path = next(shards.glob("*.tar"))
    file_sha256(path, seen.append)
    assert sum(seen) == path.stat().st_size


def test_a_missing_directory_or_manifest_says_how_to_make_shards(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"The shard directory .* does not exist\. .*wgan shards make"):
        load_manifest(tmp_path / "none")
    with pytest.raises(DataError, match=r"has no manifest\.json, so .* not a complete set"):
        load_manifest(tmp_path)


def test_what_is_no_set_of_shards_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"photos\.zip is a file, .* `wgan shards make .*photos\.zip OUT`"):
        load_manifest(tmp_path / "photos.zip")
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"holds tar files and no manifest\.json.* by a pattern, '.*/\*\.tar'"
    ):
        load_manifest(tmp_path)
    (tmp_path / ".plan.json").write_bytes(b"")
    with pytest.raises(DataError, match=r"has no manifest\.json, .* Make the shards with `wgan shards make`"):
        load_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "\udcff", "[]", pytest.param("[" * 100_000, id="deep")])
def test_an_unreadable_manifest_is_refused(shards: Path, text: str) -> None:
    (shards / "manifest.json").write_text(text, errors="surrogateescape")
    with pytest.raises(DataError, match=r"manifest\.json is damaged: i.*\. Make the shards"):
        load_manifest(shards)


@pytest.mark.parametrize("text", ["{}", '{"format": "wgan-shards/1"}'])
def test_another_format_is_refused_and_named(shards: Path, text: str) -> None:
    (shards / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"has the format .*, but this version reads 'wgan-shards/2'"):
        load_manifest(shards)


@pytest.mark.parametrize(
    "name", ["../000000.tar", "/etc/passwd", "a/b.tar", "..", "", ".hidden", "a\0b", "a" * 256, 7]
)
@pytest.mark.parametrize("field", ["name", "index"])
def test_a_path_instead_of_a_file_name_is_refused(shards: Path, field: str, name: object) -> None:
    edit(shards, lambda content: content["shards"][0].update({field: name}))
    with pytest.raises(DataError, match=rf"shards\[0\]\.{field} is "):
        load_manifest(shards)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("classes"),
        lambda content: content["shards"][0].pop("sha256"),
        lambda content: content.update(resolution=28),
        lambda content: content.update(resolution=[0, 28]),
        lambda content: content.update(channels=2),
        lambda content: content.update(encoding="gif"),
        lambda content: content.update(resolution=[float("inf"), 28]),
        lambda content: content.update(shards=[]),
        lambda content: content.update(shards=["000000.tar"]),
        lambda content: content["shards"][0].update(count=0),
        lambda content: content["shards"][0].update(count="1000"),
        lambda content: content["shards"][0].update(bytes=-1),
        lambda content: content.update(resolution=[10**9, 10**9]),
        lambda content: content.update(count=10**30),
        lambda content: content.update(classes=[1]),
    ],
)
def test_missing_and_mistyped_fields_are_refused(shards: Path, change: Callable[[Any], object]) -> None:
    edit(shards, change)
    with pytest.raises(DataError, match="is damaged"):
        load_manifest(shards)


def test_more_samples_than_a_shard_has_room_for_are_refused_without_taking_memory(shards: Path) -> None:
    edit(
        shards, lambda content: (content.update(count=10**9 + 797), content["shards"][0].update(count=10**9))
    )
    with pytest.raises(
        DataError, match=r"shards\[0\]\.count is 1000000000: input should be less than or equal"
    ):
        load_manifest(shards)
    edit(shards, lambda content: (content.update(count=50_797), content["shards"][0].update(count=50_000)))
    with pytest.raises(
        DataError, match=r"shards\[0\] .*50,000 samples do not fit into [\d,]+ bytes of a tar file"
    ):
        load_manifest(shards)


@pytest.mark.parametrize("name", ["manifest.json", "000001.tar", "000001.npy"])
@pytest.mark.parametrize("kind", ["pipe", "directory", "device", "link"])
def test_what_is_no_file_of_the_set_is_refused_at_once_with_the_reason(
    shards: Path, name: str, kind: str
) -> None:
    (shards / name).rename(shards.parent / "elsewhere")
    if kind == "pipe":
        os.mkfifo(shards / name)
    elif kind == "directory":
        (shards / name).mkdir()
    else:
        (shards / name).symlink_to("/dev/zero" if kind == "device" else "../elsewhere")
    found = {
        "pipe": "it is a named pipe, not a file",
        "directory": "it is a directory",
        "device": f"it is a link to /dev/zero, outside of {shards}",
        "link": f"it is a link to {shards.parent}/elsewhere, outside of {shards}",
    }
    with pytest.raises(DataError, match=rf"{name} cannot be (used|read): {found[kind]}"):
        check_all(shards)
    with pytest.raises(DataError, match=found[kind]):
        file_sha256(shards / name, within=shards)


def test_links_within_the_set_are_followed(shards: Path) -> None:
    (shards / "files").mkdir()
    for name in ("000001.tar", "000001.npy"):
        (shards / name).rename(shards / "files" / name)
        (shards / name).symlink_to(f"files/{name}")
    assert check_all(shards).count == 1797


def list_the_first_shard_again(content: Any) -> None:
    content["shards"].append(content["shards"][0])
    content["count"] += content["shards"][0]["count"]


def test_a_shard_or_an_index_that_is_listed_twice_is_refused(shards: Path) -> None:
    edit(shards, lambda content: content["shards"][0].update(index=content["shards"][1]["index"]))
    with pytest.raises(DataError, match=r"lists 000001\.npy 2 times"):
        load_manifest(shards)
    edit(shards, lambda content: content["shards"][0].update(index="000000.npy"))
    edit(shards, list_the_first_shard_again)
    with pytest.raises(DataError, match=r"lists 000000\.tar 2 times"):
        load_manifest(shards)


def test_a_count_that_does_not_add_up_is_refused(shards: Path) -> None:
    edit(shards, lambda content: content.update(count=1))
    with pytest.raises(DataError, match="its count is 1, but its shards hold 1,797 samples"):
        load_manifest(shards)


@pytest.mark.parametrize("name", ["000001.tar", "000001.npy"])
def test_a_missing_file_is_named(shards: Path, name: str) -> None:
    (shards / name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        check_sizes(shards, load_manifest(shards))


def test_a_truncated_tar_file_has_the_wrong_size(shards: Path) -> None:
    path = shards / "000001.tar"
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(
        DataError, match=r"000001\.tar has [\d,]+ bytes, but manifest\.json says [\d,]+: it was truncated"
    ):
        check_sizes(shards, load_manifest(shards))


@pytest.mark.parametrize("name", ["000001.tar", "000001.npy"])
def test_a_flipped_byte_is_found_by_the_hashes_but_not_by_the_sizes(shards: Path, name: str) -> None:
    flip_a_byte(shards / name, 2000)
    manifest = load_manifest(shards)
    check_sizes(shards, manifest)
    with pytest.raises(DataError, match=rf"{name} has SHA-256 .* its content has changed"):
        check_hashes(shards, manifest.shards)


def test_an_index_has_one_row_per_image(shards: Path) -> None:
    manifest = load_manifest(shards)
    index = load_index(shards, manifest.shards[1])
    assert (index.dtype, index.shape) == (np.int64, (797, 4))


def rows(row: list[int]) -> np.ndarray:
    """1,000 rows of an index, all alike."""
    return np.tile(np.array(row, dtype=np.int64), (1000, 1))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (np.zeros((2, 4), dtype=np.int64), "does not have the 1,000 rows of the index of 000000.tar"),
        (np.zeros((2, 3), dtype=np.int64), "is not a shard index"),
        (np.zeros((1000, 4), dtype=np.float64), "is not a shard index"),
        (np.zeros((4, 1000), dtype=np.int64).T, "is not a shard index"),
        (np.array([[None]]), "is not a shard index"),
        (rows([-1, 5, 0, 0]), "points outside"),
        (rows([0, 0, 0, 0]), "points outside"),
        (rows([1 << 40, 5, 0, 0]), "points outside"),
        (rows([5, (1 << 63) - 1, 0, 0]), "points outside"),
    ],
)
def test_an_index_of_another_shape_or_pointing_outside_is_refused(
    shards: Path, index: np.ndarray, message: str
) -> None:
    shard = load_manifest(shards).shards[0]
    np.save(shards / shard.index, index, allow_pickle=True)
    with pytest.raises(DataError, match=message):
        load_index(shards, shard)


@pytest.mark.parametrize("change", [lambda content: content[:-1], lambda content: content + b"x"])
def test_an_index_that_is_cut_short_or_continued_is_refused(
    shards: Path, change: Callable[[bytes], bytes]
) -> None:
    shard = load_manifest(shards).shards[0]
    path = shards / shard.index
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=r"000000\.npy is cut short, or does not have the 1,000 rows"):
        load_index(shards, shard)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(100), b"PK\x05\x06" + bytes(18)])
def test_an_index_that_is_not_an_array_file_is_refused(shards: Path, content: bytes) -> None:
    shard = load_manifest(shards).shards[0]
    (shards / shard.index).write_bytes(content)
    with pytest.raises(DataError, match="is not a shard index"):
        load_index(shards, shard)
