"""How much longer the trainer takes than its bare loop, and how long each of its parts takes.

command:   python benchmarks/speed/overhead.py CONFIG [section.option=value ...]
           --rounds 40 --steps 5      steps of each loop in each round: short rounds, so that other load on the machine
                                      affects both loops equally
           --clock wall               or cpu: the time of this process's threads, which does not depend on other load
                                      but leaves out waiting for the disk
           --device cpu               or cuda
           --out DIR                  where to write the figures (default: nowhere)
duration:  about half a minute for configs/digits.yaml on two idle cores; for a slow network use --rounds 15 --steps 3
prints:    the time of a bare step (loader, updates, moving average) as a median over the rounds; how much longer a
           step of the trainer takes, without its occasional parts; and for each occasional part its share: its
           median time, times how often the config asks for it per step, divided by the time of a bare step
writes:    DIR/overhead-NAME.json and .png

Both loops train the same run, in alternation, in one process. A round of the trainer ends as a run ends, with a
log point, grids and a checkpoint. These are timed separately and counted as often as the config asks for them, not
as often as they happened. The digest of all state, which a single process does not compute, is timed by itself,
without the exchange between ranks. Evaluations (quality.every) are left out.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from timing import (
    open_trainer,
    parser,
    row,
    run_command,
    seconds_of,
    train_bare,
    train_whole,
    with_steps,
    write_findings,
)
from tqdm import tqdm

from pipeline.config import load_config
from pipeline.errors import ConfigError
from pipeline.monitor.plots import BLUE
from pipeline.monitor.records import read_records
from pipeline.options import Config, QualityOptions
from pipeline.ranks.digest import digest
from pipeline.ranks.runtime import join
from pipeline.run.directory import RunDirectory
from pipeline.training.observer import Observer
from pipeline.training.trainer import Trainer

DIGEST = "digest of all state"
METHODS = {
    "figures of log points": (Observer, "_scalars"),
    "writing them": (Observer, "_record"),
    "validation": (Observer, "_validation_estimate"),
    "grids and histograms": (Observer, "_show_pictures"),
    "search for non-finite numbers": (Observer, "refuse_non_finite_state"),
    "checkpoints": (Trainer, "_write_checkpoint"),
}
"""The trainer's occasional parts and the method that does each. None of these methods calls another."""

WATCHING = ("figures of log points", "writing them", "validation", "grids and histograms")

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

Seconds = dict[str, list[float]]


@dataclass(frozen=True)
class Share:
    """An occasional part."""

    times_a_step: float
    seconds: float
    of_bare: float
    """Its average time per step, divided by the time of a bare step"""


@dataclass(frozen=True)
class Findings:
    """How much time the trainer of a config takes."""

    run: str
    device: str
    threads: int
    clock: str
    rounds: int
    steps: int
    bare_step_seconds: float
    each_step: float
    """The trainer's time without its occasional parts, divided by the bare loop's"""
    each_step_of_rounds: list[float]
    shares: dict[str, Share]
    waiting_for_data: float
    """Share of the trainer's wall time, as the trainer logs it"""

    @property
    def watching(self) -> float:
        """The share of logging and drawing together."""
        return sum(share.of_bare for name, share in self.shares.items() if name in WATCHING)

    @property
    def ratio(self) -> float:
        """The whole trainer's time divided by the bare loop's."""
        return self.each_step + sum(s.of_bare for name, s in self.shares.items() if name != DIGEST)


