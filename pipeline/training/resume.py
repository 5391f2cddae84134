"""A training state to a checkpoint and back, the same on all ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.config import flatten
from pipeline.data.format.manifest import Manifest
from pipeline.errors import CheckpointError
from pipeline.monitor.console import say_warning
from pipeline.monitor.recorder import Recorder
from pipeline.options import Config
from pipeline.quality.best import Best
from pipeline.ranks.runtime import Runtime
from pipeline.run.checkpoint import (
    Checkpoint,
    check_same_tensors,
    list_checkpoints,
    newest_valid,
    save_checkpoint,
    set_aside,
)
from pipeline.training.state import Counters, TrainingState

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
"""Options that a resumed run may change. `precision` is compared as it was resolved.

`schedule.micro_batch` is free too, unless batch norm makes each part's statistics its own, or spectral norm
counts the passes.
"""


def identity(config: Config, manifest: Manifest, precision: str) -> dict[str, Any]:
    """Everything that must be equal for a checkpoint to be continued, as flat plain values."""
    model = config.model
    # The power iteration of spectral norm takes a step with each pass.
    counts_passes = "batch" in (model.generator_norm, model.critic_norm) or model.spectral_norm
    free = FREE if counts_passes else (*FREE, "schedule.micro_batch")
    options = {
        path: value
        for path, value in flatten(config.model_dump(mode="json")).items()
        if not any(path == name or path.startswith(name + ".") for name in free)
    }
    height, width = manifest.resolution
    images = [manifest.channels, height, width]
    return {**options, "precision": precision, "images": images, "data.manifest": manifest.sha256}


def find_checkpoint(directory: Path, runtime: Runtime) -> Checkpoint | None:
    """The newest valid checkpoint, agreed by all ranks; damaged newer ones are set aside and named.

    None where there is no checkpoint yet. Raises CheckpointError where there are some, but none is usable.
    """
    checkpoint = None
    with runtime.agreement():
        if runtime.is_main:
            checkpoint = _find_checkpoint(directory)
    step = runtime.gather_objects(checkpoint.step if checkpoint else None)[0]
    return None if step is None else Checkpoint(directory / f"step_{step:08d}", step)


def _find_checkpoint(directory: Path) -> Checkpoint | None:
    checkpoint, defects = newest_valid(directory)
    if checkpoint is None and defects:
        raise CheckpointError(
            f"No checkpoint in {directory} is usable:\n  "
            + "\n  ".join(defects)
            + "\nNothing was changed. Bring one back from a copy, or give a new run another name."
        )
    for damaged, defect in zip(reversed(list_checkpoints(directory)), defects, strict=False):
        say_warning(f"{defect}; kept as {set_aside(damaged).name}, an earlier one is used")
    return checkpoint


def save_run(
    directory: Path,
    state: TrainingState,
    recorder: Recorder,
    best: Best,
    runtime: Runtime,
    who: Mapping[str, Any],
) -> None:
    """Write a checkpoint on the main rank. All ranks call it together. Raises StorageError on the main rank."""
    window, window_facts = recorder.window.save(runtime.gather)
    if runtime.is_main:
        facts = {
            "identity": dict(who),
            "counters": asdict(state.counters),
            "scaler": runtime.scaler_state(),
            "window": window_facts,
            "recorder": recorder.facts(),
            "best": best.facts(),
        }
        groups = {**state.named_tensors(), "window": window}
        save_checkpoint(directory, state.counters.step, groups, facts)


def restore_run(checkpoint: Checkpoint, state: TrainingState, recorder: Recorder, runtime: Runtime) -> None:
    """Take everything from a checkpoint. Raises CheckpointError where its tensors are not this run's."""
    facts = checkpoint.facts()
    expected = state.named_tensors()
    groups = {name: checkpoint.tensors(name) for name in expected}
    check_same_tensors(expected, groups, checkpoint.path)
    state.load_tensors(groups)
    state.counters = Counters(**facts["counters"])
    runtime.restore_scaler(facts["scaler"])
    window = checkpoint.tensors("window")
    recorder.window.restore(window, facts["window"], runtime.rank, runtime.world_size, runtime.device)
    recorder.restore(facts["recorder"])


def check_identity(checkpoint: Checkpoint, ours: Mapping[str, Any]) -> None:
    """Raise CheckpointError, listing what differs, unless the checkpoint was made by the same options."""
    saved = checkpoint.facts()["identity"]
    differences = [
        f"{name}: {saved.get(name, 'absent')} in the checkpoint, {ours.get(name, 'absent')} now"
        for name in sorted(saved.keys() | ours.keys())
        if saved.get(name, "absent") != ours.get(name, "absent")
    ]
    if differences:
        raise CheckpointError(
            f"{checkpoint.path} was made with other options, so continuing it would be neither run:\n  "
            + "\n  ".join(differences)
            + "\nSet these options back, or give the new run another name."
        )
