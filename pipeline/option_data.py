"""The options of data: where images are and how they are read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pipeline.option_types import ClassName, Count, LaterPath, Options, Places, Seconds, Sides, Text, option

Fit = Literal["crop", "fit", "pad", "random_crop"]


def is_pattern(shards: str | list[str]) -> bool:
    """Whether `data.shards` names tar files, which have to be indexed, and not a set."""
    if isinstance(shards, list):
        return True
    # In an address, a question mark begins a query.
    magic = r"[*\[{]|\.tar$" if "://" in shards else r"[*?\[{]|\.tar$"
    return re.search(magic, shards) is not None and not Path(shards).is_dir()


def shown_places(shards: str | list[str]) -> str:
    """What `data.shards` names, in one line."""
    return shards if isinstance(shards, str) else " ".join(shards)


class RemoteOptions(Options):
    """How shards are downloaded from a URL: whole, into a directory that several jobs of a machine can share."""

    directory: LaterPath = option("~/.cache/wgan-pipeline/shards", "directory for downloaded shards")
    capacity_gb: float = option(100.0, "limit in 10^9 bytes; least used shards are deleted", ge=1e-6, le=1e9)
    parallel: int = option(4, "downloads at a time, for each rank", ge=1, le=64)
    stall_seconds: Seconds = option(30.0, "reconnect after this long with almost no data")
    deadline_seconds: Seconds = option(600.0, "stop the run if a shard takes longer than this")
    redirect_hosts: list[Text] = option([], "other hosts, with subdomains, that a server may redirect to")


class MixOptions(Options):
    """One set of a mixture."""

    shards: Places
    weight: int = option(
        1, "its share of the images, relative to the weights of the other sets", ge=1, le=1000
    )


class DataOptions(Options):
    """Where the images are and how they are read."""

    shards: Places | None = option(
        None,
        "required, or mix: made by `wgan shards make` or `index`: a directory or URL (https, s3, gs, hf); a pattern of "
        "tar files, such as s3://bucket/train-{0000..1281}.tar, or a list of them, which are indexed first",
    )
    mix: list[MixOptions] | None = option(
        None,
        "several sets instead of shards, as [{shards: A, weight: 3}, {shards: B, weight: 1}]: three of four "
        "images are of A; each set has epochs of its own",
        min_length=1,
        max_length=64,
    )
    balance: Literal["classes"] | None = option(
        None,
        "classes: each class has the same share of the images, and epochs of its own; images without a label are "
        "not used",
    )
    resolution: Sides | None = option(
        None, "side, or [height, width], to which images are resized; null: as the shards hold them"
    )
    fit: Fit = option(
        "crop",
        "images of another aspect ratio: crop at the centre, fit (stretch), pad, or random_crop (drawn in each epoch)",
    )
    channels: Literal[1, 3, 4] | None = option(
        None, "1: grey, 3: colour, 4: colour with alpha; null: as the shards hold them"
    )
    cache: Literal["auto", "device", "host", "none"] = option(
        "auto",
        "where decoded images are kept: in device memory, in host memory (once per machine), or none (decode "
        "each batch); auto takes the first that fits",
    )
    workers: int | None = option(
        None,
        "decoding threads of each rank, for cache: none; 0: decode in the training loop; null: the rank's "
        "share of the cores, less one, and fewer for small images",
        ge=0,
        le=64,
    )
    shuffle_shards: Count = option(64, "randomly chosen shards whose samples are shuffled together")
    streams: int = option(
        1,
        "equal parts of the data; each batch takes the same number of samples from every part, so if the "
        "number of ranks divides it, each rank reads only its own parts",
        ge=1,
        le=65536,
    )
    classes: list[ClassName] | None = option(None, "classes to train on; null: all images", min_length=1)
    validation: float = option(0.0, "share of samples held out for validation", ge=0.0, le=0.5)
    flip: bool = option(False, "mirror images left to right with probability 1/2, drawn again in each epoch")
    verify: Literal["sizes", "hashes"] = option(
        "sizes",
        "how local shards are checked before training: by their sizes, or also by the SHA-256 of every file; in "
        "any case, an index is compared with its hash when it is first used, and an image with its checksum",
    )
    remote: RemoteOptions = RemoteOptions()

    @property
    def sources(self) -> list[MixOptions]:
        """The sets that a run draws images from, and their weights."""
        if self.mix is not None:
            return self.mix
        return [] if self.shards is None else [MixOptions(shards=self.shards)]

    @property
    def place(self) -> str:
        """Where the images are, in messages."""
        return " and ".join(shown_places(source.shards) for source in self.sources)

    @property
    def has_pattern(self) -> bool:
        """Whether tar files are named that have to be indexed."""
        return any(is_pattern(source.shards) for source in self.sources)

    def at(self, places: Sequence[str]) -> Self:
        """The same options for sets that are at these places."""
        if self.mix is None:
            return self.model_copy(update={"shards": places[0]})
        moved = [source.model_copy(update={"shards": p}) for source, p in zip(self.mix, places, strict=True)]
        return self.model_copy(update={"mix": moved})
