"""One training step as a tutorial writes it and as this pipeline does, adding one lever after the other.

command:   python benchmarks/speed/step.py [NETWORK ...] --rounds 7 --steps 6 --out DIR
           --threads 2 --levers plain foreach ...
duration:  two minutes for each network on two cores
prints:    for each network the median time of a step of the plain loop, and of each lever added to those before
           it the median of the ratio to the plain loop over the rounds (and the range); with --out, step.json and
           step.png

Every variant is a process of its own, because how memory is kept is a setting of the process. They take turns, so
that all run under the same conditions. Images are random, because only time is measured here;
tests/benchmarks/test_levers.py shows that all variants compute the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from levers import LEVERS, NETWORKS, build_step
from matplotlib.figure import Figure
from timing import row, run_command, write_findings

from pipeline.errors import ConfigError, PipelineError

WARM_UP = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. Returns the exit code."""
    found = _parser().parse_args(arguments)
    if found.worker:
        return work(found)
    return run_command(measure, found)


def work(arguments: argparse.Namespace) -> int:
    """Run one variant: warm up and print "ready"; then, for each line of the input, run that many steps and print the
    seconds of one."""
    torch.set_num_threads(arguments.threads)
    step = build_step(arguments.networks[0], arguments.levers, torch.device(arguments.device))
    for _ in range(WARM_UP):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(seconds_of_a_step(step, int(line), arguments.device)), flush=True)
    return 0


def seconds_of_a_step(step: Callable[[], None], steps: int, device: str) -> float:
    """The mean time of a step over `steps` steps."""
    started = time.perf_counter()
    for _ in range(steps):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / steps


def measure(arguments: argparse.Namespace) -> None:
    """Print a table for each network. Raises ConfigError."""
    if unknown := set(arguments.networks) - NETWORKS.keys():
        raise ConfigError(
            f"Unknown network: {', '.join(sorted(unknown))}. Expected some of {', '.join(NETWORKS)}."
        )
    if min(arguments.rounds, arguments.steps, arguments.threads) < 1 or arguments.levers[0] != "plain":
        raise ConfigError(
            "--rounds, --steps and --threads must be at least 1, and the first of --levers plain."
        )
    findings = {name: compare(name, arguments) for name in arguments.networks}
    if arguments.out is not None:
        content = {"threads": arguments.threads, "device": arguments.device, "seconds": findings}
        write_findings(arguments.out, "step", content, draw(findings))


def compare(network: str, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """The seconds of a step in each round, by the last lever of the variant."""
    variants = {name: arguments.levers[: place + 1] for place, name in enumerate(arguments.levers)}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    with ExitStack() as stack:
        workers = {}
        for name, levers in variants.items():
            workers[name] = stack.enter_context(_worker(network, levers, arguments))
            # One after the other, because a variant that warms up would slow down the measured ones.
            read_line(workers[name], network, name)
        for _ in range(arguments.rounds):
            for name, worker in workers.items():
                assert worker.stdin is not None
                worker.stdin.write(f"{arguments.steps}\n")
                worker.stdin.flush()
                seconds[name].append(json.loads(read_line(worker, network, name)))
        for worker in workers.values():
            worker.terminate()
    print(describe(network, seconds))
    return seconds


def read_line(worker: subprocess.Popen[str], network: str, name: str) -> str:
    """The next line that a variant prints. Raises PipelineError if its process has ended."""
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise PipelineError(
            f"{network} with {name} ended with exit code {worker.wait()}; see its error above."
        )
    return line


def describe(network: str, seconds: dict[str, list[float]]) -> str:
    """The table of one network."""
    plain, *others = seconds
    lines = [
        f"\n{network}: {1000 * statistics.median(seconds[plain]):.1f} ms a step of the plain loop\n",
        row("added in turn", "ms", "times as fast as the plain loop", "range"),
        row("---", "---:", "---:", "---:"),
    ]
    for name in others:
        ratios = ratios_to(seconds[plain], seconds[name])
        lines.append(
            row(
                name,
                f"{1000 * statistics.median(seconds[name]):.1f}",
                f"{statistics.median(ratios):.2f}",
                f"{min(ratios):.2f} to {max(ratios):.2f}",
            )
        )
    return "\n".join(lines)


def ratios_to(plain: list[float], seconds: list[float]) -> list[float]:
    """How many times as fast, round by round."""
    return [before / after for before, after in zip(plain, seconds, strict=True)]


def draw(findings: dict[str, dict[str, list[float]]]) -> Figure:
    """Bars: for each network, how many times as fast each variant is."""
    figure = Figure(figsize=(2 + 2.2 * len(findings), 4), layout="constrained")
    axes = figure.subplots()
    for place, seconds in enumerate(findings.values()):
        plain = next(iter(seconds))
        for number, (name, values) in enumerate(seconds.items()):
            ratio = statistics.median(ratios_to(seconds[plain], values))
            width = 0.8 / len(seconds)
            axes.bar(
                place + (number + 0.5) * width - 0.4,
                ratio,
                width,
                color=f"C{number}",
                label=name if place == 0 else None,
            )
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set_xticks(range(len(findings)), list(findings))
    axes.set_ylabel("times as fast as the plain loop")
    axes.legend(title="levers, added in turn", fontsize="small")
    return figure


def _worker(network: str, levers: Sequence[str], arguments: argparse.Namespace) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, network, "--worker"]
    command += ["--threads", str(arguments.threads), "--device", arguments.device, "--levers", *levers]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "networks", nargs="*", metavar="NETWORK", default=list(NETWORKS), help=", ".join(NETWORKS)
    )
    parser.add_argument(
        "--levers",
        nargs="+",
        default=list(LEVERS),
        choices=LEVERS,
        help="in the order in which they are added",
    )
    parser.add_argument(
        "--rounds", type=int, default=7, help="in each of which all variants run (default: 7)"
    )
    parser.add_argument("--steps", type=int, default=6, help="of each variant in each round (default: 6)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: torch's own")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda was never run")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where step.json and step.png go")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
