"""Does a run's memory stay constant over many steps? What grows, and how does the peak depend on the batch size?

command:   python benchmarks/speed/memory.py CONFIG [section.option=value ...]
           --steps 1000               memory is read 50 times; the first fifth is the warm-up
           --batches 16 64 256        global batches whose peak is measured
           --device cpu               or cuda
           --out DIR                  where to write the figures (default: nowhere)
duration:  one to two minutes for configs/digits.yaml on two idle cores. The batch of the long run hardly matters:
           schedule.global_batch=8 makes it short
prints:    for the process and each kind of its memory, the MiB at the end and the slope over 1,000 steps
           (Theil-Sen: the median of the slopes between all pairs of points) with its 95% interval; the same for
           live tensors and for the number of Python objects. Then for each batch the peak of the process in a few
           steps, and how much of it was added after Python and its libraries had started; on a GPU also the peak
           of the GPU's memory
writes:    DIR/memory-NAME.json and .png

The run is the whole trainer, which logs, draws and saves. Every measurement has its own process. Linux only. The
interval assumes independent points. They are not independent, so it is too narrow.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from scipy.stats import theilslopes
from timing import batch_options, open_trainer, parser, row, run_command, train_whole, write_findings
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from tqdm import tqdm

from pipeline.config import load_config
from pipeline.durable import write_text
from pipeline.errors import ConfigError
from pipeline.monitor.plots import BLUE, GREEN, ORANGE, RED
from pipeline.monitor.sinks import Sink
from pipeline.ranks.runtime import join

POINTS = 50
WARM_UP = 0.2
PEAK_STEPS = 2
MIB = 2**20

PROCESS, HEAP, FILES, SHARED = "process", "its own memory", "mapped files", "shared memory"
TENSORS, OBJECTS = "live tensors", "Python objects"
ALLOCATED, RESERVED, PEAK = "device allocated", "device reserved", "device peak"
STATUS = {"VmRSS": PROCESS, "RssAnon": HEAP, "RssFile": FILES, "RssShmem": SHARED}
"""Lines of /proc/self/status; the last three add up to the first"""

Figures = dict[str, float]
"""MiB by name; OBJECTS is a number in thousands"""


@dataclass(frozen=True)
class Slope:
    """The change of a figure over 1,000 steps after the warm-up, with its 95% interval."""

    at_end: float
    per_1000_steps: float
    low: float
    high: float


@dataclass(frozen=True)
class Peak:
    """The peak memory with one global batch, in MiB."""

    global_batch: int
    process: float
    after_start: float
    device: float | None


class MemorySink(Sink):
    """Reads the memory of the process at each log point, and keeps the figures by step."""

    def __init__(self, device: torch.device) -> None:
        self.seen: dict[int, Figures] = {}
        self._device = device

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        # Validation logs by itself too; then the later reading counts.
        self.seen[step] = look(self._device)


def look(device: torch.device) -> Figures:
    """The memory of this process, after Python has collected its garbage."""
    gc.collect()
    status = process_status()
    figures = {name: status[line] for line, name in STATUS.items()}
    objects = gc.get_objects()
    figures[OBJECTS] = len(objects) / 1000
    figures[TENSORS] = tensor_bytes(objects) / MIB
    if device.type == "cuda":
        figures[ALLOCATED] = torch.cuda.memory_allocated(device) / MIB
        figures[RESERVED] = torch.cuda.memory_reserved(device) / MIB
        figures[PEAK] = torch.cuda.max_memory_allocated(device) / MIB
        torch.cuda.reset_peak_memory_stats(device)
    return figures


def tensor_bytes(objects: Sequence[object]) -> int:
    """Bytes of the storages of all tensors among the objects, on any device. Each storage counts once."""
    storages = {}
    for candidate in objects:
        # isinstance would call proxy objects, and some of them import a module when they are called.
        if issubclass(type(candidate), Tensor):
            storage = candidate.untyped_storage()  # type: ignore[attr-defined]
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def slopes(seen: Mapping[int, Figures]) -> dict[str, Slope]:
    """The slope of each figure over the points after the warm-up."""
    steps = sorted(seen)
    steps = [step for step in steps if step >= WARM_UP * steps[-1]]
    found = {}
    for name in seen[steps[0]]:
        values = [seen[step][name] for step in steps]
        slope, _, low, high = theilslopes(values, [step / 1000 for step in steps])
        found[name] = Slope(values[-1], float(slope), float(low), float(high))
    return found


def watch_run(_: int, words: Sequence[str], target: str) -> None:
    """Train in this process, read its memory at each log point, and write the figures as JSON."""
    config = load_config(Path(words[0]), words[1:])
    runtime = join(config)
    with open_trainer(config, runtime, Path(target).with_name(config.name)) as trainer:
        sink = MemorySink(runtime.device)
        trainer.observer.sinks._sinks.append(sink)
        trainer.train()
    write_text(Path(target), json.dumps(sink.seen))


def measure_peak(_: int, words: Sequence[str], target: str) -> None:
    """Train a few steps in this process, and write its peak, its size before and the device's peak as JSON."""
    config = load_config(Path(words[0]), words[1:])
    runtime = join(config)
    before = process_status()["VmHWM"]
    with open_trainer(config, runtime, Path(target).with_name(config.name)) as trainer:
        train_whole(trainer, PEAK_STEPS)
    device = None
    if runtime.device.type == "cuda":
        device = torch.cuda.max_memory_allocated(runtime.device) / MIB
    peak = process_status()["VmHWM"]
    write_text(Path(target), json.dumps([peak, peak - before, device]))


