"""Distributed training of Wasserstein GANs on sharded image data.

import pipeline

result = pipeline.train("configs/digits.yaml", name="first", schedule={"steps": 500})
generator = pipeline.load_generator(result.path)
images = generator.sample(16)          # float32 (16, channels, height, width) in [-1, 1]
dataset = pipeline.open_shards("data/digits")
stream = pipeline.as_webdataset("data/digits").decode("pil")
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from webdataset import WebDataset

    from pipeline.data.reading.dataset import ShardDataset
    from pipeline.option_data import RemoteOptions
    from pipeline.run.generator import TrainedGenerator
    from pipeline.train import CallableModule

    train: CallableModule

__all__ = ["as_webdataset", "load_generator", "open_shards", "train"]

# All imports are inside of functions: `import pipeline` and commands that need no torch are quick.


def __getattr__(name: str) -> Any:
    """`pipeline.train` is the module of that name, which can be called."""
    if name == "train":
        return import_module("pipeline.train")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_generator(
    path: str | Path, checkpoint: int | Literal["best"] | None = None, use_ema: bool = True
) -> TrainedGenerator:
    """The trained generator of a run, of one of its checkpoints, or of a file made by `wgan export`.

    Of a run it takes the newest checkpoint, that of the step `checkpoint`, or the best one; and the moving average of
    the weights, or with `use_ema=False` the last weights. `load_generator("runs/digits").sample(16)` are images,
    float32 (16, channels, height, width) in [-1, 1]. Raises ConfigError or CheckpointError.
    """
    from pipeline.errors import ConfigError
    from pipeline.run.generator import read_generator

    if not isinstance(path, str | Path):
        raise ConfigError(
            f"The path of a generator is {path!r}, of type {type(path).__name__}. Give the path of a run's directory, "
            "of a checkpoint or of an exported file."
        )

    return read_generator(Path(path), checkpoint, use_ema)


def open_shards(
    shards: str | Path | list[str], remote: RemoteOptions | None = None, **form: Any
) -> ShardDataset:
    """The images of a shard directory, or of a set at a URL, as a map-style torch data set.

    `open_shards("data/digits")[0]` is the first image, uint8 (channels, height, width), and its label, -1 if it has
    none. `torch.utils.data.DataLoader` takes it as it is, with any number of workers. `remote` says how shards at a URL
    are fetched. `form` is the shape of the images, if it is not to be that of the shards: `resolution=64` or
    `[90, 160]`, `fit="crop"`, "fit" or "pad", and `channels=1`, 3 or 4, as the options of a config's section data.
    Raises DataError or ConfigError.
    """
    from pipeline.data.reading.dataset import ShardDataset
    from pipeline.option_data import RemoteOptions

    return ShardDataset.named(_places(shards), remote or RemoteOptions(), form)


def _places(shards: str | Path | list[str]) -> str | list[str]:
    """The places as the option has them."""
    return list(map(str, shards)) if isinstance(shards, list) else str(shards)


def as_webdataset(
    shards: str | Path | list[str], remote: RemoteOptions | None = None, seed: int | None = None
) -> WebDataset:
    """The samples of a shard directory, a set at a URL, or tar files, as a `webdataset.WebDataset` of undecoded fields.

    Tar files are named by a pattern, such as "s3://bucket/train-{0000..1281}.tar", or a list of them; they are indexed
    first.

    `as_webdataset("data/digits").decode("pil").to_tuple("png", "cls")` are images and their labels, in the order of the
    shards; with a `seed`, in another order of the shards in each epoch. Ranks and DataLoader workers each get their
    own shards; workers count the epochs by themselves, so give the DataLoader `persistent_workers=True`, or every epoch
    has the order of the first one. Keys are the library's and end at the first dot: of a set that was indexed in place,
    `img1.v1.png` and `img1.v2.png` are two images of `open_shards`, and here the fields `v1.png` and `v2.png` of one
    sample.

    Members other than images, `.npy`, `.cls`, `.json` and `.txt` are left out, so that no decoder of the library runs
    code from a shard. Raises DataError or ConfigError; while it is read, DataError for a shard that is compressed or
    damaged, and for an image that is no PNG, JPEG or WebP, whatever its name says.
    """
    from pipeline.data.reading.as_webdataset import as_webdataset
    from pipeline.option_data import DataOptions, RemoteOptions

    options = DataOptions(shards=_places(shards), remote=remote or RemoteOptions())
    dataset: WebDataset = as_webdataset(options, seed)
    return dataset
