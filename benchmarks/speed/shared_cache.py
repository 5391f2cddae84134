"""The host memory that decoded images take (data.cache: host), with one rank and with several.

command:   python benchmarks/speed/shared_cache.py --shards DIR --ranks 1 2 4
duration:  a few seconds for each number of ranks
prints:    for each number of ranks, the memory of the cache in all ranks together (proportional set size on Linux,
           which divides shared pages among the processes), and its ratio to the size of the decoded images. Every
           rank has read every image
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from pipeline.data.format.shard_set import open_directory
from pipeline.data.reading.cache import Node, decode_all
from pipeline.data.reading.reader import ShardReader

CHUNK = 4096


def cache_bytes() -> int:
    """The proportional set size of the memory file with the images, which several ranks share."""
    total, is_cache = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            # The first line of a mapping.
            is_cache = "memfd:wgan-images" in line
        elif name == "Pss:" and is_cache:
            total += int(rest[0]) * 1024
    return total


def resident_bytes() -> int:
    """The proportional set size of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def be_rank(rank: int, ranks: int, shards: Path, store: str) -> None:
    """Decode this rank's part, read all images, and save the sum over ranks on the first rank."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)

    def exchange(value: object) -> list[object]:
        values: list[object] = [None] * ranks
        dist.all_gather_object(values, value)
        return values

    before = resident_bytes()
    node = Node(rank=rank, size=ranks, first_rank=0, exchange=exchange)
    images = decode_all(ShardReader(open_directory(shards)), node, show_progress=False)
    count = open_directory(shards).manifest.count
    for start in range(0, count, CHUNK):
        images.read(np.arange(start, min(start + CHUNK, count)))
    exchange(None)
    # A single rank keeps the images in ordinary memory, which has no name in smaps.
    taken = cache_bytes() if ranks > 1 else resident_bytes() - before
    total = sum(int(value) for value in exchange(taken))  # type: ignore[call-overload]
    if rank == 0:
        (Path(store).parent / "total").write_text(str(total))
    dist.destroy_process_group()


def main() -> None:
    """Measure each number of ranks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    decoded = open_directory(arguments.shards).decoded_bytes
    print(
        f"decoded images: {decoded / 2**20:.1f} MiB\n\n| ranks | memory of the cache in all ranks, MiB | relative to "
        "the images |\n|-|-:|-:|"
    )
    for ranks in arguments.ranks:
        with tempfile.TemporaryDirectory() as place:
            multiprocessing.spawn(be_rank, (ranks, arguments.shards, f"{place}/store"), nprocs=ranks)
            total = int((Path(place) / "total").read_text())
        print(f"| {ranks} | {total / 2**20:.1f} | {total / decoded:.2f} |")


if __name__ == "__main__":
    main()
