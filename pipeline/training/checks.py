"""All checks before training, in one place: a run that cannot work stops here, before any long work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.config import flatten
from pipeline.errors import ConfigError
from pipeline.options import Config
from pipeline.quality.best import Best
from pipeline.ranks.runtime import Runtime
from pipeline.run.checkpoint import Checkpoint
from pipeline.training.context import RunContext
from pipeline.training.describe import describe_ending
from pipeline.training.graphed_step import captures_steps
from pipeline.training.identity import check_identity, check_steps
from pipeline.training.profile_window import choose_window
from pipeline.training.resume import find_checkpoint
from pipeline.training.schedule import check_batches

OF_EACH_MACHINE = (
    "data.shards",
    "data.remote.directory",
    "run_root",
    "init_from.generator",
    "init_from.critic",
    "quality.classifier",
    "quality.inception",
)
"""Paths, which may differ between machines. An evaluation itself compares what is in the last two."""


@dataclass(frozen=True)
class Start:
    """Where a run starts to train, and what was decided before it does."""

    checkpoint: Checkpoint | None
    """The one to resume from; None for a new run"""
    ending: str | None = None
    """How the run has ended, if nothing is left to do"""
    profile_window: range | None = None
    """The steps that the profiler looks at, counted from 0, if it is asked for"""

    is_unwatched: bool = False
    """Whether the checkpoint's step is yet to be recorded"""

    @property
    def first_step(self) -> int:
        """The next step to be done, counted from 1."""
        return self.checkpoint.step + 1 if self.checkpoint else 1

    @property
    def first_recorded(self) -> int:
        """The next step to be recorded."""
        return self.first_step - self.is_unwatched


def check_run(run: RunContext) -> Start:
    """Make every check, and find where the run starts. All ranks call it together.

    Raises ConfigError, DataError or CheckpointError, on all ranks alike.
    """
    check_batches(run.config.schedule, run.runtime.world_size)
    captures_steps(run.config, run.runtime)
    check_same_on_all_ranks(run.config, run.identity, run.runtime)
    check_data(run)
    checkpoint = find_checkpoint(run)
    if checkpoint is not None:
        check_identity(checkpoint, run.identity)
        check_steps(checkpoint, run.config.schedule.steps)
        is_unwatched = checkpoint.resumable_facts().unwatched is not None
        if (ending := _find_ending(checkpoint, run, is_unwatched)) is not None:
            return Start(checkpoint, ending)
        start = Start(checkpoint, is_unwatched=is_unwatched)
    else:
        start = Start(None)
    if not run.config.profile:
        return start
    return replace(start, profile_window=choose_window(start.first_step, run.config.schedule))


def check_same_on_all_ranks(config: Config, identity: Mapping[str, Any], runtime: Runtime) -> None:
    """Raise ConfigError unless all ranks were started for the same run on the same data.

    Each machine reads its own config, and DDP would make equal weights of unequal runs.
    """
    options = {**flatten(config.model_dump(mode="json")), **identity}
    everyones = runtime.gather_json({k: v for k, v in options.items() if k not in OF_EACH_MACHINE})
    ours = everyones[runtime.rank]
    for rank, theirs in enumerate(everyones):
        differences = [
            f"{name} is {theirs.get(name)} on rank {rank} and {value} on rank {runtime.rank}"
            for name, value in ours.items()
            if theirs.get(name) != value
        ]
        if differences:
            raise ConfigError(
                f"Rank {rank} has different options from rank {runtime.rank}: {'; '.join(differences)}. All ranks "
                "train one run: start them with the same config, arguments and shards."
            )


def check_data(run: RunContext) -> None:
    """Raise DataError unless every local shard has its size, and if data.verify says so its hash.

    The ranks of a machine share the work. Shards at a URL are checked when they are fetched.
    """
    runtime = run.runtime
    share = slice(runtime.local_rank, None, runtime.local_world_size)
    with runtime.agreement():
        run.shards.check_sizes(share)
        if run.config.data.verify == "hashes":
            run.shards.check_hashes(share, show_progress=runtime.is_main)


def _find_ending(checkpoint: Checkpoint, run: RunContext, is_unwatched: bool) -> str | None:
    """How the run has ended, if nothing is left to do after this checkpoint. Tells the user so."""
    best = Best.of(run.config.quality, run.config.data.flip)
    saved = checkpoint.facts().best  # checkpoints of earlier versions have none
    former = saved.model_dump() if saved else None
    if former is not None and not best.restore(former):
        search = "; the search for the best one starts again" if best.metric else ""
        run.say(
            f"quality is no longer measured as before ({best.changes(former)}), so figures do not compare: the "
            f"checkpoint of step {best.former[-1]}, the best one until now, is kept{search}"
        )
    if is_unwatched or (checkpoint.step < run.config.schedule.steps and not best.is_exhausted):
        return None
    ending = describe_ending(checkpoint.step, best)
    limit = "quality.patience" if best.is_exhausted else "schedule.steps"
    run.say(f"{run.directory.path} is complete: {ending}. To train longer, raise {limit}.")
    return ending
