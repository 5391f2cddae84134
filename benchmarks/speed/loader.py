"""The speed of reading images, compared with webdataset, litdata, mosaicml-streaming, SPDL and ImageFolder in one run.

command:   python benchmarks/speed/loader.py
           --images PLACE     JPEG files, in folders or in a tar file; by default smooth noise of 32 pixels
           --count 8000       how many of them are used
           --work DIR         directory for the sets, which are kept for the next call
           --rounds 3 --seconds 1.5    rounds, and the time of each reader in each round
duration:  five minutes on two cores, after the sets have been made; a loader that is not installed gets no time
prints:    a markdown table for the images, read as they are, and one for a part of them enlarged to 256 pixels and read
           at 64: images per second (median of the rounds) without and with 2 threads or worker processes, and the
           median over the rounds of the speed relative to bare decoding. All give shuffled batches of 256 uint8 images.
           Below, the time from opening the shards to the first batch at 90% of an epoch
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from peers import BATCH, PEERS, Batches, ImageSet, bare_decoding
from PIL import Image
from tqdm import tqdm

from pipeline.data.format.codecs import encode
from pipeline.data.format.open_shards import open_shards
from pipeline.data.making.convert import Conversion
from pipeline.data.making.plan import plan_shards
from pipeline.data.making.selection import Selection
from pipeline.data.making.writer import make_shards
from pipeline.data.reading.cache import Node, decode_all
from pipeline.data.reading.loader import Images, Loader
from pipeline.data.reading.order import Order
from pipeline.data.reading.reader import ShardReader
from pipeline.data.reading.used_samples import UsedSamples
from pipeline.data.sources import Spec, open_source
from pipeline.noise import RankRows
from pipeline.option_data import DataOptions

ROWS = RankRows(0, BATCH, BATCH)
SMALL_SIDE, LARGE_SIDE, READ_SIDE, LARGE_SHARE = 32, 256, 64, 4
INSTALL = "not installed: pip install 'wgan-pipeline[benchmark-peers]'"


def reader_of(images: ImageSet) -> ShardReader:
    """This project's reader of memory-mapped shards (data.cache: none)."""
    return ShardReader(open_shards(DataOptions(shards=str(images.shards), resolution=images.side)))


def decoded_in_the_loop(images: ImageSet, threads: int) -> Batches:
    """This project without a cache."""
    reader = reader_of(images)
    return uint8_batches(reader, reader, threads)


def resident(images: ImageSet, threads: int) -> Batches:
    """This project's cache (data.cache: host), which needs no threads."""
    reader = reader_of(images)
    return uint8_batches(reader, decode_all(reader, Node(), show_progress=False), 0)


def uint8_batches(reader: ShardReader, images: Images, threads: int, at: float = 0.0) -> Batches:
    """Batches from a place in the first epoch. They stay uint8, as those of the other readers do."""
    used = UsedSamples([shard.count for shard in reader.manifest.shards])
    order = Order([used], seed=0, shuffle_shards=64)
    loader = Loader(images, order, ROWS, torch.device("cpu"), threads)
    return map(loader.to_pixels, loader.batches(int(order.epoch_size * at)))


OURS: dict[str, Callable[[ImageSet, int], Batches]] = {
    "bare decoding, simplejpeg": bare_decoding,
    "this project": decoded_in_the_loop,
    "this project, resident": resident,
}
READERS = OURS | PEERS


def measure(images: ImageSet, rounds: int, seconds: float) -> dict[tuple[str, int], list[float]]:
    """The images per second of each reader, without and with two workers, in each round; none if it is missing."""
    speeds: dict[tuple[str, int], list[float]] = {
        (name, workers): [] for name in READERS for workers in (0, 2)
    }
    for _ in tqdm(range(rounds), desc=images.name, leave=False, disable=None):
        for (name, workers), found in speeds.items():
            try:
                batches = READERS[name](images, workers)
                next(batches)
            except ImportError:
                continue
            count, began = 0, time.perf_counter()
            while (passed := time.perf_counter() - began) < seconds:
                next(batches)
                count += BATCH
            found.append(count / passed)
            del batches
    return speeds


