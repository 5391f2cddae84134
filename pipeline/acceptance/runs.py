"""The runs that stages train, on digits that come with a library, and what their checkpoints hold."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

import pipeline
from pipeline.acceptance.bench import Bench
from pipeline.acceptance.program import command
from pipeline.config import load_config
from pipeline.data.making.convert import Conversion
from pipeline.data.making.plan import plan_shards
from pipeline.data.making.selection import Selection
from pipeline.data.making.writer import make_shards
from pipeline.data.sources import Spec, open_source
from pipeline.durable import write_text
from pipeline.errors import PipelineError
from pipeline.options import Config
from pipeline.ranks.digest import differing, digest
from pipeline.run.checkpoint import list_checkpoints
from pipeline.run.directory import RunDirectory

IMAGES, SIDE, PER_SHARD = 600, 16, 128
OPTIONS: Mapping[str, Any] = {
    "name": "run",
    "model": {"latent": 16, "width": 8},
    "schedule": {"steps": 10, "global_batch": 16, "critic_updates": 2},
    "monitor": {"log_every": 5, "sample_every": 100_000, "grid": 2, "plots": False},
    "checkpoint": {"every": 100_000},
    "runtime": {"timeout_seconds": 60.0},
}
"""A run whose steps take milliseconds."""


def digits(bench: Bench) -> Path:
    """Shards of scanned digits, 16 x 16 pixels, which come with scikit-learn. They are made on first use."""
    place = bench.scratch / "digits"
    if not (place / "manifest.json").exists():
        conversion, selection = Conversion((SIDE, SIDE), 1), Selection(limit=IMAGES)
        make_shards(plan_shards(open_source(Spec("digits")), conversion, selection, PER_SHARD), place)
    return place


def config_file(bench: Bench) -> Path:
    """A config with OPTIONS, on digits, whose runs are in the scratch directory."""
    path = bench.scratch / "config.yaml"
    places = {"run_root": str(bench.scratch), "data": {"shards": str(digits(bench))}}
    write_text(path, yaml.safe_dump({**OPTIONS, **places}))
    return path


def options(bench: Bench, *overrides: str) -> Config:
    """These options, with some replaced: "section.option=value"."""
    return load_config(config_file(bench), overrides)


def train(bench: Bench, name: str, *overrides: str) -> Path:
    """Train a run in this process, or resume it. Returns its directory. Raises PipelineError."""
    return pipeline.train(options(bench, f"name={name}", *overrides)).path


def train_ranks(bench: Bench, processes: int, name: str, *overrides: str) -> Path:
    """The same by `wgan train --processes`. Raises PipelineError if it ends with another code than 0."""
    words = [str(config_file(bench)), f"name={name}", *overrides, "--processes", str(processes)]
    if (code := wgan("train", *words)) != 0:
        raise PipelineError(f"`wgan train {name}` with {processes} processes ended with exit code {code}.")
    return bench.scratch / name


def wgan(*words: str) -> int:
    """Run a command of `wgan` to its end. Returns its exit code; its output goes where the stage's goes."""
    return subprocess.run(command("pipeline.cli:main", *words), check=False).returncode


def check_same_bits(bench: Bench, first: Path, second: Path, what: str) -> None:
    """Note a failure unless the last checkpoints of two runs have the same digests."""
    ours, theirs = (last_tensors(run) for run in (first, second))
    if ours.keys() != theirs.keys():
        bench.check(False, f"{what}: the checkpoints have other tensors")
        return
    found = [name for name, _ in differing(list(ours), torch.stack([digest(ours), digest(theirs)]))]
    bench.check(
        not found, f"{what}: {len(found)} of {len(ours)} tensors differ, {', '.join(found[:2])} for example"
    )


def last_tensors(run: Path) -> dict[str, Tensor]:
    """All tensors of a run's newest checkpoint, by names such as "critic/score.weight", in their order."""
    checkpoint = list_checkpoints(RunDirectory(run).checkpoints)[-1]
    groups = {path.stem: checkpoint.tensors(path.stem) for path in checkpoint.path.glob("*.safetensors")}
    found = {f"{group}/{name}": value for group, tensors in groups.items() for name, value in tensors.items()}
    return dict(sorted(found.items()))
