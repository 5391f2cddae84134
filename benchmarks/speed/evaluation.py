"""How long the metrics of an evaluation take on the main rank, compared with another version of the project.

command:   git worktree add OTHER REVISION
           python benchmarks/speed/evaluation.py OTHER
           OTHER                 a checkout of the other version; both run with the packages of this environment
           --ranks 2             of one machine: the other version computes with the threads of one of them
           --threads N           of this version (default: those of all ranks)
           --device cpu          where this version computes; cuda for a GPU
           --samples 2048        images of each set; also --dimensions 2048 (of Inception features), --side 64
           --rounds 3
           --metrics fid kid precision swd
duration:  five minutes on two cores
prints:    a markdown table: for each metric the seconds of the clock and of the processor that an evaluation takes
           after the first one, which also looks at the real images (medians over the rounds, in which the versions
           take turns), and the relative difference of the figures
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

PROGRAM = """
import json, sys, time
import torch
checkout, threads, device, samples, dimensions, side, *metrics = sys.argv[1:]
sys.path.insert(0, checkout)
from pipeline.exact_arithmetic import use_exact_arithmetic
from pipeline.quality.metrics import measure_all
from pipeline.quality.sets import Collected, RealSets, Sets

assert measure_all.__code__.co_filename.startswith(checkout), "another version was imported"
torch.set_num_threads(int(threads))
use_exact_arithmetic()
count, width, side = int(samples), int(dimensions), int(side)
source = torch.Generator().manual_seed(0)
mixing = torch.randn(width, width, generator=source) / width**0.5

def images(scale):
    features = (torch.randn(count, width, generator=source) @ mixing * scale).abs()
    pixels = torch.randint(256, (count, 3, side, side), generator=source, dtype=torch.uint8)
    return Collected(features, pixels, torch.zeros(count, 0))

compared, fake, none = images(1.0), images(1.1), torch.zeros(0, width)
place = {"device": torch.device(device)} if "device" in RealSets.__dataclass_fields__ else {}
real = RealSets(compared, none, none, count, 0, **place)
for metric in metrics:
    for _ in range(2):
        started = time.perf_counter(), time.process_time()
        figures = measure_all([metric], Sets(real, fake))
        seconds = time.perf_counter() - started[0], time.process_time() - started[1]
    print(json.dumps([*seconds, figures[metric]]), flush=True)
"""
HERE = Path(__file__).resolve().parents[2]


def measure(checkout: Path, threads: int, device: str, arguments: argparse.Namespace) -> list[list[float]]:
    """The seconds of the clock, those of the processor, and the figure of each metric."""
    words = [str(checkout.resolve()), str(threads), device]
    words += [str(getattr(arguments, name)) for name in ("samples", "dimensions", "side")]
    found = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, *words, *arguments.metrics],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd="/",
    )
    return [json.loads(line) for line in found.stdout.splitlines()]


def main() -> None:
    """Measure both versions."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", type=Path)
    parser.add_argument("--device", default="cpu")
    for name, default in (("ranks", 2), ("samples", 2048), ("dimensions", 2048), ("side", 64), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--metrics", nargs="+", default=["fid", "kid", "precision", "swd"])
    arguments = parser.parse_args()

    from pipeline.cores import available_cores

    cores = available_cores()
    before, now = list[Any](), list[Any]()
    for _ in tqdm(range(arguments.rounds), desc="rounds", leave=False, disable=None):
        before.append(measure(arguments.other, max(1, cores // arguments.ranks), "cpu", arguments))
        now.append(measure(HERE, arguments.threads or cores, arguments.device, arguments))
    print(
        "| metric | before, s | now, s | before, processor s | now, processor s | difference of the figures |"
    )
    print("|-|-:|-:|-:|-:|-:|")
    for number, metric in enumerate(arguments.metrics):
        seconds = [
            statistics.median(rounds[number][place] for rounds in found)
            for place in (0, 1)
            for found in (before, now)
        ]
        figure, other = now[0][number][2], before[0][number][2]
        difference = abs(figure - other) / max(abs(other), 1e-300)
        cells = " | ".join(f"{value:.2f}" for value in seconds)
        print(f"| {metric} | {cells} | {difference:.0e} |")


if __name__ == "__main__":
    main()
