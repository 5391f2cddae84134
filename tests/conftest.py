"""What tests of whole runs share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ranks import Ranks

CONFIG = """\
name: run
run_root: {root}
data: {{shards: {shards}}}
model: {{latent: 16, width: 8}}
schedule: {{steps: 20, global_batch: 12, critic_updates: 2}}
monitor: {{log_every: 2, sample_every: 1000, grid: 2}}
checkpoint: {{every: 1000}}
runtime: {{device: cpu, timeout_seconds: 60}}
"""


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,797 digits of 16 x 16 in 5 shards."""
    from pipeline.data.sources import open_source
    from pipeline.data.writer import make_shards

    out = tmp_path_factory.mktemp("data") / "digits"
    source = open_source("digits", root=None, split="train")
    make_shards(source, out, resolution=16, channels=1, samples_per_shard=400)
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
