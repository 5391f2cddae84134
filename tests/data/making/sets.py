"""How tests make a set of shards, and what is in its directory."""

from __future__ import annotations

from pathlib import Path

from pipeline.data.making.convert import Conversion
from pipeline.data.making.plan import plan_shards
from pipeline.data.making.writer import make_shards
from pipeline.data.sources import Source


def make(source: Source, out: Path, overwrite: bool = False, **options: object) -> list[str]:
    """Make shards of 8 x 8 colour images, by default 4 per shard; return the names of all files."""
    settings: dict[str, object] = {"resolution": (8, 8), "channels": 3, **options}
    per_shard = settings.pop("samples_per_shard", 4)
    plan = plan_shards(source, Conversion(**settings), samples_per_shard=per_shard)  # type: ignore[arg-type]
    make_shards(plan, out, overwrite=overwrite)
    return names(out)


def names(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir())


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}
