"""How throughput grows with the number of processes: measured on this machine, and modelled for many GPUs.

command:   python benchmarks/speed/scaling.py CONFIG [section.option=value ...]
           --ranks 1 2                at most one per core or GPU (default: 1, 2 and 4, up to that number)
           --rounds 3 --steps 60      steps of each kind in each round, after a warm-up up to the first log point; with
                                      --rounds 0 only the traffic is counted and the model computed
           --device cpu               or cuda
           --out DIR                  where to write the figures (default: nowhere)
           Input of the model:
           --step-ms 50               compute time of a step on one GPU; it is not measured here
           --gpus-per-node 8 --intra-gb-s 200 --inter-gb-s 25    10^9 bytes per second that each GPU sends within a
                                      node and between nodes
           --latency-us 10            per hop: a ring has 2 (n - 1) hops, a tree 2 log2(n)
           --overlap 0.5              share of the gradients' all-reduce that the backward pass hides
duration:  about three minutes for configs/digits.yaml on two idle cores; for a slow network use fewer --steps
prints:    images per second with one process and with several, as medians over the rounds, and the median of their
           ratio within a round. "strong" divides the config's global batch among the ranks, "weak" gives each rank
           that batch, and "apart" are separate runs on parts of the batch, which exchange nothing: they show the
           share of the cores in "strong". Then what the ranks exchange in a step and how long that takes between
           idle ranks, and the predictions of the model
writes:    DIR/scaling-NAME.json and .png

On CPUs all kinds use the same cores: one process has as many threads as the largest number of ranks, so an
efficiency of 1 means that processes are as fast as threads. Nothing else should run on the machine: threads wait
for each other at every operation, so other load slows one process with several threads down much more than several
processes. On GPUs each rank adds a GPU, and the efficiency is the speed-up divided by the number of ranks.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from cluster_model import Cluster, Prediction, predict
from matplotlib.figure import Figure
from throughput import APART, SCALINGS, Kind, Speed, efficiencies, kinds, train
from timing import parser, row, run_command, write_findings
from tqdm import tqdm
from traffic import RANKS_COUNTED, Traffic, count_traffic

from pipeline.config import load_config
from pipeline.cores import available_cores
from pipeline.errors import ConfigError
from pipeline.monitor.plots import BLUE, GREEN, RED
from pipeline.options import Config
from pipeline.wording import counted

MODELLED = (8, 16, 32, 64, 128, 256)


def print_measured(speeds: Sequence[Speed]) -> None:
    """Print a markdown table of the medians over the rounds."""
    print(
        "| scaling | ranks x threads | global batch | images/s | efficiency | of the rounds |\n|-|-:|-:|-:|-:|-|"
    )
    for speed in speeds:
        kind = speed.kind
        print(
            row(
                kind.scaling,
                f"{kind.ranks} x {kind.threads}",
                kind.global_batch,
                f"{statistics.median(speed.images_per_second):,.0f}",
                f"{statistics.median(speed.efficiency):.3f}",
                ", ".join(f"{value:.2f}" for value in speed.efficiency),
            )
        )


def print_traffic(traffic: Traffic) -> None:
    """Print what a rank sends in a step."""
    print(
        f"\neach rank sends in a step: {traffic.gradient_bytes:,} bytes of gradients in "
        f"{counted(traffic.gradient_calls, 'bucket')} (expected from the parameters: {traffic.bytes_by_parameters:,}), "
        f"and {traffic.other_bytes:,} bytes in {counted(traffic.other_calls, 'all-gather')} that the passes wait for\n"
        f"between {RANKS_COUNTED} idle ranks of this machine one exchange "
        f"takes {traffic.idle_gradient_seconds * 1e3:.2f} ms (gradients) or "
        f"{traffic.idle_other_seconds * 1e3:.2f} ms (others)"
    )


def print_predictions(predictions: Sequence[Prediction], cluster: Cluster, step_seconds: float) -> None:
    """Print the model's table, and say that it is not a measurement."""
    print(
        f"\nA model, not a measurement, with {step_seconds * 1e3:g} ms of computation in a step of one GPU, "
        f"{cluster.gpus_per_node} GPUs per node, {cluster.intra / 1e9:g} GB/s within a node and "
        f"{cluster.inter / 1e9:g} GB/s between nodes, {cluster.latency * 1e6:g} us per hop of a ring or tree (the "
        f"faster of the two), and {cluster.overlap:.0%} of the gradients' time hidden. It assumes that computation "
        "shrinks with the batch. On a GPU with too few images to be busy it does not, so the strong column is an upper "
        "bound.\n"
    )
    print("| GPUs | communication, ms | weak efficiency | strong efficiency |\n|-:|-:|-:|-:|")
    for found in predictions:
        strong = "not divisible" if found.strong_efficiency is None else f"{found.strong_efficiency:.3f}"
        cells = (found.ranks, f"{found.exposed_seconds * 1e3:.2f}", f"{found.weak_efficiency:.3f}", strong)
        print(row(*cells))


