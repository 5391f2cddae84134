"""The speed of reading images, compared with plain webdataset and torchvision's ImageFolder in the same run.

command:   python benchmarks/speed/loader.py --cifar FOLDER --mnist data/mnist
           --cifar FOLDER     class folders of small JPEG files, for example CIFAR-10
           --mnist DIR        MNIST as PNG shards (wgan shards make mnist DIR)
           --work DIR         directory for the other sets, which are kept for the next call
           --rounds 5 --seconds 0.6    rounds, and the time of each reader in each round
duration:  about three minutes on two cores, after the sets have been made
prints:    a markdown table for each set: images per second (median of the rounds), and the median over the rounds
           of the speed relative to plain webdataset, which reads the same shards. All readers give shuffled
           batches of 256 uint8 images without worker processes; "2 threads" decode ahead of the loop.
           Below it, the time from opening the shards to the first batch at 90% of an epoch
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import webdataset
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2.functional import pil_to_tensor
from tqdm import tqdm

from pipeline.cores import available_cores
from pipeline.data.format.codecs import EXTENSIONS, encode
from pipeline.data.format.shard_set import open_directory
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

BATCH = 256
ROWS = RankRows(0, BATCH, BATCH)
SHUFFLED = 4096
LARGE_SIDE, LARGE_COUNT = 256, 4000
CPU = torch.device("cpu")

Batches = Iterator[Tensor]


@dataclass(frozen=True)
class ImageSet:
    """One set of images, as shards and as class folders."""

    name: str
    shards: Path
    folder: Path


def plain_webdataset(images: ImageSet) -> Batches:
    """Webdataset as in its readme: images are decoded with Pillow, shuffled in a buffer, and stacked."""
    manifest = open_directory(images.shards).manifest
    extension = next(ending for ending, encoding in EXTENSIONS.items() if encoding == manifest.encoding)
    urls = [str(images.shards / shard.name) for shard in manifest.shards]
    kind = "pil" if manifest.channels == 3 else "pill"
    dataset = (
        webdataset.WebDataset(urls, shardshuffle=len(urls)).shuffle(SHUFFLED).decode(kind).to_tuple(extension)
    )
    while True:
        batch = []
        for (image,) in dataset:
            batch.append(torch.from_numpy(np.array(image)))
            if len(batch) == BATCH:
                yield torch.stack(batch)
                batch = []


def image_folder(images: ImageSet) -> Batches:
    """torchvision's ImageFolder in a DataLoader without workers."""
    loader = DataLoader(ImageFolder(images.folder, pil_to_tensor), BATCH, shuffle=True, drop_last=True)
    while True:
        for batch, _ in loader:
            yield batch


def indexed(images: ImageSet, threads: int = 0) -> Batches:
    """This project's reader of memory-mapped shards (data.cache: none)."""
    reader = ShardReader(open_directory(images.shards))
    return uint8_batches(reader, reader, threads)


def resident(images: ImageSet) -> Batches:
    """This project's cache (data.cache: host)."""
    reader = ShardReader(open_directory(images.shards))
    return uint8_batches(reader, decode_all(reader, Node(), show_progress=False), 0)


def uint8_batches(reader: ShardReader, images: Images, threads: int, at: float = 0.0) -> Batches:
    """Batches from a place in the first epoch. They stay uint8, as those of the other readers do."""
    used = UsedSamples([shard.count for shard in reader.manifest.shards])
    order = Order([used], seed=0, shuffle_shards=64)
    loader = Loader(images, order, ROWS, CPU, threads)
    return (loader.to_pixels(staged) for staged in loader.batches(int(order.epoch_size * at)))


