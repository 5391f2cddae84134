"""Descriptions of a run's set-up, environment and end, for the console and for its records."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import version

from pipeline.foreign_text import printable
from pipeline.options import Config
from pipeline.quality.best import Best
from pipeline.ranks.runtime import Runtime
from pipeline.run.checkpoint import Checkpoint
from pipeline.run.directory import RunDirectory
from pipeline.training.context import RunContext
from pipeline.training.state import TrainingState
from pipeline.versions import PACKAGES, find_revision
from pipeline.wording import counted

FEW_IMAGES = 32
"""Of a batch for one GPU."""
MOST_CLASSES = 12
"""Whose names are listed."""


def describe_setup(run: RunContext, state: TrainingState, checkpoint: Checkpoint | None) -> list[str]:
    """What a run is about to do, in four lines, and more if it has classes or gives GPUs little to do."""
    setup, config, path = run.runtime.describe(), run.config, run.directory.path
    start = f"resumes from {checkpoint.path}" if checkpoint else "a new run"
    generator, critic = (
        sum(p.numel() for p in player.module.parameters()) for player in (state.generator, state.critic)
    )
    precision, backend = setup["precision"], setup["backend"]
    if run.runtime.exchange.sockets is not None:
        backend += " and Unix sockets"
    if precision != "float32" and setup["precision_chosen_by"] == "launcher":
        precision += " (the launcher's choice, because the config has no precision)"
    threads = f"{counted(setup['threads'], 'thread')} each"
    if config.runtime.threads == "adapt":
        threads = f"up to {threads} (fewer beside busy processes, which changes how sums are rounded)"
    return [
        f"{path}: {start}, up to step {config.schedule.steps}",
        f"{setup['world_size']} x {setup['device_name']} ({backend}), {precision}, "
        f"{threads}, batch {config.schedule.global_batch} = {setup['world_size']} x "
        f"{run.rows.count}",
        f"{config.model.name}: generator {generator:,} and critic {critic:,} parameters; "
        f"{config.objective.name}, {counted(config.schedule.critic_updates, 'critic update')} per step",
        *describe_classes(run.classes),
        *describe_small_share(run.runtime.device.type, run.rows.count, setup["world_size"]),
        f"watch: tensorboard --samples_per_plugin images=200 --logdir {path}",
    ]


def describe_classes(names: Sequence[str]) -> list[str]:
    """A line with the classes that the networks know, if there are any."""
    if not names:
        return []
    more = ", ..." if len(names) > MOST_CLASSES else ""
    listed = ", ".join(printable(name) for name in names[:MOST_CLASSES])
    return [f"the networks know {counted(len(names), 'class')}: {listed}{more}"]


def describe_small_share(device: str, images: int, ranks: int) -> list[str]:
    """A line if each rank's GPU gets few images of a batch, and what would give it more."""
    if device != "cuda" or images >= FEW_IMAGES:
        return []
    remedy = "Fewer ranks or a larger" if ranks > 1 else "A larger"
    return [
        f"each GPU gets {counted(images, 'image')} of a batch, and has little to do with fewer than {FEW_IMAGES}. "
        f"{remedy} schedule.global_batch would give it more."
    ]


def describe_images(config: Config, used: int, count: int, held_out: int) -> str:
    """How many of the set's `count` images one epoch of training has, and which options leave the others out."""
    if used == count:
        return f"trains on {counted(count, 'image')}"
    chosen = {"data.classes": config.data.classes is not None, "data.validation": held_out > 0}
    options = " and ".join(name for name, is_set in chosen.items() if is_set)
    return f"trains on {used:,} of {counted(count, 'image')}; {options} left the others out"


def describe_results(directory: RunDirectory) -> list[str]:
    """Where the samples and curves of a finished run are, and the commands for what it has not drawn."""
    path = directory.path
    drawn = [str(file) for file in (directory.curves, directory.animation) if file.is_file()]
    lines = {
        "samples": str(directory.samples) if any(directory.samples.iterdir()) else f"wgan sample {path}",
        "curves": ", ".join(drawn) or f"wgan plot {path}",
        "report": f"wgan report {path}",
    }
    return [f"{name + ':':9}{text}" for name, text in lines.items()]


def describe_ending(step: int, best: Best) -> str:
    """How a run has ended at this step, as the end of a sentence."""
    if not best.is_exhausted:
        return "the only step is done" if step == 1 else f"all {step} steps are done"
    return (
        f"ended early at step {step}: {best.metric} has been no better than {best.value:.4g} for "
        f"{counted(best.evaluations_since, 'evaluation')}, since step {best.step}"
    )


def describe_environment(runtime: Runtime) -> str:
    """Versions, set-up and git revision as JSON. It contains no environment variables, which may hold secrets."""
    content = {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "setup": runtime.describe(),
        "revision": find_revision(),
    }
    return json.dumps(content, indent=1) + "\n"


def describe_less_memory(config: Config) -> str:
    """What makes a run that ran out of memory need less of it."""
    return (
        f"Set schedule.micro_batch below {config.schedule.global_batch} divided by the number of ranks, lower "
        "model.width, or use precision: bf16 and data.cache: host."
    )
