"""Several ranks against one process: the same batches, equal ranks, and a resume with as many or half as many."""

from __future__ import annotations

import subprocess
from pathlib import Path

from pipeline.acceptance.bench import Bench
from pipeline.acceptance.outcome import Skip
from pipeline.acceptance.program import command
from pipeline.acceptance.runs import (
    LAUNCHED,
    check_same_bits,
    config_file,
    distance,
    rank_counts,
    train,
    train_ranks,
    wgan,
)
from pipeline.monitor.records import read_lines
from pipeline.ranks.devices import best_device, gpu_count
from pipeline.run.directory import RunDirectory

FARTHEST = 0.02
"""How far weights may be apart after ten steps that round differently, as a share of the way that they have gone"""
FIGURES_APART = 1e-4
"""How far figures of an evaluation may be apart, relative to them"""


def run(bench: Bench) -> str:
    """Two ranks, and as many as there are GPUs."""
    shown = []
    for ranks in rank_counts():
        # Every rank compares the digest of its whole state with those of the others after each step.
        common = [f"schedule.global_batch={8 * ranks}", "runtime.digest_every=1"]
        whole = train_ranks(bench, ranks, f"whole-{ranks}", *common)
        alone = distance(train(bench, f"alone-{ranks}", *common), whole)
        train_ranks(bench, ranks, f"moved-{ranks}", *common, "schedule.steps=5")
        moved = train_ranks(bench, ranks, f"moved-{ranks}", *common)
        check_same_bits(bench, moved, whole, f"stopped and resumed with {ranks} ranks")
        train_ranks(bench, ranks, f"half-{ranks}", *common, "schedule.steps=5")
        half = distance(_resume(bench, ranks // 2, f"half-{ranks}", common), whole)
        for what, found in (("in one process", alone), (f"resumed with {ranks // 2} ranks", half)):
            bench.check(found <= FARTHEST, f"{ranks} ranks: {what} the weights are {found:.1g} apart")
        bench.figures[f"{ranks} ranks"] = {"from one process": alone, "from half the ranks": half}
        shown.append(f"{ranks} ranks: {alone:.1g} from one process, {half:.1g} from half as many")
    return f"equal ranks and exact resume; weights apart by these shares of their way: {'; '.join(shown)}"


def _resume(bench: Bench, ranks: int, name: str, common: list[str]) -> Path:
    return train(bench, name, *common) if ranks == 1 else train_ranks(bench, ranks, name, *common)


def evaluate(bench: Bench) -> str:
    """The figures of an evaluation by all ranks, against those by one."""
    ranks = rank_counts()[-1]
    if best_device().type == "cuda" and ranks > gpu_count():
        raise Skip(f"{ranks} ranks need {ranks} GPUs, and there is {gpu_count()}")
    run = train(bench, "judged")
    words = ["evaluate", str(run), "--metrics", "fid", "precision", "recall", "swd", "--samples", "192"]
    for processes in (1, ranks):
        code = wgan(*words, "--processes", str(processes))
        bench.check(code == 0, f"`wgan evaluate` with {processes} processes ended with exit code {code}")
    if bench.failures:
        return ""
    one, several = (line["metrics"] for line in read_lines(RunDirectory(run).evaluations))
    bench.figures |= {"one": one, f"{ranks} ranks": several}
    for name, value in one.items():
        near = abs(several[name] - value) <= FIGURES_APART * max(abs(value), 1.0)
        bench.check(near, f"{name} is {value:g} by one rank and {several[name]:g} by {ranks}")
    return f"{', '.join(f'{name} {value:.4g}' for name, value in one.items())} by one rank and by {ranks}"


def world_of_one(bench: Bench) -> str:
    """A rank that is alone, and yet connected by NCCL, against a process without ranks."""
    if best_device().type != "cuda":
        raise Skip("NCCL needs a GPU")
    words = [str(config_file(bench)), "name=world-of-one"]
    code = subprocess.run(command(f"{LAUNCHED}:start", "pipeline.train", "1", *words), check=False).returncode
    bench.check(code == 0, f"it ended with exit code {code}")
    if bench.failures:
        return ""
    found = distance(bench.scratch / "world-of-one", train(bench, "without-ranks"))
    bench.check(found <= FARTHEST, f"the weights are {found:.1g} of their way apart from those without ranks")
    return f"weights apart by {found:.1g} of their way from those without ranks"
