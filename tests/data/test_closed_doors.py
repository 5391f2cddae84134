"""Nothing that is read can run code: attacks that work with webdataset's readers, tried on this project's."""

from __future__ import annotations

import io
import os
import pickle
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.format.manifest import load_manifest
from pipeline.data.format.open_shards import open_shards
from pipeline.data.inspecting.check import check_shards
from pipeline.errors import ConfigError, DataError
from pipeline.option_data import DataOptions
from pipeline.train import main
from tests.ranks import Ranks
from tests.shards import noise, reader, rehash, write


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.canary}",)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


def append(tar: Path, name: str, content: bytes) -> None:
    with tarfile.open(tar, "a") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))


def test_the_payload_runs_if_it_is_unpickled(tmp_path: Path, canary: Path) -> None:
    """Otherwise the tests below would prove nothing."""
    import webdataset

    write(noise(4), tmp_path / "set")
    append(tmp_path / "set" / "000000.tar", "00000004.pickle", pickle.dumps(Payload(canary)))
    list(
        webdataset.WebDataset(
            str(tmp_path / "set" / "000000.tar"), shardshuffle=False, empty_check=False
        ).decode()
    )
    assert canary.exists()


@pytest.mark.parametrize("extension", ["pickle", "pkl", "pyd", "pth", "pyd.gz"])
def test_pickles_in_a_shard_are_reported_and_never_opened(
    tmp_path: Path, canary: Path, extension: str
) -> None:
    out = tmp_path / "set"
    write(noise(4), out)
    append(out / "000000.tar", f"00000004.{extension}", pickle.dumps(Payload(canary)))
    manifest = load_manifest(out)
    assert reader(out, manifest)  # its index points only to the images
    with pytest.raises(DataError, match=r"000000\.tar has [\d,]+ bytes, but manifest\.json says"):
        open_shards(DataOptions(shards=str(out))).check_sizes()
    report = check_shards(out)
    assert any(
        f"holds '00000004.{extension}', but a shard holds only images" in finding
        for finding in report.findings
    )
    assert not canary.exists()


@pytest.mark.parametrize("suffix", ["npy", "json"])
def test_a_pickle_instead_of_an_index_or_a_manifest_is_refused(
    tmp_path: Path, canary: Path, suffix: str
) -> None:
    out = tmp_path / "set"
    write(noise(4), out)
    file = out / ("000000.npy" if suffix == "npy" else "manifest.json")
    if suffix == "npy":
        np.save(file, np.array([Payload(canary)], dtype=object), allow_pickle=True)
        with pytest.raises(DataError, match="its content has changed"):
            reader(out).read(np.array([0]))
        rehash(out)
        with pytest.raises(DataError, match="is not a shard index"):
            reader(out).read(np.array([0]))
    else:
        file.write_bytes(pickle.dumps(Payload(canary)))
        with pytest.raises(DataError, match=r"manifest\.json is damaged: invalid JSON"):
            load_manifest(out)
    assert not canary.exists()


@pytest.mark.parametrize("place", ["pipe:touch {}", "pipe://touch {}", "file:touch {}|", "data|touch {}"])
def test_no_location_of_shards_reaches_a_shell(
    config: str, canary: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([config, f"data.shards={place.format(canary)}"]) in (
        ConfigError.exit_code,
        DataError.exit_code,
    )
    assert "data.shards" in capsys.readouterr().err
    assert not canary.exists()


def test_no_renamed_file_reaches_a_shell(digits: Path, canary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOPEN_REWRITE", f"{digits}=pipe:touch {canary};cat {digits}")
    assert len(reader(digits).read(np.array([0, 599]))) == 2
    assert not canary.exists()


def train_without_webdataset(arguments: list[str]) -> int:
    """Train; fails if that imported webdataset."""
    code = main(arguments)
    assert "webdataset" not in sys.modules
    return code


def test_training_does_not_even_import_webdataset(ranks: Ranks, config: str) -> None:
    ranks.run(1, [config, "schedule.steps=1"], target=train_without_webdataset)
