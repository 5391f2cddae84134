"""How fast this version makes and reads shards, compared with another version of the project in the same run.

command:   git worktree add OTHER REVISION
           python benchmarks/speed/versions.py OTHER --folder FOLDER
           OTHER              a checkout of the other version; both run with the packages of this environment
           --folder FOLDER    class folders of small image files, for example CIFAR-10 as JPEG files
           --count 4000       number of images; also --resolution 32, --rounds 15
duration:  about two minutes on two cores
prints:    a markdown table: processor seconds of each version to make the shards, or to read them eight times (median
           of the rounds), and the median over the rounds of this version's time relative to the other's, with the
           range of the middle half of the rounds. Each version is a process that stays; they take turns, and swap
           places in every second round
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

PROGRAM = """
import json, shutil, sys, time
from pathlib import Path
checkout, folder, place, count, side = sys.argv[1:]
sys.path[:0] = [checkout, checkout + "/benchmarks/speed"]
import loader
from pipeline.data.making.convert import Conversion
from pipeline.data.making.plan import plan_shards
from pipeline.data.making.selection import Selection
from pipeline.data.making.writer import make_shards
from pipeline.data.sources import Spec, open_source

assert loader.make_shards.__code__.co_filename.startswith(checkout), "another version was imported"
source, shape = open_source(Spec(folder)), (int(side), int(side))

def make(encoding, name):
    plan = plan_shards(source, Conversion(shape, 3, encoding=encoding), Selection(limit=int(count)), 1024)
    make_shards(plan, Path(place) / name)

def stream(encoding):
    make(encoding, encoding)
    images = loader.ImageSet(encoding, Path(place) / encoding, Path(folder))
    return loader.indexed(images)

streams = {encoding: stream(encoding) for encoding in ("png", "jpeg", "raw")}

def read(encoding):
    for _ in range(8 * int(count) // loader.BATCH):
        next(streams[encoding])

def remake(encoding):
    make(encoding, "again")

for line in sys.stdin:
    what, encoding = line.split()
    started = time.process_time()
    {"make": remake, "read": read}[what](encoding)
    spent = time.process_time() - started
    if what == "make":
        shutil.rmtree(Path(place) / "again")
    print(json.dumps(spent), flush=True)
"""
WORK = [f"{what} {encoding}" for what in ("make", "read") for encoding in ("png", "jpeg", "raw")]
HERE = Path(__file__).resolve().parents[2]


class Version:
    """A process that imports one version, and does what it is told."""

    def __init__(self, checkout: Path, place: Path, arguments: argparse.Namespace) -> None:
        words = [str(checkout), str(arguments.folder.resolve()), str(place)]
        words += [str(arguments.count), str(arguments.resolution)]
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=place,
        )

    def seconds(self, work: str) -> float:
        """The processor time that this work takes."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(work + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(
                f"error: the process of one version ended with code {self.process.wait()}; see above."
            )
        return float(json.loads(line))


def measure(versions: list[Version], rounds: int) -> dict[str, list[list[float]]]:
    """The seconds of both versions in each round, by work. The first round warms up and does not count."""
    found: dict[str, list[list[float]]] = {work: [] for work in WORK}
    for number in tqdm(range(rounds + 1), desc="rounds", leave=False, disable=None):
        for work in WORK:
            order = versions[:: 1 if number % 2 else -1]
            spent = {version: version.seconds(work) for version in order}
            if number:
                found[work].append([spent[version] for version in versions])
    return found


def print_table(found: dict[str, list[list[float]]]) -> None:
    """Print medians and ratios."""
    print("| work | other version, s | this version, s | ratio | middle half |\n|-|-:|-:|-:|-:|")
    for work, rounds in found.items():
        theirs, ours = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratios: Any = [one / other for other, one in rounds]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"| {work} | {theirs:.3f} | {ours:.3f} | {middle:.3f} | {low:.3f} to {high:.3f} |")


def main() -> None:
    """Measure both versions."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", type=Path)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        versions = [
            Version(checkout.resolve(), Path(place), arguments)
            for checkout, place in ((arguments.other, one), (HERE, two))
        ]
        try:
            print_table(measure(versions, arguments.rounds))
        finally:
            for version in versions:
                version.process.kill()
                version.process.wait()


if __name__ == "__main__":
    main()
