"""What tests of whole runs share."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest

from pipeline.data.sources import Sample, open_source
from pipeline.data.writer import make_shards
from tests.ranks import Ranks

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


class FewDigits:
    """The first digits of the set, as a source: a run decodes them in a blink."""

    name, native_resolution, native_channels = "digits", 16, 1

    def __init__(self, count: int) -> None:
        self._digits = open_source("digits", root=None, split="train")
        self.classes, self._count = self._digits.classes, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Sample]:
        return islice(self._digits, self._count)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 digits of 16 x 16 in 5 shards, the last of which is smaller."""
    out = tmp_path_factory.mktemp("data") / "digits"
    make_shards(FewDigits(600), out, resolution=16, channels=1, samples_per_shard=128)
    return out


@pytest.fixture
def config(digits: Path, tmp_path: Path) -> str:
    """A config whose steps take 10 ms; its run is called "run" and lies in tmp_path."""
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(root=tmp_path, shards=digits))
    return str(path)


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[Ranks]:
    """Starts runs; whatever of them is alive when the test ends is killed."""
    ranks = Ranks(tmp_path)
    yield ranks
    ranks.end()


@pytest.fixture
def mount_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system of its own in memory, with options such as "size=1m" or "ro,size=1m"."""
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
