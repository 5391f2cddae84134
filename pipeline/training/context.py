"""One run on one rank, in one object that all parts of training take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipeline.data.format.shard_set import ShardSet
from pipeline.data.reading.class_labels import classes_of_run
from pipeline.noise import RankRows
from pipeline.options import Config
from pipeline.ranks.runtime import Runtime
from pipeline.run.directory import RunDirectory
from pipeline.stderr import say_warning
from pipeline.stdout import say_if_read
from pipeline.training.identity import identity_of


@dataclass(frozen=True)
class RunContext:
    """A run on this rank: its options, its data, where it writes, and its place among the ranks.

    `output` receives what the main rank tells the user, a line or several at a time. Whoever reads it may leave (`wgan
    train digits | head`), and that must not stop a run.
    """

    config: Config
    shards: ShardSet
    directory: RunDirectory
    runtime: Runtime
    output: Callable[..., None] = say_if_read

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What must be equal for a checkpoint to be resumed, by dotted name, as JSON values."""
        return identity_of(self.config, self.shards, self.runtime.precision)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes that the networks know, in the order of their labels; none without labels."""
        return classes_of_run(self.config, self.shards.manifest)

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

    def say(self, *lines: str) -> None:
        """Tell the user, on the main rank; the other ranks stay silent."""
        if self.runtime.is_main:
            self.output(*lines)

    def warn(self, text: str) -> None:
        """Warn the user, on the main rank."""
        if self.runtime.is_main:
            say_warning(text)