@contextmanager
def timed_parts(time_it: Callable[[Callable[[], object]], float]) -> Iterator[Seconds]:
    """Collects the seconds of each call of each of METHODS while the body runs."""
    seconds: Seconds = defaultdict(list)
    kept = {name: getattr(owner, method) for name, (owner, method) in METHODS.items()}

    def timed(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            results: list[Any] = []
            seconds[name].append(time_it(lambda: results.append(method(*arguments, **options))))
            return results[0]

        return call

    for name, (owner, method) in METHODS.items():
        setattr(owner, method, timed(name, kept[name]))
    try:
        yield seconds
    finally:
        for name, (owner, method) in METHODS.items():
            setattr(owner, method, kept[name])


def times_a_step(config: Config) -> dict[str, float]:
    """How often each part is done per step, on average over a long run of one rank (the digest: of several ranks)."""
    monitor = config.monitor
    logging, drawing, saving = (
        1 / every for every in (monitor.log_every, monitor.sample_every, config.checkpoint.every)
    )
    return {
        "figures of log points": logging,
        "writing them": logging,
        "validation": 1 / monitor.validation_every,
        "grids and histograms": drawing,
        "search for non-finite numbers": drawing + saving,
        DIGEST: 1 / config.runtime.digest_every + saving,
        "checkpoints": saving,
    }


def shares_of(seconds: Mapping[str, list[float]], config: Config, bare_step: float) -> dict[str, Share]:
    """The share of each part that was timed; `bare_step` is in seconds."""
    shares = {}
    for name, often in times_a_step(config).items():
        if seconds.get(name):
            once = statistics.median(seconds[name])
            shares[name] = Share(often, once, once * often / bare_step)
    return shares


def measure(config: Config, rounds: int, steps: int, clock: str, place: Path) -> Findings:
    """Train with both loops in alternation, as one run in the directory `place`."""
    runtime = join(config)
    bare, ratios, seconds = [], [], defaultdict[str, list[float]](list)

    def time_it(work: Callable[[], object]) -> float:
        return seconds_of(work, runtime.device, CLOCKS[clock])

    with open_trainer(with_steps(config, 2 * steps * (rounds + 1)), runtime, place) as trainer:

        def round_of_both(is_bare_first: bool) -> tuple[float, float, Seconds]:
            before = time_it(lambda: train_bare(trainer, steps)) if is_bare_first else None
            with timed_parts(time_it) as parts:
                whole = time_it(lambda: train_whole(trainer, steps))
            alone = time_it(lambda: train_bare(trainer, steps)) if before is None else before
            tensors = trainer.state.flat_tensors()
            parts[DIGEST].append(time_it(lambda: digest(tensors)))
            return alone, whole, parts

        round_of_both(True)  # the warm-up round
        for number in tqdm(range(rounds), desc="rounds", leave=False, disable=None):
            alone, whole, parts = round_of_both(number % 2 == 0)
            bare.append(alone / steps)
            ratios.append((whole - sum(sum(parts[name]) for name in METHODS)) / alone)
            for name, found in parts.items():
                seconds[name] += found
    records = read_records(RunDirectory(place).metrics)
    waits = [record["speed/data_wait_fraction"] for record in records if "speed/data_wait_fraction" in record]
    step = statistics.median(bare)
    return Findings(
        run=config.name,
        device=runtime.describe()["device_name"],
        threads=torch.get_num_threads(),
        clock=clock,
        rounds=rounds,
        steps=steps,
        bare_step_seconds=step,
        each_step=statistics.median(ratios),
        each_step_of_rounds=ratios,
        shares=shares_of(seconds, config, step),
        waiting_for_data=statistics.median(waits),
    )


def print_findings(findings: Findings) -> None:
    """Print the results, with a markdown table of the parts."""
    low, high = np.quantile(findings.each_step_of_rounds, (0.25, 0.75))
    print(
        f"{findings.run} on {findings.device}, {findings.threads} threads: "
        f"a bare step takes {findings.bare_step_seconds * 1e3:.2f} ms ({findings.clock})\n"
        f"the trainer: {findings.ratio:.4f} times as long\n"
        f"  without its occasional parts: {findings.each_step:.4f} times "
        f"(half of the rounds: {low:.3f} to {high:.3f})\n"
        f"  waiting for data: {findings.waiting_for_data:.2%} of its wall time\n"
    )
    print("| part | every ... steps | ms | of a bare step |\n|-|-:|-:|-:|")
    for name, share in findings.shares.items():
        print(
            row(name, f"{1 / share.times_a_step:,.1f}", f"{share.seconds * 1e3:.2f}", f"{share.of_bare:.2%}")
        )
    print(row("all logging and drawing", "", "", f"{findings.watching:.2%}"))


def draw(findings: Findings) -> Figure:
    """A bar for each part."""
    bars = {"at every step": findings.each_step - 1}
    bars |= {name: share.of_bare for name, share in findings.shares.items()}
    figure = Figure(figsize=(8, 3.6), dpi=90, layout="constrained")
    axes = figure.subplots()
    axes.barh(list(bars), [value * 100 for value in bars.values()], color=BLUE)
    axes.invert_yaxis()
    axes.set_xlabel("% of a bare step")
    axes.grid(alpha=0.3, axis="x")
    axes.set_title(f"{findings.run}: the trainer takes {findings.ratio:.3f} times the bare loop's time")
    return figure


def run(arguments: argparse.Namespace) -> None:
    """Measure the config that the command line names."""
    for name in ("rounds", "steps"):
        if getattr(arguments, name) < 1:
            raise ConfigError(
                f"--{name} {getattr(arguments, name)}: must be at least 1. Choose more, or leave it out."
            )
    if arguments.clock == "cpu" and arguments.device != "cpu":
        raise ConfigError("--clock cpu measures the CPU only, and this run computes on a GPU. Leave it out.")
    config = load_config(arguments.config, [*arguments.overrides, f"runtime.device={arguments.device}"])
    config = config.model_copy(update={"quality": QualityOptions()})
    with tempfile.TemporaryDirectory() as place:
        findings = measure(
            config, arguments.rounds, arguments.steps, arguments.clock, Path(place) / config.name
        )
    print_findings(findings)
    if arguments.out is not None:
        content = {**asdict(findings), "ratio": findings.ratio, "watching": findings.watching}
        write_findings(arguments.out, f"overhead-{findings.run}", content, draw(findings))


def main(words: Sequence[str] | None = None) -> int:
    """Measure. Returns the exit code."""
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=40)
    arguments.add_argument("--steps", type=int, default=5)
    arguments.add_argument("--clock", choices=CLOCKS, default="wall")
    return run_command(run, arguments.parse_intermixed_args(words))


if __name__ == "__main__":
    sys.exit(main())
