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
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from matplotlib.figure import Figure
from timing import NEVER, batch_options, open_trainer, parser, row, run_command, train_bare, write_findings
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from tqdm import tqdm

from pipeline.config import load_config
from pipeline.data.threads import available_cores
from pipeline.durable import write_text
from pipeline.errors import ConfigError, PipelineError
from pipeline.monitor.plots import BLUE, GREEN, RED
from pipeline.monitor.records import read_records
from pipeline.options import Config
from pipeline.ranks.runtime import join, mean_over_ranks
from pipeline.run.directory import RunDirectory
from pipeline.wording import counted

SCALINGS = ("strong", "weak")
APART = "apart"
EXCHANGES = 300
LOG_POINTS = 6
RANKS_COUNTED, STEPS_COUNTED = 2, 2
MODELLED = (8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Kind:
    """One way to train: a number of ranks, the threads of each, and the global batch."""

    scaling: str
    ranks: int
    threads: int
    global_batch: int


@dataclass(frozen=True)
class Speed:
    """Images per second of one kind in each round, and its efficiency relative to one process in the same round."""

    kind: Kind
    images_per_second: list[float]
    efficiency: list[float]


@dataclass(frozen=True)
class Traffic:
    """What every rank sends to the others in one step."""

    gradient_bytes: int
    gradient_calls: int
    """Buckets of DDP"""
    other_bytes: int
    other_calls: int
    """All-gathers of batch norm's statistics, which the forward and backward passes wait for"""
    bytes_by_parameters: int
    """The expected size of the gradients: 4 bytes for each parameter and optimizer step"""
    idle_gradient_seconds: float
    """The median time for a bucket of mean size between ranks that do nothing else, on this machine"""
    idle_other_seconds: float


@dataclass(frozen=True)
class Cluster:
    """The input of the model: bytes per second, seconds, and a share in [0, 1]."""

    gpus_per_node: int
    intra: float
    inter: float
    latency: float
    overlap: float

    def all_reduce_seconds(self, content: float, ranks: int) -> float:
        """The time of one all-reduce of `content` bytes, with a ring or a tree: the faster of the two."""
        bandwidth = self.intra if ranks <= self.gpus_per_node else self.inter
        ring = 2 * (ranks - 1) / ranks * content / bandwidth + 2 * (ranks - 1) * self.latency
        tree = 2 * content / bandwidth + 2 * math.ceil(math.log2(ranks)) * self.latency
        return min(ring, tree)

    def all_gather_seconds(self, content: float, ranks: int) -> float:
        """The time until each rank has `content` bytes of every other rank, by recursive doubling."""
        bandwidth = self.intra if ranks <= self.gpus_per_node else self.inter
        return (ranks - 1) * content / bandwidth + math.ceil(math.log2(ranks)) * self.latency

    def exposed_seconds(self, traffic: Traffic, ranks: int) -> float:
        """The part of a step's communication that computation does not hide."""

        def seconds(content: int, calls: int, one: Callable[[float, int], float]) -> float:
            return calls * one(content / calls, ranks) if calls else 0.0

        gradients = seconds(traffic.gradient_bytes, traffic.gradient_calls, self.all_reduce_seconds)
        others = seconds(traffic.other_bytes, traffic.other_calls, self.all_gather_seconds)
        return (1 - self.overlap) * gradients + others


@dataclass(frozen=True)
class Prediction:
    """The model's step on a number of GPUs; strong is None if the global batch cannot be divided among them."""

    ranks: int
    exposed_seconds: float
    weak_efficiency: float
    strong_efficiency: float | None


def kinds(ranks: Sequence[int], global_batch: int, on_cpu: bool) -> list[Kind]:
    """One process, and for each number of ranks the strong, weak and, on CPUs, separate kinds."""
    cores = max(ranks) if on_cpu else 1

    def threads(count: int) -> int:
        return cores // count if on_cpu else 1

    several = [
        Kind(scaling, count, threads(count), global_batch * (count if scaling == "weak" else 1))
        for count in ranks
        if count > 1
        # On GPUs separate runs would all take the first GPU.
        for scaling in ((*SCALINGS, APART) if on_cpu else SCALINGS)
    ]
    return [Kind("one process", 1, threads(1), global_batch), *several]


def train(kind: Kind, config: Config, words: Sequence[str], steps: int, place: Path) -> float:
    """Images per second of a run, or of several at the same time. Raises PipelineError if one fails."""
    if kind.scaling != APART:
        return train_run(kind, config, words, steps, place)
    alone = replace(kind, ranks=1, global_batch=kind.global_batch // kind.ranks)
    places = [place / str(number) for number in range(kind.ranks)]
    with ThreadPoolExecutor(kind.ranks) as pool:
        return sum(pool.map(lambda own: train_run(alone, config, words, steps, own), places))


def train_run(kind: Kind, config: Config, words: Sequence[str], steps: int, place: Path) -> float:
    """Images per second of a run started by `wgan train`. Raises PipelineError if it fails."""
    log_every = math.ceil(steps / LOG_POINTS)
    command = [
        sys.executable,
        "-m",
        "pipeline.cli",
        "train",
        *words,
        *batch_options(config, kind.global_batch),
    ]
    command += [f"run_root={place}", f"schedule.steps={log_every * (LOG_POINTS + 1)}"]
    command += [f"monitor.log_every={log_every}", f"monitor.sample_every={NEVER}", "monitor.plots=false"]
    command += [f"checkpoint.every={NEVER}", "checkpoint.keep_every=null", "--processes", str(kind.ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(kind.threads)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise PipelineError(
            f"{counted(kind.ranks, 'rank')} with {counted(kind.threads, 'thread')} each ended with exit code "
            f"{ended.returncode}:\n"
            f"{ended.stderr[-2000:]}"
        )
    records = read_records(RunDirectory(place / config.name).metrics)
    return throughput([record["speed/images_per_second"] for record in records])


def throughput(images_per_second: Sequence[float]) -> float:
    """Images per second over all log points except the first. Each log point has the same number of images."""
    return statistics.harmonic_mean(images_per_second[1:])


def efficiencies(found: dict[Kind, list[float]], on_cpu: bool) -> list[Speed]:
    """Each kind relative to one process in the same round, which is the first of `found`."""
    alone = next(iter(found.values()))
    return [
        Speed(
            kind,
            speeds,
            [speed / one / (1 if on_cpu else kind.ranks) for speed, one in zip(speeds, alone, strict=True)],
        )
        for kind, speeds in found.items()
    ]


def be_rank(rank: int, ranks: int, port: int, words: Sequence[str], place: str) -> None:
    """Run one of several ranks as torchrun would start it, and count its traffic."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    count_as_rank(words, place)


def count_as_rank(words: Sequence[str], place: str) -> None:
    """Train a few steps with the bare loop. The first rank writes what it sent per step."""
    config = load_config(Path(words[0]), words[1:])
    runtime = join(config)
    gradients, others = list[int](), list[int]()
    all_gather, all_reduce = dist.all_gather, dist.all_reduce

    def count(values: Tensor, options: Mapping[str, Any]) -> None:
        # Only gradients are exchanged while the backward pass is running.
        (gradients if options.get("async_op") else others).append(values.nbytes)

    def count_and_gather(rows: list[Tensor], values: Tensor, **options: Any) -> Any:
        count(values, options)
        return all_gather(rows, values, **options)

    def count_and_reduce(values: Tensor, **options: Any) -> Any:
        if options.get("async_op"):
            count(values, options)
        return all_reduce(values, **options)

    with open_trainer(config, runtime, Path(place) / "counted") as trainer:
        dist.all_gather, dist.all_reduce = count_and_gather, count_and_reduce  # type: ignore[assignment]
        train_bare(trainer, STEPS_COUNTED)
        dist.all_gather, dist.all_reduce = all_gather, all_reduce
    idle = [
        idle_seconds(
            lambda values: mean_over_ranks(None, SimpleNamespace(buffer=lambda: values)).wait(), gradients
        ),
        idle_seconds(
            lambda values: all_gather([torch.empty_like(values) for _ in range(RANKS_COUNTED)], values),
            others,
        ),
    ]
    if runtime.is_main:
        totals = [sum(gradients), len(gradients), sum(others), len(others)]
        counts = [total // STEPS_COUNTED for total in totals]
        generator, critic = (
            parameter_bytes(player.module) for player in (trainer.state.generator, trainer.state.critic)
        )
        by_parameters = critic * (config.schedule.optimizer_steps - 1) + generator
        write_text(Path(place) / "counts", json.dumps([*counts, by_parameters, *idle]))
    del trainer
    runtime.close()


def idle_seconds(exchange: Callable[[Tensor], object], sizes: Sequence[int]) -> float:
    """The median seconds of an exchange of the mean of these sizes, in bytes, while the ranks do nothing else."""
    if not sizes:
        return 0.0
    values, seconds = torch.zeros(sum(sizes) // len(sizes) // 4), []
    for _ in range(EXCHANGES):
        started = time.perf_counter()
        exchange(values)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def count_traffic(ranks: int, words: Sequence[str]) -> Traffic:
    """What DDP and batch norm send in a step with this number of ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as place:
        spawn(be_rank, (ranks, port, list(words), place), nprocs=ranks)
        return Traffic(*json.loads((Path(place) / "counts").read_text()))


def parameter_bytes(module: nn.Module) -> int:
    """Bytes of the gradients of all parameters that are trained."""
    return sum(parameter.numel() * 4 for parameter in module.parameters() if parameter.requires_grad)


def predict(
    traffic: Traffic, cluster: Cluster, step_seconds: float, global_batch: int, ranks: int
) -> Prediction:
    """The model: the computation of a step, divided among the ranks for strong scaling, plus the communication."""
    exposed = cluster.exposed_seconds(traffic, ranks)
    strong = step_seconds / (step_seconds + ranks * exposed) if global_batch % ranks == 0 else None
    return Prediction(ranks, exposed, step_seconds / (step_seconds + exposed), strong)


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
