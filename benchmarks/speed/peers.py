"""The other loaders that benchmarks/speed/loader.py measures, each as its own documentation shows it.

All give shuffled batches of BATCH uint8 images, (count, channels, height, width), from the same JPEG files, decoded by
simplejpeg where the loader leaves that to its user. They need `pip install 'wgan-pipeline[benchmark-peers]'`, best in
an environment of its own; each is imported only when it is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2.functional import pil_to_tensor, resize

BATCH = 256
SHUFFLED = 4096

Batches = Iterator[Tensor]


@dataclass(frozen=True)
class ImageSet:
    """JPEG files in class folders, the same as shards of this project, and the side at which they are read."""

    name: str
    folder: Path
    shards: Path
    side: int

    @property
    def files(self) -> list[str]:
        """All images."""
        return sorted(map(str, self.folder.glob("*/*.jpg")))


def decoded(content: bytes, side: int) -> Tensor:
    """A JPEG at this size: uint8 (channels, side, side)."""
    pixels = torch.from_numpy(simplejpeg.decode_jpeg(content)).permute(2, 0, 1)
    return pixels if pixels.shape[1] == side else resize(pixels, [side, side], antialias=True)


def pillow_pixels(image: Image.Image, side: int) -> Tensor:
    """The same of a Pillow image."""
    image = image if image.width == side else resize(image, [side, side])
    return pil_to_tensor(image)


def started(workers: int) -> dict[str, str]:
    """How worker processes are started: as Python 3.11 does by default, which litdata changes for all."""
    return {"multiprocessing_context": "fork"} if workers else {}


def bare_decoding(images: ImageSet, workers: int) -> Batches:
    """No loader: simplejpeg and numpy.stack on files that are in memory, in random order."""
    contents = [Path(file).read_bytes() for file in images.files]
    rng = np.random.default_rng(0)
    while True:
        chosen = rng.integers(0, len(contents), BATCH)
        if images.side == simplejpeg.decode_jpeg_header(contents[0])[0]:
            yield torch.from_numpy(np.stack([simplejpeg.decode_jpeg(contents[place]) for place in chosen]))
        else:
            yield torch.stack([decoded(contents[place], images.side) for place in chosen])


def webdataset(images: ImageSet, workers: int) -> Batches:
    """Webdataset as in its readme, on the same shards."""
    import webdataset as wds

    tars = sorted(map(str, images.shards.glob("*.tar")))
    dataset = (
        wds.WebDataset(tars, shardshuffle=len(tars), empty_check=False)
        .shuffle(SHUFFLED)
        .decode("pil")
        .to_tuple("jpg")
        .map_tuple(partial(pillow_pixels, side=images.side))
    )
    while True:
        for (batch,) in wds.WebLoader(dataset, batch_size=BATCH, num_workers=workers, **started(workers)):
            if len(batch) == BATCH:
                yield batch


def image_folder(images: ImageSet, workers: int) -> Batches:
    """torchvision's ImageFolder in a DataLoader."""
    files = ImageFolder(str(images.folder), partial(pillow_pixels, side=images.side))
    loader = DataLoader(files, BATCH, shuffle=True, drop_last=True, num_workers=workers, **started(workers))
    while True:
        for batch, _ in loader:
            yield batch


def litdata(images: ImageSet, workers: int) -> Batches:
    """Litdata: JPEGs as bytes in its chunks."""
    from litdata import StreamingDataLoader, StreamingDataset, optimize

    place = images.folder.with_name(images.folder.name + "-litdata")
    if not place.exists():
        optimize(fn=_as_sample, inputs=images.files, output_dir=str(place), chunk_bytes="64MB", num_workers=1)
    transform = partial(_of_sample, side=images.side)
    dataset = StreamingDataset(str(place), shuffle=True, drop_last=True, transform=transform)
    loader = StreamingDataLoader(dataset, batch_size=BATCH, num_workers=workers, drop_last=True)
    while True:
        yield from loader


def mosaicml_streaming(images: ImageSet, workers: int) -> Batches:
    """Mosaicml-streaming: JPEGs as bytes in its MDS shards."""
    from streaming import MDSWriter, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    place = images.folder.with_name(images.folder.name + "-mds")
    if not place.exists():
        with MDSWriter(out=str(place), columns={"image": "bytes"}) as writer:
            for file in images.files:
                writer.write(_as_sample(file))
    clean_stale_shared_memory()
    dataset = StreamingDataset(local=str(place), shuffle=True, batch_size=BATCH)
    collate = partial(_stacked, side=images.side)
    loader = DataLoader(
        dataset, BATCH, num_workers=workers, drop_last=True, collate_fn=collate, **started(workers)
    )
    while True:
        yield from loader


def spdl(images: ImageSet, workers: int) -> Batches:
    """SPDL: a pipeline over the files, in at least one thread, which decodes a batch at a time."""
    from spdl.pipeline import PipelineBuilder

    threads = max(1, workers)

    def shuffled() -> Iterator[list[str]]:
        rng, files = np.random.default_rng(0), images.files
        while True:
            order = rng.permutation(files).tolist()
            yield from (order[at : at + BATCH] for at in range(0, len(order) - BATCH + 1, BATCH))

    def load(files: list[str]) -> Tensor:
        return _stacked([_as_sample(file) for file in files], images.side)

    builder = PipelineBuilder().add_source(shuffled()).pipe(load, concurrency=threads)
    pipeline = builder.add_sink(4).build(num_threads=threads)
    with pipeline.auto_stop():
        yield from pipeline


PEERS: dict[str, Callable[[ImageSet, int], Batches]] = {
    "webdataset": webdataset,
    "ImageFolder + DataLoader": image_folder,
    "litdata, simplejpeg": litdata,
    "mosaicml-streaming, simplejpeg": mosaicml_streaming,
    "SPDL, simplejpeg": spdl,
}


def _as_sample(file: str) -> dict[str, bytes]:
    return {"image": Path(file).read_bytes()}


def _of_sample(sample: dict[str, bytes], side: int) -> Tensor:
    return decoded(sample["image"], side)


def _stacked(samples: list[dict[str, bytes]], side: int) -> Tensor:
    return torch.stack([_of_sample(sample, side) for sample in samples])