def process_status() -> dict[str, float]:
    """The sizes in /proc/self/status in MiB. VmHWM is the peak so far; getrusage would include the parent's peak."""
    lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    return {words[0].rstrip(":"): int(words[1]) / 1024 for words in lines if words[-1] == "kB"}


def in_process(work: Callable[[int, Sequence[str], str], None], words: Sequence[str]) -> Any:
    """Run `work` in a new process, and return what it writes."""
    with tempfile.TemporaryDirectory() as place:
        target = Path(place) / "found.json"
        spawn(work, (list(words), str(target)), nprocs=1)
        return json.loads(target.read_text())


def print_slopes(found: Mapping[str, Slope]) -> None:
    """Print a markdown table."""
    print("| MiB of | at the end | slope over 1,000 steps | 95% interval |\n|-|-:|-:|-:|")
    for name, slope in found.items():
        label = f"{name}, thousands" if name == OBJECTS else name
        cells = (
            f"{slope.at_end:,.1f}",
            f"{slope.per_1000_steps:+.2f}",
            f"{slope.low:+.2f} to {slope.high:+.2f}",
        )
        print(row(label, *cells))


def print_peaks(peaks: Sequence[Peak]) -> None:
    """Print a markdown table."""
    print("\n| global batch | process, MiB | after the start, MiB | device, MiB |\n|-:|-:|-:|-:|")
    for peak in peaks:
        device = "" if peak.device is None else f"{peak.device:,.0f}"
        print(row(peak.global_batch, f"{peak.process:,.0f}", f"{peak.after_start:,.0f}", device))


def draw(name: str, seen: Mapping[int, Figures], peaks: Sequence[Peak]) -> Figure:
    """A plot of the run's memory over the step, and one of the peak over the batch."""
    figure = Figure(figsize=(10, 3.8), dpi=90, layout="constrained")
    over_steps, over_batches = figure.subplots(1, 2, width_ratios=(3, 2))
    steps = sorted(seen)
    drawn = dict(
        zip((PROCESS, HEAP, FILES, TENSORS, RESERVED), (BLUE, RED, GREEN, ORANGE, "#555555"), strict=True)
    )
    for figure_name, colour in drawn.items():
        if figure_name in seen[steps[0]]:
            values = [seen[step][figure_name] for step in steps]
            over_steps.plot(steps, values, color=colour, label=figure_name)
    over_steps.axvspan(0, WARM_UP * steps[-1], color="#EEEEEE", label="warm-up")
    over_steps.set_xlabel("step (generator updates)")
    over_steps.legend(fontsize="small")
    batches = [peak.global_batch for peak in peaks]
    over_batches.plot(batches, [peak.after_start for peak in peaks], "o-", color=BLUE, label="process")
    if all(peak.device is not None for peak in peaks):
        over_batches.plot(batches, [peak.device for peak in peaks], "o-", color="#555555", label="device")
    over_batches.set_xlabel("global batch")
    over_batches.set_title("peak after the start", fontsize="small", loc="left")
    over_batches.legend(fontsize="small")
    for axes in (over_steps, over_batches):
        axes.set_ylabel("MiB")
        # Leaves room for the legend above constant lines.
        axes.set_ylim(0, 1.3 * axes.get_ylim()[1])
        axes.grid(alpha=0.3)
    figure.suptitle(name, parse_math=False)
    return figure


def run(arguments: argparse.Namespace) -> None:
    """Measure the config that the command line names."""
    if arguments.steps < POINTS:
        raise ConfigError(
            f"--steps {arguments.steps}: memory is read {POINTS} times, at different steps. Choose at least {POINTS}."
        )
    words = [str(arguments.config), *arguments.overrides, f"runtime.device={arguments.device}"]
    config = load_config(arguments.config, words[1:])
    batches = {batch: batch_options(config, batch) for batch in arguments.batches}
    log_every = arguments.steps // POINTS
    long = [f"schedule.steps={log_every * POINTS}", f"monitor.log_every={log_every}"]
    content = in_process(watch_run, [*words, *long])
    seen = {int(step): figures for step, figures in content.items()}
    found = slopes(seen)
    print_slopes(found)
    peaks = [
        Peak(batch, *in_process(measure_peak, [*words, *options]))
        for batch, options in tqdm(batches.items(), desc="batches", leave=False, disable=None)
    ]
    print_peaks(peaks)
    if arguments.out is not None:
        findings = {
            "run": config.name,
            "device": arguments.device,
            "slopes": {name: asdict(slope) for name, slope in found.items()},
            "seen": seen,
            "peaks": [asdict(peak) for peak in peaks],
        }
        write_findings(arguments.out, f"memory-{config.name}", findings, draw(config.name, seen, peaks))


def main(words: Sequence[str] | None = None) -> int:
    """Measure. Returns the exit code."""
    arguments = parser(__doc__)
    arguments.add_argument("--steps", type=int, default=1000)
    arguments.add_argument("--batches", type=int, nargs="+", default=[16, 64, 256])
    return run_command(run, arguments.parse_intermixed_args(words))


if __name__ == "__main__":
    sys.exit(main())