def copied(images: ImageSet) -> Batches:
    """No reader, only one copy of the same number of bytes into new memory."""
    manifest = open_directory(images.shards).manifest
    shape = (BATCH, manifest.channels * manifest.resolution[0] * manifest.resolution[1])
    source = torch.zeros(max(1, min(manifest.count // BATCH, 20)), *shape, dtype=torch.uint8)
    while True:
        for batch in source:
            yield batch.clone()


READERS: dict[str, Callable[[ImageSet], Batches]] = {
    "plain webdataset, decode('pil')": plain_webdataset,
    "ImageFolder + DataLoader": image_folder,
    "resident": resident,
    "indexed": indexed,
    "indexed, 2 threads": lambda images: indexed(images, 2),
    "a copy in memory": copied,
}


def measure(images: ImageSet, rounds: int, seconds: float) -> dict[str, list[float]]:
    """The images per second of each reader in each round."""
    streams = {name: start(images) for name, start in READERS.items()}
    for stream in streams.values():
        next(stream)
    speeds: dict[str, list[float]] = {name: [] for name in READERS}
    for _ in tqdm(range(rounds), desc=images.name, leave=False, disable=None):
        for name, stream in streams.items():
            count, start = 0, time.perf_counter()
            while (passed := time.perf_counter() - start) < seconds:
                next(stream)
                count += BATCH
            speeds[name].append(count / passed)
    for stream in streams.values():
        stream.close()  # type: ignore[attr-defined]
    return speeds


def report(images: ImageSet, speeds: dict[str, list[float]]) -> None:
    """Print the table of one set."""
    manifest = open_directory(images.shards).manifest
    height, width = manifest.resolution
    print(
        f"\n### {images.name}: {manifest.count:,} {manifest.encoding} images of {height} x {width}, "
        f"{manifest.bytes / manifest.count:,.0f} bytes each\n"
    )
    print("| reader | images/s | times plain webdataset |\n|-|-:|-:|")
    plain = speeds["plain webdataset, decode('pil')"]
    for name, found in speeds.items():
        ratio = statistics.median(one / other for one, other in zip(found, plain, strict=True))
        print(f"| {name} | {statistics.median(found):,.0f} | {ratio:,.1f} |")


def first_batch_late(images: ImageSet) -> None:
    """Print the time from opening the shards to the first batch at 90% of an epoch, the median of five."""
    print()
    for threads in (0, 2):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            reader = ShardReader(open_directory(images.shards))
            next(uint8_batches(reader, reader, threads, at=0.9))
            times.append(time.perf_counter() - start)
        print(
            f"first batch at 90% of an epoch, indexed, {threads} threads: {statistics.median(times) * 1000:.0f} ms"
        )


def prepare(cifar: Path, mnist: Path, work: Path) -> list[ImageSet]:
    """Make the sets that do not exist yet."""
    as_files(mnist, work / "mnist-files")
    make(cifar, work / "cifar", 32)
    enlarge(cifar, work / "large-files")
    make(work / "large-files", work / "large", LARGE_SIDE)
    return [
        ImageSet("MNIST", mnist, work / "mnist-files"),
        ImageSet("CIFAR-10", work / "cifar", cifar),
        ImageSet("256 pixels", work / "large", work / "large-files"),
    ]


def make(folder: Path, out: Path, side: int) -> None:
    """Make JPEG shards from JPEG files that already have this size: each file is kept byte for byte."""
    source = open_source(Spec(str(folder)))
    plan = plan_shards(source, Conversion((side, side), 3, encoding="jpeg"))
    make_shards(plan, out, workers=available_cores())


def as_files(shards: Path, folder: Path) -> None:
    """Write the images of shards to class folders."""
    if folder.exists():
        return
    opened = open_directory(shards)
    making = folder.with_name(folder.name + ".making")
    for shard in opened.manifest.shards:
        content = (shards / shard.name).read_bytes()
        for place, (offset, size, label, _) in enumerate(opened.load_index(shard).tolist()):
            file = making / opened.manifest.classes[label] / f"{shard.name}-{place}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content[offset : offset + size])
    making.rename(folder)


def enlarge(cifar: Path, folder: Path) -> None:
    """Enlarge some of the small images: decoding speed depends more on the size than on the content."""
    if folder.exists():
        return
    source = open_source(Spec(str(cifar)))
    chosen = plan_shards(source, Conversion((32, 32), 3), Selection(limit=LARGE_COUNT)).chosen
    making = folder.with_name(folder.name + ".making")
    for position in tqdm(chosen.positions.tolist(), desc="enlarging", disable=None):
        file = making / source.key(position)
        file.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(cifar / source.key(position)) as small:
            large = small.convert("RGB").resize((LARGE_SIDE, LARGE_SIDE), Image.Resampling.BICUBIC)
        file.write_bytes(encode(np.asarray(large), "jpeg", 90))
    making.rename(folder)


def main() -> None:
    """Measure all sets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cifar", type=Path, required=True)
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("data/benchmark"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.6)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for images in prepare(arguments.cifar, arguments.mnist, arguments.work):
        report(images, measure(images, arguments.rounds, arguments.seconds))
        first_batch_late(images)


if __name__ == "__main__":
    main()
