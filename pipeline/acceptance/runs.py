"""The runs that stages train, on digits that come with a library, and what their checkpoints hold."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

import pipeline
from pipeline.acceptance.bench import Bench
from pipeline.acceptance.program import command
from pipeline.config import load_config
from pipeline.data.making.convert import Conversion
from pipeline.data.making.plan import plan_shards
from pipeline.data.making.selection import Selection
from pipeline.data.making.writer import make_shards
from pipeline.data.originals.opening import open_data
from pipeline.data.sources import Spec, open_source
from pipeline.durable import remove_tree, write_text
from pipeline.errors import PipelineError
from pipeline.options import Config
from pipeline.ranks.devices import gpu_count
from pipeline.ranks.digest import differing, digest
from pipeline.ranks.process import settings_given_back
from pipeline.ranks.runtime import join
from pipeline.run.checkpoint import list_checkpoints
from pipeline.run.directory import RunDirectory
from pipeline.run.tensor_files import Tensors
from pipeline.training.build import build_trainer
from pipeline.training.checks import check_run
from pipeline.training.context import RunContext
from pipeline.training.trainer import Trainer

IMAGES, SIDE, PER_SHARD = 600, 16, 128
STEPS = 10
OPTIONS: Mapping[str, Any] = {
    "name": "run",
    "model": {"latent": 16, "width": 8},
    "schedule": {"steps": STEPS, "global_batch": 16, "critic_updates": 2},
    "monitor": {"log_every": 5, "sample_every": 100_000, "grid": 2, "plots": False},
    "checkpoint": {"every": STEPS // 2},
    "runtime": {"timeout_seconds": 60.0, "threads": 1},
}
"""A run whose steps take milliseconds, with a checkpoint in its middle.

It has one thread on a CPU: threads that wait for each other take many times as long beside other work.
"""
RATE = 5e-5
"""The learning rate of both networks, about how far RMSprop moves a weight in one step"""
SHARED_GPU = "pipeline.acceptance.launched:start"


def digits(bench: Bench, side: int = SIDE) -> Path:
    """Shards of scanned digits, which come with scikit-learn, scaled to this side. They are made on first use."""
    place = bench.scratch / f"digits-{side}"
    if not (place / "manifest.json").exists():
        conversion, selection = Conversion((side, side), 1), Selection(limit=IMAGES)
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
    """The same in several processes. Raises PipelineError if it ends with another code than 0."""
    if (code := start_ranks(bench, processes, name, *overrides).wait()) != 0:
        raise PipelineError(f"The run {name} with {processes} processes ended with exit code {code}.")
    return bench.scratch / name


def start_ranks(bench: Bench, processes: int, name: str, *overrides: str) -> subprocess.Popen[bytes]:
    """Start `wgan train --processes`, or two ranks on one GPU if there is no other. Its output is the stage's."""
    words = [str(config_file(bench)), f"name={name}", *overrides]
    if processes > (gpu_count() or processes):
        return subprocess.Popen(command(SHARED_GPU, str(processes), *words))
    return subprocess.Popen(command("pipeline.cli:main", "train", *words, "--processes", str(processes)))


def wgan(*words: str) -> int:
    """Run a command of `wgan` to its end. Returns its exit code; its output goes where the stage's goes."""
    return subprocess.run(command("pipeline.cli:main", *words), check=False).returncode


def rank_counts() -> list[int]:
    """How many ranks to try: two, and one for each GPU. On a single GPU two share it."""
    return sorted({2, max(gpu_count(), 2)})


@contextmanager
def trainer_of(config: Config) -> Iterator[Trainer]:
    """The trainer of a new run in this process, whose steps the caller takes. Raises PipelineError."""
    shards = open_data(config.data)
    with ExitStack() as stack:
        stack.callback(shards.files.close)
        directory = stack.enter_context(RunDirectory(Path(config.run_root) / config.name))
        stack.enter_context(settings_given_back())
        runtime = join(config)
        stack.callback(runtime.close)
        run = RunContext(config, shards, directory, runtime)
        check_run(run)
        yield stack.enter_context(closing(build_trainer(run, first_step=1)))


def last_tensors(run: Path) -> Tensors:
    """All tensors of a run's newest checkpoint, by names such as "critic/score.weight", in their order."""
    checkpoint = list_checkpoints(RunDirectory(run).checkpoints)[-1]
    groups = {path.stem: checkpoint.tensors(path.stem) for path in checkpoint.path.glob("*.safetensors")}
    found = {f"{group}/{name}": value for group, tensors in groups.items() for name, value in tensors.items()}
    return dict(sorted(found.items()))


def forget_last(run: Path) -> None:
    """Remove a run's newest checkpoint, as if it had been killed before that was saved."""
    remove_tree(list_checkpoints(RunDirectory(run).checkpoints)[-1].path)


def check_same_bits(bench: Bench, ours: Tensors, theirs: Tensors, what: str) -> None:
    """Note a failure unless tensors of the same names have the same digests."""
    if ours.keys() != theirs.keys():
        bench.check(
            False, f"{what}: {len(ours.keys() ^ theirs.keys())} tensors are in one of two states only"
        )
        return
    found = [name for name, _ in differing(list(ours), torch.stack([digest(ours), digest(theirs)]).cpu())]
    bench.check(
        not found, f"{what}: {len(found)} of {len(ours)} tensors differ, {', '.join(found[:2])} for example"
    )


def distance(ours: Tensors, theirs: Tensors) -> float:
    """How far the weights of two runs are apart: the root mean square, as a share of how far a weight can have gone."""
    kinds = ("generator/", "critic/")
    names = [name for name in theirs if name.startswith(kinds) and name.endswith(("weight", "bias"))]
    apart = torch.cat([(ours[name].double() - theirs[name].double()).flatten() for name in names])
    return float(apart.square().mean().sqrt()) / (RATE * STEPS)
