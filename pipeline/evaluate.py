"""`wgan evaluate`: how good the samples of a run's checkpoints are."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.build import build_evaluation, build_loader
from pipeline.checkpoint import Checkpoint, list_checkpoints
from pipeline.config import load_config
from pipeline.data.loader import scale
from pipeline.data.shard_set import ShardSet, open_shards
from pipeline.durable import storage_errors
from pipeline.errors import CheckpointError, ConfigError
from pipeline.generator_files import open_run, read_generator
from pipeline.latents import check_seed
from pipeline.monitor.grids import image_grid, save_png
from pipeline.noise import Slice
from pipeline.options import Config
from pipeline.quality.evaluation import Evaluation
from pipeline.run_directory import RunDirectory
from pipeline.runtime import Runtime

NEIGHBOUR_ROWS, NEIGHBOURS = 8, 7


def evaluate(arguments: argparse.Namespace) -> int:
    """Measure samples of the chosen checkpoints, print a table, and add a line for each to evaluations.jsonl."""
    run: Path = arguments.run
    check_seed(arguments.seed)
    config = load_options(run, arguments)
    checkpoints = choose_checkpoints(run, arguments.checkpoint)
    shards = open_shards(config.data)
    for checkpoint in checkpoints:
        check_shape(checkpoint, shards)
    runtime = Runtime(config)
    say = print if runtime.is_main else _say_nothing
    rows = Slice(0, config.schedule.real_images, config.schedule.real_images)
    loader, order = build_loader(config, shards, runtime, rows, _say_nothing)
    evaluation = build_evaluation(config, loader, order, runtime, arguments.seed, show_progress=True)
    say(describe(evaluation, config, arguments))
    for checkpoint in checkpoints:
        generator = read_generator(run, checkpoint.step, arguments.ema).to(runtime.device)
        figures = evaluation.measure(generator.draw)
        say(
            "  ".join(
                [f"step {checkpoint.step:>8,}", *(f"{name} {value:.4g}" for name, value in figures.items())]
            )
        )
        if runtime.is_main:
            record = {
                "step": checkpoint.step,
                "weights": "ema" if arguments.ema else "generator",
                **evaluation.counts,
                "seed": arguments.seed,
                "features": evaluation.features.name,
                "manifest": shards.manifest.sha256,
                "metrics": figures,
                "time": time.strftime("%FT%T%z"),
            }
            append_record(RunDirectory(run).evaluations, record)
        if arguments.neighbours:
            pairs = evaluation.nearest_training_images(generator.draw, NEIGHBOUR_ROWS, NEIGHBOURS)
            path = RunDirectory(run).samples / f"step_{checkpoint.step:08d}-neighbours.png"
            if runtime.is_main:
                with storage_errors(path):
                    save_png(image_grid(scale(pairs.flatten(0, 1)), 1 + NEIGHBOURS), path)
            say(f"each row a sample, and the training images nearest to it: {path}")
    say(f"kept in {RunDirectory(run).evaluations}")
    shards.files.close()
    runtime.close()
    return 0


def load_options(run: Path, arguments: argparse.Namespace) -> Config:
    """The run's options, with what the arguments say of the evaluation. Raises ConfigError."""
    if not RunDirectory(run).config.is_file():
        raise ConfigError(
            f"{run} is no run: it holds no config.yaml. Name a directory such as runs/digits, made by training."
        )
    # An evaluation reads each image once, on whatever processes there are now.
    overrides = ["runtime.processes=null", "runtime.device=auto", "precision=null"]
    overrides += ["data.cache=none", "data.workers=0", "quality.every=null"]
    overrides += ["quality.keep_best=null", "quality.patience=null"]
    for name in ("metrics", "features", "classifier", "inception", "samples"):
        value = getattr(arguments, name)
        if value is not None:
            text = f"[{', '.join(value)}]" if isinstance(value, list) else json.dumps(value)
            overrides.append(f"quality.{name}={text}")
    return load_config(RunDirectory(run).config, overrides)


def choose_checkpoints(run: Path, wanted: Sequence[str] | None) -> list[Checkpoint]:
    """The checkpoints of these steps, "best" or "all"; else the newest. Raises ConfigError or CheckpointError."""
    if wanted is None:
        return [open_run(run, None)[1]]
    if wanted == ["all"]:
        found = list_checkpoints(RunDirectory(run).checkpoints)
        if not found:
            raise CheckpointError(f"{RunDirectory(run).checkpoints} holds no checkpoint yet.")
        return found
    if wrong := [word for word in wanted if word != "best" and not word.isdigit()]:
        raise ConfigError(
            f"--checkpoint {' '.join(wrong)}: give steps, such as 1000 2000, or the word best or all."
        )
    return [open_run(run, "best" if word == "best" else int(word))[1] for word in wanted]


def check_shape(checkpoint: Checkpoint, shards: ShardSet) -> None:
    """Raise ConfigError unless the shards hold images of the size that the run draws."""
    drawn = tuple(checkpoint.facts()["identity"]["images"])
    found = (shards.manifest.channels, *shards.manifest.resolution)
    if drawn != found:
        raise ConfigError(
            f"{checkpoint.path} draws images of (channels, height, width) {drawn}, and the shards that the run's "
            f"config.yaml names hold {found}. Correct data.shards there."
        )


def describe(evaluation: Evaluation, config: Config, arguments: argparse.Namespace) -> str:
    """What is compared with what."""
    counts = evaluation.counts
    kind = "the moving average" if arguments.ema else "the generator"
    return (
        f"{counts['samples']:,} samples of {kind} (seed {arguments.seed}) against {counts['real']:,} training images "
        f"of {config.data.shards}, by {evaluation.features.name}"
    )


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Add one line. Raises StorageError."""
    with storage_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def _say_nothing(text: str) -> None:
    """For ranks beside the main one."""
