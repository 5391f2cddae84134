"""Ranks that train on shards at a URL, with many kinds of network failures."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.chaos_server import FAULTS, ChaosServer, chaos
from tests.distributed.test_order import images, keep_batches
from tests.ranks import Ranks, assert_same_bits, newest, read_tensors

REMOTE = [
    "data.cache=none",
    "data.shuffle_shards=1",
    "data.remote.stall_seconds=0.5",
    "data.remote.capacity_gb=0.0009",
]
LOCAL = ["data.cache=none", "data.shuffle_shards=1"]


def assert_remote_is_local(
    ranks: Ranks, config: str, url: str, server: ChaosServer, tmp_path: Path, environment: dict[str, str]
) -> None:
    """Two ranks get the same batches and train the same bits as with the local directory."""
    place = f"data.remote.directory={tmp_path / 'fetched'}"
    remote = [config, "name=remote", f"data.shards={url}", place, *REMOTE]
    ranks.run(2, [config, "name=local", *LOCAL], target=keep_batches, extra=[str(tmp_path)])
    ranks.run(2, remote, target=keep_batches, extra=[str(tmp_path)], environment=environment)
    assert np.array_equal(images(tmp_path, "remote", 2), images(tmp_path, "local", 2))
    ranks.run(2, [config, "name=trained", *LOCAL])
    ranks.run(2, [*remote, "name=trained_remote"], environment=environment)
    here, there = (read_tensors(newest(tmp_path / name)) for name in ("trained", "trained_remote"))
    assert_same_bits(here, there)
    assert set(server.done) == set(FAULTS)


@pytest.mark.slow
def test_shards_over_http_give_the_bits_of_local_ones(
    ranks: Ranks, config: str, digits: Path, tmp_path: Path
) -> None:
    with chaos(digits.parent, rate=0.5, seed=3) as server:
        assert_remote_is_local(ranks, config, f"{server.url}/{digits.name}", server, tmp_path, {})


@pytest.mark.slow
def test_shards_over_s3_give_the_bits_of_local_ones(
    ranks: Ranks, config: str, digits: Path, tmp_path: Path, s3: str
) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=s3)
    client.create_bucket(Bucket="bucket")
    for file in digits.iterdir():
        client.upload_file(str(file), "bucket", f"set/{file.name}")
    with chaos(upstream=s3, rate=0.5, seed=5) as server:
        environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        environment["AWS_ENDPOINT_URL"] = server.url
        assert_remote_is_local(ranks, config, "s3://bucket/set", server, tmp_path, environment)
