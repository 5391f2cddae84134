"""Shard sets as the webdataset library's data sets: the same samples as ours, and none of its open doors."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

import pipeline
from pipeline.errors import DataError
from tests.chaos_server import chaos
from tests.data.format.downloads import options
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


@pytest.mark.parametrize("name", ["pyd", "pickle", "pth", "pyd.gz", "PKL", "png.pkl"])
def test_nothing_in_a_shard_is_unpickled(name: str, tmp_path: Path) -> None:
    canary, out = tmp_path / "canary", tmp_path / "set"
    write(noise(2), out, encoding="png")
    append(out / "000000.tar", f"00000001.{name}", pickle.dumps(Payload(canary)))
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["shards"][0]["bytes"] = (out / "000000.tar").stat().st_size
    (out / "manifest.json").write_text(json.dumps(manifest))
    samples = list(pipeline.as_webdataset(out).decode("rgb8"))
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
