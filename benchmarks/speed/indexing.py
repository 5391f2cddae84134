"""The speed of indexing tar files of others, beside `tar t`; and what a run on an index of millions of samples costs.

command:   python benchmarks/speed/indexing.py
           --rounds 5            rounds in which all ways take turns; also --megabytes 400 of tar files of each kind
           --samples 1000000 10000000    sizes of sets that are opened, made from an index alone
duration:  about two minutes on two cores; a set of 10^8 samples takes 1.6 GB of disk, and some minutes to make
prints:    a markdown table of GB/s (median of the rounds), with the median over the rounds of the speed relative to
           `tar t`, for small and large images; and one of the time and memory that a process needs from opening a
           set to the ids of its first batch

`tar t` reads only the headers and skips the images, so it is no limit for reading: `cat` is, which reads every byte as
indexing does. The files are in the page cache.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.data.format.codecs import encode
from pipeline.data.format.indexes import compact_index
from pipeline.data.format.manifest import Manifest, Shard

PER_SHARD = 10_000
SIDES = (32, 256)
BATCH = 256
PICTURES = 64

FIRST_BATCH = """
import json, resource, sys, time
from pipeline.config import parse_config
from pipeline.data.originals.opening import open_data
from pipeline.data.reading.run_order import build_order
from pipeline.noise import RankRows
def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
text = {{"name": "x", "data": {{"shards": sys.argv[1], "resolution": 64, **json.loads(sys.argv[2])}},
    "schedule": {{"steps": 1, "global_batch": {batch}}}}}
config = parse_config(text, "benchmark")
before, start = memory(), time.perf_counter()
shards = open_data(config.data)
order = build_order(config, shards)
ids = order.batch(0, RankRows.of_rank(0, 8, {batch})).ids
print(json.dumps([time.perf_counter() - start, memory() - before, len(ids)]))
"""


def write_tars(place: Path, side: int, size: int) -> list[Path]:
    """Tar files of KEY.jpg and KEY.cls, of `size` bytes together, as in most sets: smooth pictures with some noise."""
    rng, pictures = np.random.default_rng(side), []
    for _ in range(PICTURES):
        coarse = rng.integers(0, 256, (side // 8, side // 8, 3)).repeat(8, 0).repeat(8, 1)
        pixels = np.clip(coarse + rng.normal(0, 8, coarse.shape), 0, 255).astype(np.uint8)
        pictures.append(encode(pixels, "jpeg", 90))
    paths, number = [], 0
    for shard in range(8):
        path = place / f"{side}-{shard}.tar"
        with tarfile.open(path, "w") as archive:
            while archive.offset < size // 8:
                for ending, content in (
                    ("jpg", pictures[number % PICTURES]),
                    ("cls", str(number % 10).encode()),
                ):
                    member = tarfile.TarInfo(f"{number:09d}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
                number += 1
        paths.append(path)
    return paths


def ways(paths: list[Path]) -> dict[str, Callable[[Path], object]]:
    """What is compared, by name: each is called with a directory of its own."""
    from pipeline.data.originals.index_set import Wanted, index_originals

    names = [str(path) for path in paths]

    def run(*words: str) -> Callable[[Path], object]:
        return lambda out: [
            subprocess.run([*words, name], stdout=subprocess.DEVNULL, check=True) for name in names
        ]

    return {
        "tar t": run("tar", "tf"),
        "cat": run("cat"),
        "webdataset, reading": lambda out: read_by_webdataset(names),
        "wgan shards index": lambda out: index_originals(names, out, Wanted()),
    }


def read_by_webdataset(names: list[str]) -> None:
    """All samples as bytes, by webdataset's own reader."""
    import webdataset

    for _ in webdataset.WebDataset(names, shardshuffle=False):
        pass


def measure_indexing(size: int, rounds: int) -> None:
    """Print the table of speeds."""
    with tempfile.TemporaryDirectory() as folder:
        for side in SIDES:
            paths = write_tars(Path(folder), side, size)
            total = sum(path.stat().st_size for path in paths)
            compared = ways(paths)
            seconds: dict[str, list[float]] = {name: [] for name in compared}
            for number in range(rounds + 1):
                for name, way in compared.items():
                    out = Path(folder) / "out"
                    start = time.perf_counter()
                    way(out)
                    # The first round only fills the page cache.
                    seconds[name] += [time.perf_counter() - start] if number else []
                    shutil.rmtree(out, ignore_errors=True)
            print(f"\n{total / 1e6:,.0f} MB of JPEG files of {side} x {side} pixels in 8 tar files\n")
            print("| way | GB/s | times tar t |\n|-|-:|-:|")
            for name, found in seconds.items():
                ratio = statistics.median(t / own for t, own in zip(seconds["tar t"], found, strict=True))
                print(f"| {name} | {total / statistics.median(found) / 1e9:.2f} | {ratio:.2f} |", flush=True)


def write_index(place: Path, samples: int) -> None:
    """An index of so many samples of ten classes, of tar files that hold nothing but take no room on the disk."""
    rows = np.empty((PER_SHARD, 4), dtype=np.int64)
    rows[:, 0] = 512 + 1024 * np.arange(PER_SHARD)
    rows[:, 1], rows[:, 3] = 500, 0
    shards = []
    for number in range(samples // PER_SHARD):
        rows[:, 2] = np.random.default_rng(number).integers(0, 10, PER_SHARD)
        content, tar = compact_index(rows), place / f"{number:06d}.tar"
        (place / f"{number:06d}.index").write_bytes(content)
        with tar.open("wb") as file:
            file.truncate(1024 * PER_SHARD + 1024)
        digest = hashlib.sha256(content).hexdigest()
        shards.append(
            Shard(str(tar), PER_SHARD, 1024 * PER_SHARD + 1024, "", f"{number:06d}.index", digest, "made up")
        )
    classes = tuple(map(str, range(10)))
    (place / "manifest.json").write_text(
        Manifest("made up", None, None, classes, "mixed", tuple(shards)).to_json()
    )


def measure_start(sizes: list[int], rounds: int) -> None:
    """Print the table of times and memory, each of a process of its own."""
    settings = {
        "all images": {},
        "validation: 0.01": {"validation": 0.01},
        "classes: [3]": {"classes": ["3"]},
    }
    print(
        "\n| samples | index, MB | data | seconds to the first batch's ids | memory for it, MiB |\n|-:|-:|-|-:|-:|"
    )
    for samples in sizes:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            write_index(place, samples)
            index = sum(path.stat().st_size for path in place.glob("*.index")) / 1e6
            for name, options in settings.items():
                words = [sys.executable, "-c", FIRST_BATCH.format(batch=BATCH), folder, json.dumps(options)]
                found = [json.loads(subprocess.check_output(words)) for _ in range(rounds)]
                seconds, memory, _ = map(statistics.median, zip(*found, strict=True))
                print(f"| {samples:,} | {index:,.0f} | {name} | {seconds:.2f} | {memory:,.0f} |", flush=True)


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--samples", type=int, nargs="*", default=[10**6, 10**7])
    arguments = parser.parse_args()
    measure_indexing(arguments.megabytes * 10**6, arguments.rounds)
    measure_start(arguments.samples, min(arguments.rounds, 3))


if __name__ == "__main__":
    main()