def report(images: ImageSet, speeds: dict[tuple[str, int], list[float]]) -> None:
    """Print the table of one set."""
    print(f"\n### {images.name}, {len(images.files):,} JPEGs, read at {images.side} pixels\n")
    print("| reader | images/s | of bare decoding | with 2 workers | of bare decoding |\n|-|-:|-:|-:|-:|")
    bare = speeds["bare decoding, simplejpeg", 0]
    for name in READERS:
        if not speeds[name, 0]:
            print(f"| {name} | {INSTALL} | | | |")
            continue
        cells = [
            f"{statistics.median(found):,.0f} | {statistics.median(map(float.__truediv__, found, bare)):.2f}"
            for found in (speeds[name, 0], speeds[name, 2])
        ]
        print(f"| {name} | {' | '.join(cells)} |")


def first_batch_late(images: ImageSet) -> None:
    """Print the time from opening the shards to the first batch at 90% of an epoch, the median of five."""
    print()
    for threads in (0, 2):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            reader = reader_of(images)
            next(uint8_batches(reader, reader, threads, at=0.9))
            times.append(time.perf_counter() - start)
        print(f"first batch at 90% of an epoch, {threads} threads: {statistics.median(times) * 1000:.0f} ms")


def prepare(place: Path | None, count: int, work: Path) -> list[ImageSet]:
    """Write the images as files in class folders, and make shards of them."""
    name = f"{place.stem if place else 'noise'}-{count}"
    small, large = work / name, work / f"{name}-large"
    write_folder(small, partial(chosen, place, count) if place else partial(noise, count))
    write_folder(large, partial(enlarged, small, count // LARGE_SHARE))
    sides = [side_of(small), LARGE_SIDE]
    for folder, side in zip((small, large), sides, strict=True):
        plan = plan_shards(open_source(Spec(str(folder))), Conversion((side, side), 3, encoding="jpeg"))
        make_shards(plan, folder.with_name(f"{folder.name}-shards"))
    return [
        ImageSet(name, small, small.with_name(f"{small.name}-shards"), sides[0]),
        ImageSet(f"{name}, enlarged", large, large.with_name(f"{large.name}-shards"), READ_SIDE),
    ]


def write_folder(folder: Path, contents: Callable[[], list[bytes]]) -> None:
    """Write JPEG files into ten class folders, unless that was done before."""
    if folder.exists():
        return
    making = folder.with_name(folder.name + ".making")
    for number, content in enumerate(tqdm(contents(), desc=f"making {folder.name}", disable=None)):
        file = making / str(number % 10) / f"{number:06d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    making.rename(folder)


def chosen(place: Path, count: int) -> list[bytes]:
    """The bytes of some of the JPEG files in a folder or a tar file."""
    source = open_source(Spec(str(place)))
    positions = plan_shards(source, Conversion((8, 8), 3), Selection(limit=count)).chosen.positions
    return [bytes(source.read(position)) for position in positions.tolist()]


def noise(count: int) -> list[bytes]:
    """Smooth images with grain."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((SMALL_SIDE, SMALL_SIDE), Image.Resampling.BICUBIC)).astype(int)
        grain = rng.integers(-6, 7, smooth.shape)
        found.append(encode((smooth + grain).clip(0, 255).astype(np.uint8), "jpeg", 90))
    return found


def enlarged(folder: Path, count: int) -> list[bytes]:
    """Some of the images at 256 pixels, with as many colours as most photos have (4:2:0)."""
    found = []
    for file in sorted(folder.glob("*/*.jpg"))[:count]:
        with Image.open(file) as small:
            large = small.convert("RGB").resize((LARGE_SIDE, LARGE_SIDE), Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        large.save(stream, "JPEG", quality=90)
        found.append(stream.getvalue())
    return found


def side_of(folder: Path) -> int:
    """The side of the images, which must be square and of one size."""
    with Image.open(next(folder.glob("*/*.jpg"))) as image:
        return image.height


def main() -> None:
    """Measure both sets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path)
    parser.add_argument("--count", type=int, default=8000)
    parser.add_argument("--work", type=Path, default=Path("data/benchmark/loader"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for images in prepare(arguments.images, arguments.count, arguments.work):
        report(images, measure(images, arguments.rounds, arguments.seconds))
        first_batch_late(images)


if __name__ == "__main__":
    main()
