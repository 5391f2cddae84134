"""What a finished shard directory will hold, decided before the first image is read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.data.making.convert import Conversion
from pipeline.data.making.selection import Chosen, Selection, choose
from pipeline.data.sources import Source
from pipeline.errors import ConfigError

MAX_SHARDS = 1_000_000


@dataclass(frozen=True)
class Plan:
    """Which images go into which shard, and what becomes of them. `facts` are equal for equal shards."""

    source: Source = field(repr=False, compare=False)
    conversion: Conversion
    samples_per_shard: int
    chosen: Chosen = field(repr=False, compare=False)
    facts: dict[str, Any] = field(hash=False)
    """Everything that decides the shards' bytes, as plain values that JSON keeps."""

    @property
    def count(self) -> int:
        """How many images there are."""
        return len(self.chosen.positions)

    @property
    def shards(self) -> int:
        """How many shards there are; the last one may be smaller."""
        return -(-self.count // self.samples_per_shard)

    def places(self, shard: int) -> range:
        """The places of a shard's images in `chosen`; they also number the samples' keys."""
        first = shard * self.samples_per_shard
        return range(first, min(first + self.samples_per_shard, self.count))


@dataclass(frozen=True)
class Part:
    """One of `count` equal parts of a plan, from 1 on: what one of several machines makes."""

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ConfigError(f"There is no part {self.number}/{self.count}: parts go from 1/N to N/N.")

    @property
    def is_whole(self) -> bool:
        """Whether it is the only part."""
        return self.count == 1

    def shards(self, plan: Plan) -> range:
        """The numbers of its shards."""
        return range(self.number - 1, plan.shards, self.count)


ALL = Selection()
WHOLE = Part()


def plan_shards(
    source: Source, conversion: Conversion, selection: Selection = ALL, samples_per_shard: int = 4096
) -> Plan:
    """Divide what is selected of the source into shards.

    Raises ConfigError for values out of range, DataError where the source leaves nothing to write.
    """
    if samples_per_shard < 1:
        raise ConfigError(f"A shard holds at least 1 sample, not {samples_per_shard}.")
    chosen = choose(source, selection)
    count = len(chosen.positions)
    facts = _facts(source, chosen, conversion, samples_per_shard)
    plan = Plan(source, conversion, samples_per_shard, chosen, facts)
    if plan.shards > MAX_SHARDS:
        raise ConfigError(
            f"{count} images at {samples_per_shard} a shard make {plan.shards} shards, over {MAX_SHARDS:,}. "
            "Put more samples into each."
        )
    return plan


def _facts(source: Source, chosen: Chosen, conversion: Conversion, samples_per_shard: int) -> dict[str, Any]:
    height, width = conversion.resolution
    return {
        "source": source.name,
        "images": len(chosen.positions),
        "listing": _listing(source, chosen),
        "classes": list(chosen.classes),
        "height": height,
        "width": width,
        "channels": conversion.channels,
        "fit": conversion.fit,
        "encoding": conversion.encoding,
        "quality": conversion.quality if conversion.encoding == "jpeg" else None,
        "samples_per_shard": samples_per_shard,
        "shards": -(-len(chosen.positions) // samples_per_shard),
    }


def _listing(source: Source, chosen: Chosen) -> str:
    """A digest of which images there are: another listing under an old name is another set."""
    digest = hashlib.sha256(np.ascontiguousarray(chosen.labels).tobytes())
    for position in chosen.positions.tolist():
        digest.update(source.key(position).encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()[:32]
