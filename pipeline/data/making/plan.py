"""What a shard directory will hold, planned before the first image is read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.data.making.convert import Conversion
from pipeline.data.making.selection import Chosen, Selection, choose
from pipeline.data.sources import Source
from pipeline.errors import ConfigError
from pipeline.foreign_text import storable
from pipeline.wording import counted

MAX_SHARDS = 100_000


@dataclass(frozen=True)
class Plan:
    """Which images go into which shard, and how they are converted.

    Plans with the same `facts` make the same shards.
    """

    source: Source = field(repr=False, compare=False)
    conversion: Conversion
    samples_per_shard: int
    chosen: Chosen = field(repr=False, compare=False)
    facts: dict[str, Any] = field(hash=False)
    """Everything that determines the bytes of the shards, as plain JSON values."""

    @property
    def count(self) -> int:
        """The number of images."""
        return len(self.chosen.positions)

    @property
    def shards(self) -> int:
        """The number of shards; the last one may be smaller."""
        return -(-self.count // self.samples_per_shard)

    def places(self, shard: int) -> range:
        """The indexes into `chosen` of a shard's images; they are also the samples' keys."""
        first = shard * self.samples_per_shard
        return range(first, min(first + self.samples_per_shard, self.count))


@dataclass(frozen=True)
class Part:
    """Part `number`, from 1, of `count` equal parts of a plan: the share of one of several machines.

    Raises ConfigError unless 1 <= number <= count.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ConfigError(
                f"--part {self.number}/{self.count} does not exist: parts are numbered from 1/N to N/N."
            )

    @property
    def is_whole(self) -> bool:
        """Whether this part is the whole plan."""
        return self.count == 1

    def shards(self, plan: Plan) -> range:
        """The numbers of the shards in this part."""
        return range(self.number - 1, plan.shards, self.count)


ALL = Selection()
WHOLE = Part()


def plan_shards(
    source: Source,
    conversion: Conversion,
    selection: Selection = ALL,
    samples_per_shard: int = 4096,
    drops_duplicates: bool = False,
) -> Plan:
    """Plan how the selected images of a source are divided into shards.

    With `drops_duplicates`, only the first of equal images stays in the finished set. Raises ConfigError for values out
    of range, and DataError if no image is left to write.
    """
    if samples_per_shard < 1:
        raise ConfigError(
            f"--samples-per-shard {samples_per_shard} leaves shards without images. Give 1 or more."
        )
    chosen = choose(source, selection)
    count = len(chosen.positions)
    facts = _facts(source, chosen, conversion, samples_per_shard)
    if drops_duplicates:
        facts["drop_duplicates"] = True
    plan = Plan(source, conversion, samples_per_shard, chosen, facts)
    if plan.shards > MAX_SHARDS:
        raise ConfigError(
            f"{counted(count, 'image')} with --samples-per-shard {samples_per_shard} would make {plan.shards:,} "
            f"shards, and at most {MAX_SHARDS:,} are possible. Raise --samples-per-shard."
        )
    return plan


def _facts(source: Source, chosen: Chosen, conversion: Conversion, samples_per_shard: int) -> dict[str, Any]:
    height, width = conversion.resolution
    facts = {
        "source": storable(source.name),
        "images": len(chosen.positions),
        "listing": _listing(source, chosen),
        "classes": list(map(storable, chosen.classes)),
        "height": height,
        "width": width,
        "channels": conversion.channels,
        "fit": conversion.fit,
        "encoding": conversion.encoding,
        "quality": conversion.quality if conversion.encoding == "jpeg" else None,
        "samples_per_shard": samples_per_shard,
        "shards": -(-len(chosen.positions) // samples_per_shard),
    }
    # Later options are facts only if they are used: finished sets of earlier versions stay complete.
    if conversion.background is not None:
        facts["background"] = list(conversion.background)
    return facts


def _listing(source: Source, chosen: Chosen) -> str:
    """A hash of the keys and labels: if the images of a source change, its shards become another set."""
    digest = hashlib.sha256(np.ascontiguousarray(chosen.labels).tobytes())
    for position in chosen.positions.tolist():
        digest.update(source.key(position).encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()[:32]
