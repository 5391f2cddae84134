"""Saves a training state to a checkpoint, and restores it on all ranks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.monitor.recorder import Recorder
from pipeline.options import ScheduleOptions
from pipeline.quality.best import Best
from pipeline.run.checkpoint import (
    Checkpoint,
    check_same_tensors,
    list_checkpoints,
    newest_usable,
    restore_replaced,
    save_checkpoint,
    set_aside,
)
from pipeline.run.saved_state import SavedCounters, WindowFacts
from pipeline.run.tensor_files import Tensors
from pipeline.stderr import say_warning
from pipeline.training.context import RunContext
from pipeline.training.state import Counters, TrainingState
from pipeline.training.updates import CriticBatch


def find_checkpoint(run: RunContext) -> Checkpoint | None:
    """The newest valid checkpoint, the same on all ranks; damaged newer ones are renamed, with a warning.

    None if there is no checkpoint yet. Raises CheckpointError if there are some, but none can be used.
    """
    directory, runtime = run.directory.checkpoints, run.runtime
    checkpoint = None
    with runtime.agreement():
        if runtime.is_main:
            checkpoint = _find_checkpoint(directory)
    step = runtime.gather_json(checkpoint.step if checkpoint else None)[0]
    return None if step is None else Checkpoint(directory / f"step_{step:08d}", step)


def _find_checkpoint(directory: Path) -> Checkpoint | None:
    restore_replaced(directory)
    checkpoint = newest_usable(directory)
    for found in list_checkpoints(directory):
        if checkpoint is not None and found.step > checkpoint.step:
            say_warning(
                f"{found.path} was renamed to {set_aside(found).name}: it is kept, and not used again"
            )
    return checkpoint


def save_run(
    run: RunContext,
    state: TrainingState,
    recorder: Recorder,
    best: Best,
    unwatched: CriticBatch | None = None,
) -> None:
    """Write a checkpoint on the main rank. All ranks call it together.

    `unwatched` are the images of the step's last critic update, if a signal came before the step was recorded. Raises
    StorageError or RunLockedError on the main rank.
    """
    window, window_facts = recorder.window.save(run.runtime.gather)
    seen = {} if unwatched is None else _tensors_of(unwatched)
    # Of all ranks, in their order: the global batch.
    batch = {name: run.runtime.gather(value).flatten(0, 1) for name, value in seen.items()}
    if run.runtime.is_main:
        run.directory.check_lock()
        facts = {
            "identity": run.identity,
            "counters": asdict(state.counters),
            "scaler": run.runtime.scaler_state(),
            "window": window_facts,
            "recorder": recorder.facts(),
            "best": best.facts(),
        }
        groups = {**state.named_tensors(), "window": window}
        if seen:
            facts["unwatched"] = {
                "channels_last": [name for name, value in seen.items() if _is_channels_last(value)]
            }
            groups["unwatched"] = batch
        save_checkpoint(run.directory.checkpoints, state.counters.step, groups, facts)


def restore_run(
    checkpoint: Checkpoint, run: RunContext, state: TrainingState, recorder: Recorder, best: Best
) -> None:
    """Restore everything that `save_run` saved. Raises CheckpointError if the tensors do not fit this run."""
    facts, runtime = checkpoint.resumable_facts(), run.runtime
    check_position(checkpoint, facts.counters, run.config.schedule)
    expected = state.named_tensors()
    groups = {name: checkpoint.tensors(name) for name in expected}
    check_same_tensors(expected, groups, checkpoint.path)
    state.load_tensors(groups)
    state.counters = Counters(facts.counters.step, facts.counters.position)
    runtime.restore_scaler(facts.scaler)
    window = checkpoint.tensors("window")
    check_window(checkpoint, window, facts.window)
    recorder.window.restore(
        window, facts.window.model_dump(), runtime.rank, runtime.world_size, runtime.device
    )
    # Without what earlier versions did not note.
    recorder.restore(facts.recorder.model_dump(exclude_none=True))
    best.restore(facts.best.model_dump() if facts.best else None)


def restore_unwatched(checkpoint: Checkpoint, run: RunContext) -> CriticBatch | None:
    """This rank's part of the images of a step that was not recorded yet; None if it was. Raises CheckpointError."""
    facts = checkpoint.resumable_facts().unwatched
    if facts is None:
        return None
    batch = checkpoint.tensors("unwatched")
    expected = set(CriticBatch._fields) - (set() if run.classes else {"labels"})
    if batch.keys() != expected or {len(v) for v in batch.values()} != {run.critic_rows.total}:
        raise CheckpointError(
            f"{checkpoint.path / 'unwatched.safetensors'} does not hold a batch of {run.critic_rows.total} images. Use "
            "another checkpoint."
        )
    parts = {name: run.critic_rows.of(value).to(run.runtime.device) for name, value in batch.items()}
    for name in facts.channels_last:
        parts[name] = parts[name].to(memory_format=torch.channels_last)
    return CriticBatch(**parts)


def _tensors_of(batch: CriticBatch) -> Tensors:
    return {name: value for name, value in batch._asdict().items() if value is not None}


def _is_channels_last(value: Tensor) -> bool:
    return (
        value.ndim == 4
        and value.is_contiguous(memory_format=torch.channels_last)
        and not value.is_contiguous()
    )


def check_position(checkpoint: Checkpoint, counters: SavedCounters, schedule: ScheduleOptions) -> None:
    """Raise CheckpointError unless a run with this schedule can be there after the checkpoint's step."""
    if counters.step != checkpoint.step or counters.position % schedule.real_images != 0:
        raise CheckpointError(
            f"{checkpoint.path} has step {counters.step} and position {counters.position} in state.json, which no run "
            f"with batches of {schedule.real_images} saves as step {checkpoint.step}. Use another checkpoint."
        )


def check_window(checkpoint: Checkpoint, tensors: Tensors, facts: WindowFacts) -> None:
    """Raise CheckpointError unless the sums of metrics have the shape that their names say."""
    sums = tensors.get("sums")
    if sums is None:
        is_right = facts.count == 0
    else:
        is_table = sums.is_floating_point() and sums.ndim == 2 and len(sums) > 0
        is_right = is_table and facts.count > 0 and sums.shape[1] == len(facts.names)
    if not is_right:
        raise CheckpointError(
            f"{checkpoint.path / 'window.safetensors'} does not hold the sums that state.json names. Use another "
            "checkpoint."
        )
