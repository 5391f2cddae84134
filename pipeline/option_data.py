"""The options of data: where images are and how they are read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.option_types import ClassName, Count, LaterPath, Options, PathOrUrl, Seconds, Text, option


class RemoteOptions(Options):
    """How shards are downloaded from a URL: whole, into a directory that several jobs of a machine can share."""

    directory: LaterPath = option("~/.cache/wgan-pipeline/shards", "directory for downloaded shards")
    capacity_gb: float = option(100.0, "limit in 10^9 bytes; least used shards are deleted", ge=1e-6, le=1e9)
    parallel: int = option(4, "downloads at a time, for each rank", ge=1, le=64)
    stall_seconds: Seconds = option(30.0, "reconnect after this long with almost no data")
    deadline_seconds: Seconds = option(600.0, "stop the run if a shard takes longer than this")
    redirect_hosts: list[Text] = option([], "other hosts, with subdomains, that a server may redirect to")


class DataOptions(Options):
    """Where the images are and how they are read."""

    shards: PathOrUrl = Field(
        description="made by `wgan shards make`: a directory or URL (https, s3, gs, hf)"
    )
    cache: Literal["auto", "device", "host", "none"] = option(
        "auto",
        "where decoded images are kept: in device memory, in host memory (once per machine), or none (decode "
        "each batch); auto takes the first that fits",
    )
    workers: int | None = option(
        None,
        "decoding threads of each rank, for cache: none; 0: decode in the training loop; null: the rank's "
        "share of the cores, less one",
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
    verify: Literal["hashes", "sizes"] = option("hashes", "how local shards are checked before training")
    remote: RemoteOptions = RemoteOptions()
