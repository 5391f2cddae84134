"""Fixtures of several tests: a small set of shards, a config, ranks, an S3 server and a disk."""

from __future__ import annotations

import gc
import os
import subprocess
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path

import pytest

from tests.ranks import Ranks

# Nothing here imports torch at the top: with several workers, pytest's main process imports this file and runs no test.

CONFIG = """\
name: run
run_root: {root}
data: {{shards: {shards}}}
model: {{latent: 16, width: 8}}
schedule: {{steps: 20, global_batch: 12, critic_updates: 2}}
monitor: {{log_every: 2, sample_every: 1000, grid: 2, plots: false}}
checkpoint: {{every: 1000}}
runtime: {{device: cpu, timeout_seconds: 60}}
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the tests that take long, so that none of them is left for the end, when other workers are idle."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """Take what the imported modules hold out of all garbage collections: every run asks for some.

    And start the process that ranks and workers are forked from while the working directory is the project's: from
    there it imports what it preloads.
    """
    gc.collect()
    gc.freeze()
    forkserver.ensure_running()


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 digits of 16 x 16 in 5 shards; the last one is smaller."""
    from pipeline.data.making.selection import Selection
    from tests import shards

    out = tmp_path_factory.mktemp("data") / "digits"
    shards.write(shards.digits(), out, 16, 1, 128, Selection(limit=600))
    return out


@pytest.fixture
def config(digits: Path, tmp_path: Path) -> str:
    """A config whose steps take 10 ms; its run is the directory "run" in tmp_path."""
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(root=tmp_path, shards=digits))
    return str(path)


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[Ranks]:
    """Starts runs, and kills those that are still alive when the test ends."""
    ranks = Ranks(tmp_path)
    yield ranks
    ranks.end()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of this test's own S3 server; its credentials are in the environment."""
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def mount_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system in memory for this test, with options such as "size=1m" or "ro,size=1m"."""
    disk = tmp_path / "disk"

    def mount(options: str) -> Path:
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(disk)]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip("mounting a file system is not permitted here")
        return disk

    yield mount
    if disk.is_mount():
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