def draw(name: str, speeds: Sequence[Speed], predictions: Sequence[Prediction]) -> Figure:
    """The measurements with a dot for each round, and a plot of the model's predictions."""
    figure = Figure(figsize=(10, 3.8), dpi=90, layout="constrained")
    measured, modelled = figure.subplots(1, 2)
    for scaling, colour in zip((*SCALINGS, APART), (BLUE, RED, GREEN), strict=True):
        points = [
            (s.kind.ranks, value) for s in speeds if s.kind.scaling == scaling for value in s.efficiency
        ]
        measured.plot([x for x, _ in points], [y for _, y in points], "o", color=colour, label=scaling)
    for scaling, colour in zip(SCALINGS, (BLUE, RED), strict=True):
        values = [getattr(found, f"{scaling}_efficiency") for found in predictions]
        known = [(found.ranks, y) for found, y in zip(predictions, values, strict=True) if y is not None]
        modelled.plot([x for x, _ in known], [y for _, y in known], "o--", color=colour, label=scaling)
    measured.axhline(1, color="#555555", linestyle=":")
    measured.set_title("measured (one dot per round)")
    measured.set_xlabel("ranks")
    measured.set_xticks(sorted({speed.kind.ranks for speed in speeds} | {1}))
    modelled.set_title("a model, not a measurement")
    modelled.set_xlabel("GPUs")
    modelled.set_xscale("log", base=2)
    # Plain numbers: powers would need mathematical fonts, which not every machine has.
    modelled.xaxis.set_major_formatter("{x:.0f}")
    for axes in (measured, modelled):
        axes.set_ylabel("efficiency")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.suptitle(name, parse_math=False)
    return figure


def choose_ranks(wanted: Sequence[int] | None, device: str) -> list[int]:
    """The numbers asked for, or 1, 2 and 4 up to the cores or GPUs. Raises ConfigError if they are too large."""
    most = torch.cuda.device_count() if device == "cuda" else available_cores()
    ranks = sorted({1, *(wanted or [count for count in (2, 4) if count <= most])})
    if ranks[0] < 1 or ranks[-1] > most:
        raise ConfigError(
            f"--ranks {' '.join(map(str, ranks))}: this machine has "
            f"{counted(most, 'GPU' if device == 'cuda' else 'core')}. "
            f"Ranks that share one would measure nothing. Choose numbers from 1 to {most}."
        )
    return ranks


def measure(
    arguments: argparse.Namespace, config: Config, words: Sequence[str], ranks: Sequence[int]
) -> list[Speed]:
    """Train with each kind in alternation."""
    on_cpu = arguments.device == "cpu"
    found: dict[Kind, list[float]] = {kind: [] for kind in kinds(ranks, config.schedule.global_batch, on_cpu)}
    for _ in tqdm(range(arguments.rounds), desc="rounds", leave=False, disable=None):
        for kind, speeds in found.items():
            with tempfile.TemporaryDirectory() as place:
                speeds.append(train(kind, config, words, arguments.steps, Path(place)))
    return efficiencies(found, on_cpu)


def check_shares(config: Config, ranks: Sequence[int]) -> None:
    """Raise ConfigError unless the batches can be divided equally among each number of ranks."""
    schedule = config.schedule
    for count in ranks:
        if schedule.global_batch % count or schedule.real_images % count:
            raise ConfigError(
                f"Batches of {schedule.global_batch} and {schedule.real_images} images cannot be divided equally among "
                f"{counted(count, 'rank')}. Choose another schedule.global_batch or other --ranks."
            )


def run(arguments: argparse.Namespace) -> None:
    """Measure and model the config that the command line names."""
    if arguments.rounds < 0 or arguments.steps < 1:
        raise ConfigError(
            f"--rounds {arguments.rounds} --steps {arguments.steps}: rounds must be at least 0 and steps at least 1."
        )
    ranks = choose_ranks(arguments.ranks, arguments.device)
    # Bursts at the start of a run are not typical of the steps that follow.
    words = [str(arguments.config), *arguments.overrides, "schedule.bursts=null"]
    config = load_config(arguments.config, words[1:])
    check_shares(config, [*ranks, RANKS_COUNTED])
    measured, load = [], os.getloadavg()[0]
    if arguments.rounds:
        measured = measure(arguments, config, [*words, f"runtime.device={arguments.device}"], ranks)
        print(
            f"load of this machine before the measurement: {load:.1f} on {counted(available_cores(), 'core')}\n"
        )
        print_measured(measured)
    traffic = count_traffic(RANKS_COUNTED, [*words, "runtime.device=cpu"])
    print_traffic(traffic)
    cluster = Cluster(
        gpus_per_node=arguments.gpus_per_node,
        intra=arguments.intra_gb_s * 1e9,
        inter=arguments.inter_gb_s * 1e9,
        latency=arguments.latency_us / 1e6,
        overlap=arguments.overlap,
    )
    step_seconds, batch = arguments.step_ms / 1e3, config.schedule.global_batch
    predictions = [predict(traffic, cluster, step_seconds, batch, count) for count in MODELLED]
    print_predictions(predictions, cluster, step_seconds)
    if arguments.out is not None:
        content = {
            "run": config.name,
            "device": arguments.device,
            "steps": arguments.steps,
            "load_before": load,
            "measured": [asdict(speed) for speed in measured],
            "traffic": asdict(traffic),
            "modelled_from": {"step_seconds": step_seconds, **asdict(cluster)},
            "modelled": [asdict(found) for found in predictions],
        }
        figure = draw(config.name, measured, predictions)
        write_findings(arguments.out, f"scaling-{config.name}", content, figure)


def main(words: Sequence[str] | None = None) -> int:
    """Measure. Returns the exit code."""
    arguments = parser(__doc__)
    arguments.add_argument("--ranks", type=int, nargs="+", metavar="N")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--steps", type=int, default=60)
    arguments.add_argument("--step-ms", type=float, default=50.0)
    arguments.add_argument("--gpus-per-node", type=int, default=8)
    arguments.add_argument("--intra-gb-s", type=float, default=200.0)
    arguments.add_argument("--inter-gb-s", type=float, default=25.0)
    arguments.add_argument("--latency-us", type=float, default=10.0)
    arguments.add_argument("--overlap", type=float, default=0.5)
    return run_command(run, arguments.parse_intermixed_args(words))


if __name__ == "__main__":
    sys.exit(main())
