"""Saves a training state to a checkpoint, and restores it on all ranks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from pipeline.monitor.recorder import Recorder
from pipeline.quality.best import Best
from pipeline.run.checkpoint import (
    Checkpoint,
    check_same_tensors,
    list_checkpoints,
    newest_usable,
    save_checkpoint,
    set_aside,
)
from pipeline.stderr import say_warning
from pipeline.training.context import RunContext
from pipeline.training.state import Counters, TrainingState


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
    checkpoint = newest_usable(directory)
    for found in list_checkpoints(directory):
        if checkpoint is not None and found.step > checkpoint.step:
            say_warning(
                f"{found.path} was renamed to {set_aside(found).name}: it is kept, and not used again"
            )
    return checkpoint


def save_run(run: RunContext, state: TrainingState, recorder: Recorder, best: Best) -> None:
    """Write a checkpoint on the main rank. All ranks call it together. Raises StorageError on the main rank."""
    window, window_facts = recorder.window.save(run.runtime.gather)
    if run.runtime.is_main:
        facts = {
            "identity": run.identity,
            "counters": asdict(state.counters),
            "scaler": run.runtime.scaler_state(),
            "window": window_facts,
            "recorder": recorder.facts(),
            "best": best.facts(),
        }
        groups = {**state.named_tensors(), "window": window}
        save_checkpoint(run.directory.checkpoints, state.counters.step, groups, facts)


def restore_run(
    checkpoint: Checkpoint, run: RunContext, state: TrainingState, recorder: Recorder, best: Best
) -> None:
    """Restore everything that `save_run` saved. Raises CheckpointError if the tensors do not fit this run."""
    facts, runtime = checkpoint.facts(), run.runtime
    expected = state.named_tensors()
    groups = {name: checkpoint.tensors(name) for name in expected}
    check_same_tensors(expected, groups, checkpoint.path)
    state.load_tensors(groups)
    state.counters = Counters(**facts["counters"])
    runtime.restore_scaler(facts["scaler"])
    window = checkpoint.tensors("window")
    recorder.window.restore(window, facts["window"], runtime.rank, runtime.world_size, runtime.device)
    recorder.restore(facts["recorder"])
    best.restore(facts.get("best"))  # checkpoints of earlier versions have none
