"""How much time logging takes: the same steps with everything written and with nothing written, in alternation.

command:   python benchmarks/speed/monitoring.py CONFIG [section.option=value ...]
           --rounds 5 --steps 200     steps of each kind in each round, from the same weights
duration:  two minutes for configs/digits.yaml on two cores
prints:    the median time of a step that logs nothing; how many times longer it takes with TensorBoard,
           metrics.jsonl and the PNG grids, as a median over the rounds; and the share of the time for writing
           (sinks), measuring (the metrics of log points, which need a forward and a backward pass) and drawing
           (image grids)
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from timing import NEVER, open_trainer

from pipeline.config import load_config
from pipeline.monitor.sinks import Sinks
from pipeline.options import Config
from pipeline.ranks.runtime import Runtime, join
from pipeline.training.observer import Observer

PARTS = {
    "measuring": (Observer, "_scalars"),
    "drawing": (Observer, "_show_pictures"),
    "writing scalars": (Sinks, "scalars"),
    "writing images": (Sinks, "images"),
    "writing histograms": (Sinks, "histograms"),
    "closing": (Sinks, "close"),
}


@contextmanager
def timed_parts() -> Iterator[Counter[str]]:
    """Counts the seconds of each part while the body runs."""
    seconds: Counter[str] = Counter()
    kept = {name: getattr(owner, method) for name, (owner, method) in PARTS.items()}

    def timed(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            started = time.perf_counter()
            result = method(*arguments)
            seconds[name] += time.perf_counter() - started
            return result

        return call

    for name, (owner, method) in PARTS.items():
        setattr(owner, method, timed(name, kept[name]))
    try:
        yield seconds
    finally:
        for name, (owner, method) in PARTS.items():
            setattr(owner, method, kept[name])


def train(config: Config, runtime: Runtime, place: Path) -> float:
    """Train a new run in `place`. Returns its seconds without the start-up."""
    with open_trainer(config, runtime, place) as trainer:
        started = time.perf_counter()
        trainer.train()
        trainer.observer.sinks.close()
        trainer.observer.console.close()
        return time.perf_counter() - started


def main() -> None:
    """Measure both kinds in alternation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    common = [*arguments.overrides, f"schedule.steps={arguments.steps}", f"checkpoint.every={NEVER}"]
    quiet = [f"monitor.{name}={NEVER}" for name in ("log_every", "sample_every", "validation_every")]
    watched = load_config(arguments.config, common)
    unwatched = load_config(arguments.config, [*common, *quiet])
    runtime = join(watched)
    plain, ratios, shares = [], [], Counter[str]()
    with tempfile.TemporaryDirectory() as root:
        for number in range(arguments.rounds + 1):
            with timed_parts() as idle:
                without = train(unwatched, runtime, Path(root) / f"without-{number}")
            with timed_parts() as seconds:
                with_all = train(watched, runtime, Path(root) / f"with-{number}")
            if number == 0:
                continue  # the warm-up round
            # The plain loop does not log its end, nor draw the early grid.
            bare = without - sum(idle.values()) + idle["writing images"] + idle["writing histograms"]
            plain.append(bare / arguments.steps)
            ratios.append(with_all / bare)
            for name, value in seconds.items():
                shares[name] += value / with_all / arguments.rounds
    print(f"a step with nothing logged: {statistics.median(plain) * 1e3:.2f} ms")
    print(f"with everything: {statistics.median(ratios):.3f} times as long")
    # Drawing calls the sinks, whose time has lines of its own.
    shares["drawing"] -= shares["writing images"] + shares["writing histograms"]
    for name in PARTS:
        print(f"  {name}: {shares[name]:.2%} of the time")


if __name__ == "__main__":
    main()
