"""Shard sets as the webdataset library's data sets: the same samples as ours, and none of its open doors."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import re
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

import pipeline
from pipeline.data.inspecting.index_in_place import index_in_place
from pipeline.data.reading import as_webdataset as module
from pipeline.errors import DataError
from tests.chaos_server import chaos
from tests.data.format.downloads import options
from tests.data.sources.helpers import png, put_tar
from tests.data.test_closed_doors import Payload, append
from tests.shards import digits, noise, reader, write

COUNT, PER_SHARD = 22, 4


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("as_webdataset") / "set"
    write(noise(COUNT), out, samples_per_shard=PER_SHARD, encoding="png")
    return out


def test_its_samples_are_ours(shards: Path) -> None:
    found = list(pipeline.as_webdataset(shards).decode("rgb8").to_tuple("__key__", "png", "cls"))
    ours = reader(shards)
    ids = np.arange(COUNT)
    assert [key for key, _, _ in found] == [f"{number:08d}" for number in ids]
    assert [label for _, _, label in found] == ours.labels(ids).tolist()
    pixels = np.stack([image for _, image, _ in found])
    assert np.array_equal(pixels, ours.read(ids).permute(0, 2, 3, 1).numpy())


def test_workers_and_ranks_share_the_samples(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    keys = []
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        stream = pipeline.as_webdataset(shards).to_tuple("__key__")
        keys += [key for (key,) in DataLoader(stream, batch_size=None, num_workers=2)]
    assert sorted(keys) == [f"{number:08d}" for number in range(COUNT)]


def test_a_seed_shuffles_the_shards_anew_in_each_epoch(shards: Path) -> None:
    def epochs(seed: int | None) -> list[list[str]]:
        stream = pipeline.as_webdataset(shards, seed=seed).to_tuple("__key__")
        return [[key for (key,) in stream] for _ in range(2)]

    first, second = epochs(1)
    assert first != second
    assert sorted(first) == sorted(second)
    assert epochs(1) == [first, second]
    assert epochs(None)[0] == epochs(None)[1] == sorted(first)


def test_workers_that_stay_count_the_epochs(shards: Path) -> None:
    stream = pipeline.as_webdataset(shards, seed=1).to_tuple("__key__")
    loader = DataLoader(stream, batch_size=None, num_workers=1, persistent_workers=True)
    alone = pipeline.as_webdataset(shards, seed=1).to_tuple("__key__")
    for _ in range(2):
        assert [key for (key,) in loader] == [key for (key,) in alone]


def test_two_images_up_to_the_first_dot_are_fields_of_one_sample(tmp_path: Path) -> None:
    put_tar(tmp_path / "a.tar", [("img1.v1.png", png(1)), ("img1.v2.png", png(2))])
    index_in_place(tmp_path)
    assert len(pipeline.open_shards(tmp_path)) == 2
    (sample,) = pipeline.as_webdataset(tmp_path)
    assert {name: sample[name] for name in sample if name[0] != "_"} == {"v1.png": png(1), "v2.png": png(2)}


@pytest.mark.parametrize("name", ["pyd", "pickle", "pth", "pyd.gz", "PKL", "png.pkl"])
def test_nothing_in_a_shard_is_unpickled(name: str, tmp_path: Path) -> None:
    canary, out = tmp_path / "canary", tmp_path / "set"
    write(noise(2), out, encoding="png")
    append(out / "000000.tar", f"00000001.{name}", pickle.dumps(Payload(canary)))
    samples = list(pipeline.as_webdataset(resized(out)).decode("rgb8"))
    assert [sorted(field for field in sample if field[0] != "_") for sample in samples] == [
        ["cls", "png"]
    ] * 2
    assert not canary.exists()


def test_a_shard_that_became_a_link_or_is_missing_is_an_error(shards: Path, tmp_path: Path) -> None:
    write(noise(2), tmp_path / "set", encoding="png")
    stream = pipeline.as_webdataset(tmp_path / "set")
    tar = tmp_path / "set" / "000000.tar"
    tar.rename(tmp_path / "elsewhere.tar")
    tar.symlink_to(tmp_path / "elsewhere.tar")
    with pytest.raises(DataError, match=r"000000\.tar"):
        list(stream)
    with pytest.raises(DataError, match="absent"):
        pipeline.as_webdataset(tmp_path / "absent")


def test_a_set_at_a_url_has_the_same_samples_whatever_the_server_does(tmp_path: Path) -> None:
    out = tmp_path / "served" / "set"
    write(digits(), out, 8, 1, 200)
    with chaos(out.parent, rate=0.3, seed=1) as server:
        remote = pipeline.as_webdataset(f"{server.url}/set", options(tmp_path / "cache"))
        found = [{name: value for name, value in sample.items() if name[0] != "_"} for sample in remote]
    ours = [{n: v for n, v in sample.items() if n[0] != "_"} for sample in pipeline.as_webdataset(out)]
    assert len(ours) == 1797
    assert found == ours


def resized(out: Path) -> Path:
    """The set, with its manifest telling the present size of its shard."""
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["shards"][0]["bytes"] = (out / "000000.tar").stat().st_size
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


def enlarged(picture: bytes) -> bytes:
    """A PNG that claims to have 9000 x 9000 pixels."""
    header = b"IHDR" + struct.pack(">II", 9000, 9000) + picture[24:29]
    return picture[:12] + header + struct.pack(">I", zlib.crc32(header)) + picture[33:]


def saved(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.png", saved("EPS"), r"not an image in a supported format"),
        ("x.PNG", saved("EPS"), r"not an image in a supported format"),
        ("x.mask.jpg", saved("TIFF"), r"holds a TIFF, which no shard holds as an image"),
        ("x.png", enlarged(saved("PNG")), r"9000 x 9000 pixels, more than"),
    ],
)
def test_no_content_of_an_image_chooses_another_decoder(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    write(noise(2), tmp_path / "set", encoding="png")
    append(tmp_path / "set" / "000000.tar", name, content)
    stream = pipeline.as_webdataset(resized(tmp_path / "set")).decode("pil")
    with pytest.raises(DataError, match=rf"000000\.tar: {re.escape(name)} .*{message}"):
        list(stream)


@pytest.mark.parametrize(("name", "kind"), [("x.webp", "WEBP"), ("x.jpeg", "JPEG"), ("x.jpg", "PNG")])
def test_images_that_training_could_use_are_let_through(name: str, kind: str, tmp_path: Path) -> None:
    write(noise(2), tmp_path / "set", encoding="png")
    append(tmp_path / "set" / "000000.tar", name, saved(kind))
    append(tmp_path / "set" / "000000.tar", f"._{name}", b"left by macOS")
    *_, last = pipeline.as_webdataset(resized(tmp_path / "set"))
    assert last[name.partition(".")[2]] == saved(kind)


def test_large_members_and_links_and_compressed_or_cut_shards_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "set"
    tar = out / "000000.tar"
    write(noise(2), out, encoding="png")
    whole = tar.read_bytes()

    def message() -> str:
        with pytest.raises(DataError) as refusal:
            list(pipeline.as_webdataset(resized(out)))
        return str(refusal.value)

    tar.write_bytes(gzip.compress(whole, 0))
    assert "000000.tar is compressed, and shards are plain tar files" in message()
    tar.write_bytes(whole[:-512])
    assert "000000.tar is not a complete tar file" in message()
    tar.write_bytes(whole)
    with tarfile.open(tar, "a") as archive:
        link = tarfile.TarInfo("x.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert "000000.tar: x.png is a link" in message()
    tar.write_bytes(whole)
    append(tar, "x.txt", bytes(5000))
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 4999)
    assert "000000.tar: x.txt is larger than" in message()
