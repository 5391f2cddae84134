"""The speed of making shards from class folders, compared with a loop that opens, resizes and saves with Pillow.

command:   python benchmarks/speed/conversion.py --folder FOLDER
           --folder FOLDER    class folders of small image files, for example CIFAR-10 as JPEG files
           --count 8000       number of images to convert; also --resolution 32, --rounds 5
duration:  about half a minute on two cores
prints:    a markdown table: images per second (median of the rounds), the median over the rounds of the speed
           relative to the Pillow loop, and the same per core. The loop saves PNG files with Pillow's defaults
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from pipeline.cores import available_cores
from pipeline.data.format.codecs import Encoding
from pipeline.data.making.convert import Conversion
from pipeline.data.making.plan import Plan, plan_shards
from pipeline.data.making.selection import Selection
from pipeline.data.making.writer import make_shards
from pipeline.data.sources import Spec, open_source

SAMPLES_PER_SHARD = 1024


def pillow_loop(files: list[Path], side: int, out: Path) -> None:
    """The loop that one would write by hand."""
    out.mkdir()
    for number, file in enumerate(files):
        with Image.open(file) as image:
            small = image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
        small.save(out / f"{number}.png")


def time_all(ways: dict[str, Callable[[Path], object]], rounds: int) -> dict[str, list[float]]:
    """The seconds that each way takes in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in tqdm(range(rounds), desc="rounds", leave=False, disable=None):
        for name, way in ways.items():
            with tempfile.TemporaryDirectory() as place:
                start = time.perf_counter()
                way(Path(place) / "out")
                seconds[name].append(time.perf_counter() - start)
                shutil.rmtree(Path(place) / "out")
    return seconds


def main() -> None:
    """Measure all ways."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--count", type=int, default=8000)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    source = open_source(Spec(str(arguments.folder)))
    cores = available_cores()
    side = arguments.resolution

    def plan(encoding: Encoding) -> Plan:
        conversion = Conversion((side, side), 3, encoding=encoding)
        return plan_shards(source, conversion, Selection(limit=arguments.count), SAMPLES_PER_SHARD)

    png, jpeg = plan("png"), plan("jpeg")
    files = [arguments.folder / source.key(position) for position in png.chosen.positions.tolist()]
    ways: dict[str, Callable[[Path], object]] = {
        "Pillow: open, resize, save": lambda out: pillow_loop(files, side, out),
        "PNG shards": lambda out: make_shards(png, out),
        f"PNG shards, {cores} processes": lambda out: make_shards(png, out, workers=cores),
        "JPEG shards (files of the right size are kept byte for byte)": lambda out: make_shards(jpeg, out),
    }
    print_table(time_all(ways, arguments.rounds), len(files), cores)


def print_table(seconds: dict[str, list[float]], count: int, cores: int) -> None:
    """Print the speeds and ratios."""
    print("| way | images/s | times Pillow | per core |\n|-|-:|-:|-:|")
    loop = next(iter(seconds.values()))
    for name, found in seconds.items():
        ratio = statistics.median(theirs / ours for theirs, ours in zip(loop, found, strict=True))
        used = cores if "processes" in name else 1
        print(f"| {name} | {count / statistics.median(found):,.0f} | {ratio:.2f} | {ratio / used:.2f} |")


if __name__ == "__main__":
    main()
