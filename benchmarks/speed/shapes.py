"""The speed of training at 64 pixels straight from tar files of 256-pixel JPEGs, beside plain webdataset.

command:   python benchmarks/speed/shapes.py
           --work DIR                  directory for the sets, which are kept for the next call
           --images 2000 --side 64     how many images of 256 pixels, and the side to which they are resized
           --rounds 3 --seconds 2      rounds, and the time of each reader in each round
duration:  about one minute on two cores, after the sets have been made
prints:    a markdown table: images per second (median of the rounds), and the median over the rounds of the speed
           relative to plain webdataset with the same number of threads or worker processes. All readers give shuffled
           batches of 256 uint8 images. The images are smooth noise with grain, so no download is needed
"""

from __future__ import annotations

import argparse
import io
import statistics
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import webdataset
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import Compose, PILToTensor, Resize
from tqdm import tqdm

from pipeline.cores import available_cores
from pipeline.data.format.open_shards import open_shards
from pipeline.data.making.convert import Conversion
from pipeline.data.making.plan import plan_shards
from pipeline.data.making.writer import make_shards
from pipeline.data.originals.index_set import Wanted, index_originals
from pipeline.data.reading.loader import Loader
from pipeline.data.reading.order import Order
from pipeline.data.reading.reader import ShardReader
from pipeline.data.reading.used_samples import UsedSamples
from pipeline.data.sources import Spec, open_source
from pipeline.noise import RankRows
from pipeline.option_data import DataOptions

BATCH, LARGE, PER_TAR, SHUFFLED = 256, 256, 500, 1000
ROWS = RankRows(0, BATCH, BATCH)

Batches = Iterator[Tensor]


def write_tars(folder: Path, images: int) -> None:
    """Tar files as others write them, of KEY.jpg."""
    if folder.exists():
        return
    making = folder.with_name(folder.name + ".making")
    making.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for first in tqdm(range(0, images, PER_TAR), desc="making", disable=None):
        with tarfile.open(making / f"{first // PER_TAR:04d}.tar", "w") as archive:
            for number in range(first, min(first + PER_TAR, images)):
                content = _photo(rng)
                member = tarfile.TarInfo(f"{number:06d}.jpg")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    making.rename(folder)


def _photo(rng: np.random.Generator) -> bytes:
    small = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((LARGE, LARGE), Image.Resampling.BICUBIC)).astype(np.int16)
    grainy = (smooth + rng.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(grainy).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def plain_webdataset(tars: Path, side: int, workers: int) -> Batches:
    """Webdataset as in its readme, with torchvision's antialiased resizing."""
    urls = [str(path) for path in sorted(tars.glob("*.tar"))]
    resize = Compose([Resize(side), PILToTensor()])
    dataset = (
        webdataset.WebDataset(urls, shardshuffle=len(urls), empty_check=False)
        .shuffle(SHUFFLED)
        .decode("pil")
        .to_tuple("jpg")
        .map_tuple(resize)
    )
    while True:
        for (batch,) in webdataset.WebLoader(dataset, batch_size=BATCH, num_workers=workers):
            if len(batch) == BATCH:
                yield batch


def ours(options: DataOptions, threads: int) -> Batches:
    """This project's reader, without a cache."""
    reader = ShardReader(open_shards(options))
    counts = [shard.count for shard in reader.manifest.shards]
    order = Order([UsedSamples(counts)], seed=0, shuffle_shards=64)
    loader = Loader(reader, order, ROWS, torch.device("cpu"), threads)
    return map(loader.to_pixels, loader.batches(0))


def measure(readers: dict[str, Callable[[], Batches]], rounds: int, seconds: float) -> dict[str, list[float]]:
    """The images per second of each reader in each round; no reader works while another is measured."""
    speeds: dict[str, list[float]] = {name: [] for name in readers}
    for _ in tqdm(range(rounds), leave=False, disable=None):
        for name, start in readers.items():
            batches = start()
            next(batches)
            count, began = 0, time.perf_counter()
            while (passed := time.perf_counter() - began) < seconds:
                next(batches)
                count += BATCH
            speeds[name].append(count / passed)
    return speeds


def main() -> None:
    """Make the sets, measure all readers, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("data/benchmark/shapes"))
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tars, work, side = arguments.work / "tars", arguments.work, arguments.side
    write_tars(tars, arguments.images)
    index_originals([f"{tars}/*.tar"], work / "index", Wanted())
    plan = plan_shards(open_source(Spec(str(tars))), Conversion((side, side), 3, encoding="jpeg"))
    make_shards(plan, work / f"converted{side}", workers=available_cores())
    straight = DataOptions(shards=str(work / "index"), resolution=side)
    converted = DataOptions(shards=str(work / f"converted{side}"))
    print(f"\n| reader of {arguments.images:,} JPEGs | images/s | times plain webdataset |\n|-|-:|-:|")
    readers: dict[str, Callable[[], Batches]] = {}
    for threads in (0, 2):
        readers |= {
            f"plain webdataset + torchvision, {threads} workers": lambda n=threads: plain_webdataset(
                tars, side, n
            ),
            f"straight, data.resolution: {side}, {threads} threads": lambda n=threads: ours(straight, n),
            f"converted shards of {side} pixels, {threads} threads": lambda n=threads: ours(converted, n),
        }
    speeds = measure(readers, arguments.rounds, arguments.seconds)
    for place, (name, found) in enumerate(speeds.items()):
        plain = list(speeds.values())[place // 3 * 3]
        ratio = statistics.median(one / other for one, other in zip(found, plain, strict=True))
        print(f"| {name} | {statistics.median(found):,.0f} | {ratio:,.1f} |")


if __name__ == "__main__":
    main()
