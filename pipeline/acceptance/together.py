"""Several ranks against one process: the same batches, equal ranks, and a resume with as many or half as many."""

from __future__ import annotations

from math import lcm

from pipeline.acceptance.bench import Bench
from pipeline.acceptance.outcome import Skip
from pipeline.acceptance.runs import (
    check_same_bits,
    distance,
    forget_last,
    last_tensors,
    rank_counts,
    train,
    train_ranks,
    wgan,
)
from pipeline.monitor.records import read_lines
from pipeline.quality.evaluation import CHUNK
from pipeline.ranks.devices import gpu_count
from pipeline.run.directory import RunDirectory

FARTHEST = 0.02
"""How far weights may be apart after ten steps that round differently, as a share of the way that they have gone"""
LEAST_CHUNKS = 3
FIGURES_APART = 1e-4
"""How far figures of an evaluation may be apart, relative to them"""


def run(bench: Bench) -> str:
    """Two ranks, and as many as there are GPUs."""
    shown = []
    for ranks in rank_counts():
        half = ranks // 2
        # Every rank compares the digest of its whole state with those of the others after each step.
        common = [f"schedule.global_batch={8 * lcm(ranks, half)}", "runtime.digest_every=1"]
        alone = last_tensors(train(bench, f"alone-{ranks}", *common))
        whole = train_ranks(bench, ranks, f"ranks-{ranks}", *common)
        expected = last_tensors(whole)
        forget_last(whole)
        train_ranks(bench, ranks, f"ranks-{ranks}", *common)
        check_same_bits(bench, last_tensors(whole), expected, f"resumed with {ranks} ranks")
        forget_last(whole)
        if half == 1:
            train(bench, f"ranks-{ranks}", *common)
        else:
            train_ranks(bench, half, f"ranks-{ranks}", *common)
        apart = {
            "in one process": distance(alone, expected),
            "resumed with half of them": distance(last_tensors(whole), expected),
        }
        for what, found in apart.items():
            bench.check(
                found <= FARTHEST, f"{ranks} ranks: {what}, weights are {found:.1g} of their way apart"
            )
        bench.figures[f"{ranks} ranks"] = apart
        shown.append(f"{ranks} ranks: {', '.join(f'{what} {found:.1g}' for what, found in apart.items())}")
    return f"equal ranks and exact resume; weights apart as a share of their way: {'; '.join(shown)}"


def evaluate(bench: Bench) -> str:
    """The figures of an evaluation by all ranks, against those by one."""
    ranks = rank_counts()[-1]
    if 0 < gpu_count() < ranks:
        raise Skip(f"ranks of an evaluation need a GPU each, and there are {ranks} on {gpu_count()}")
    run = train(bench, "judged")
    # Each rank has at least one chunk to compute.
    samples = CHUNK * max(ranks, LEAST_CHUNKS)
    words = [
        "evaluate",
        str(run),
        "--metrics",
        "fid",
        "precision",
        "recall",
        "swd",
        "--samples",
        f"{samples}",
    ]
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
