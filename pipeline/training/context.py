"""One run on one rank, in one object that all parts of training take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipeline.config import flatten
from pipeline.data.format.shard_set import ShardSet
from pipeline.noise import RankRows
from pipeline.option_plugins import versions
from pipeline.options import Config
from pipeline.ranks.runtime import Runtime
from pipeline.run.directory import RunDirectory

FREE = (
    "name",
    "run_root",
    "precision",
    "data.shards",
    "data.cache",
    "data.workers",
    "data.verify",
    "data.remote",
    "schedule.steps",
    "monitor",
    "quality",
    "checkpoint",
    "runtime",
    "profile",
    "init_from.generator",
    "init_from.critic",
)
"""Options that a resumed run may change. `precision` is compared as the device resolved it.

`schedule.micro_batch` may change too, unless batch norm takes statistics of each micro-batch, or spectral norm
takes a power iteration in each forward pass.
"""


def print_line(text: str) -> None:
    """Print on standard output at once, also if that is a file."""
    print(text, flush=True)


@dataclass(frozen=True)
class RunContext:
    """A run on this rank: its options, its data, where it writes, and its place among the ranks.

    `output` receives what the main rank tells the user, a line or several at a time.
    """

    config: Config
    shards: ShardSet
    directory: RunDirectory
    runtime: Runtime
    output: Callable[[str], None] = print_line

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that must be equal for a checkpoint to be resumed, by dotted name, as plain JSON values."""
        model, manifest = self.config.model, self.shards.manifest
        counts_passes = "batch" in (model.generator_norm, model.critic_norm) or model.spectral_norm
        free = FREE if counts_passes else (*FREE, "schedule.micro_batch")
        options = {
            path: value
            for path, value in flatten(self.config.model_dump(mode="json")).items()
            if not any(path == name or path.startswith(name + ".") for name in free)
        }
        return {
            **options,
            "precision": self.runtime.precision,
            "images": [manifest.channels, *manifest.resolution],
            "data.manifest": manifest.sha256,
            **versions(self.config),
        }

    @cached_property
    def rows(self) -> RankRows:
        """This rank's rows of the generator's global batch."""
        return self._rows(self.config.schedule.global_batch)

    @cached_property
    def critic_rows(self) -> RankRows:
        """This rank's rows of the critic's global batch."""
        return self._rows(self.config.schedule.real_images)

    def _rows(self, batch: int) -> RankRows:
        return RankRows.of_rank(self.runtime.rank, self.runtime.world_size, batch)

    def say(self, text: str) -> None:
        """Tell the user, on the main rank; the other ranks stay silent."""
        if self.runtime.is_main:
            self.output(text)
