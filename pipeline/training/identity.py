"""What must be equal for a checkpoint to be resumed. Imports no torch, so that `wgan train` can compare it early."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.config import flatten
from pipeline.data.format.shard_set import ShardSet
from pipeline.data.reading.class_labels import classes_of_run
from pipeline.errors import CheckpointError, ConfigError
from pipeline.foreign_text import printable
from pipeline.option_fields import default_values
from pipeline.option_plugins import versions
from pipeline.options import Config
from pipeline.run.checkpoint import Checkpoint
from pipeline.wording import counted

FREE = (
    "name",
    "run_root",
    "precision",
    "data.shards",
    "data.mix",
    "data.resolution",
    "data.channels",
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
    "init_from.strict",
)
"""Options that a resumed run may change. `precision` is compared as the device resolved it, and `data.mix` by what its
sets hold.

The shape that `data.resolution` and `data.channels` give the images is compared, however it comes about.
`schedule.micro_batch` may change too, unless batch norm takes statistics of each micro-batch, or spectral norm
takes a power iteration in each forward pass.
"""
OF_CLASSES = ("model.conditional", "model.labels")
"""Options that are part of the identity of runs with classes only."""

OTHER_IMAGES = (
    "data.manifest identifies the images: data.shards or data.mix names others, or their set was changed."
)


def identity_of(config: Config, shards: ShardSet, precision: str) -> dict[str, Any]:
    """The identity of a run, by dotted name, as JSON values. `precision` is what the device computes in."""
    model = config.model
    counts_passes = "batch" in (model.generator_norm, model.critic_norm) or model.spectral_norm
    free = FREE if counts_passes else (*FREE, "schedule.micro_batch")
    options = {
        path: value
        for path, value in flatten(config.model_dump(mode="json")).items()
        if not any(path == name or path.startswith(name + ".") for name in free)
    }
    classes = classes_of_run(config, shards.manifest)
    if classes:
        options["classes"] = list(classes)
    else:
        # Networks of plug-ins that were written before there were labels have the identity that they had.
        options = {path: value for path, value in options.items() if path not in OF_CLASSES}
    return {
        **options,
        "precision": precision,
        "images": list(shards.image_shape),
        "data.manifest": shards.manifest.sha256,
        "data.mix": _mix(config, shards),
        **versions(config),
    }


def _mix(config: Config, shards: ShardSet) -> list[dict[str, Any]] | None:
    """What the sets of a mixture hold, wherever they are, and their weights; None for one set."""
    if len(shards.sources) == 1:
        return None
    pairs = zip(shards.sources, config.data.sources, strict=True)
    return [{"manifest": part.manifest.sha256[:16], "weight": source.weight} for part, source in pairs]


def check_steps(checkpoint: Checkpoint, steps: int) -> None:
    """Raise ConfigError if a run is to have fewer steps than it already has: it would be noted as done."""
    if steps < checkpoint.step:
        raise ConfigError(
            f"schedule.steps: {steps} is less than the {counted(checkpoint.step, 'step')} that "
            f"{checkpoint.path.parent.parent} already has, and a run cannot be made shorter. Give {checkpoint.step} or "
            "more, or another name for a new run."
        )


def check_identity(checkpoint: Checkpoint, ours: Mapping[str, Any]) -> None:
    """Raise CheckpointError, listing what differs, unless the checkpoint was made by a run of this identity."""
    saved = checkpoint.facts().identity.values()
    # What came after the checkpoint's version of this code was as its default is.
    saved = {**default_values(saved, ours.keys() - saved.keys()), **saved}
    differences = [
        f"{printable(name)}: {printable(str(saved.get(name, 'absent')))} in the checkpoint, "
        f"{ours.get(name, 'absent')} now"
        for name in sorted(saved.keys() | ours.keys())
        if saved.get(name, "absent") != ours.get(name, "absent")
    ]
    if differences:
        raise CheckpointError(
            f"{checkpoint.path} was saved by a run with other options, so it cannot be resumed with these:",
            *(f"  {line}" for line in differences),
            *([OTHER_IMAGES] if any(line.startswith("data.manifest:") for line in differences) else []),
            "Set these options back, or choose another name for the new run.",
        )
