"""The work of `wgan evaluate`: finds checkpoints and shards, measures on all ranks, prints and records figures."""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pipeline import stdout
from pipeline.commands.arguments import parse_step
from pipeline.config import load_config
from pipeline.data.format.shard_set import EVERYTHING, ShardSet
from pipeline.data.originals.opening import open_data
from pipeline.data.reading.class_labels import classes_of_run
from pipeline.durable import make_directory, open_for_append, storage_errors
from pipeline.errors import CheckpointError, ConfigError, DataError
from pipeline.foreign_text import printable
from pipeline.metric_table import METRICS, find_metric
from pipeline.monitor.grids import image_grid, save_png
from pipeline.noise import RankRows
from pipeline.option_mistakes import validated
from pipeline.options import Config, QualityOptions
from pipeline.plugins import METRIC, is_import_path, load_plugin
from pipeline.quality.class_balance import RealClasses
from pipeline.quality.evaluation import Evaluation, Floor
from pipeline.ranks.devices import best_device, check_gpu_count
from pipeline.ranks.failures import rank_failures
from pipeline.ranks.launcher import is_launched, launch
from pipeline.ranks.runtime import Runtime, join
from pipeline.run.checkpoint import Checkpoint, Say, list_checkpoints
from pipeline.run.directory import RunDirectory, open_directory
from pipeline.run.generator import TrainedGenerator, open_run, read_generator
from pipeline.stderr import say_warning
from pipeline.training.build import build_evaluation, build_loader
from pipeline.training.context import RunContext
from pipeline.wording import counted, listed

NEIGHBOUR_ROWS, NEIGHBOURS = 8, 7
TITLE = len("step") + 1 + 8
"""Characters before the figures of a line."""
WORST_CLASSES = 3
BY_CLASS = {name for name, metric in METRICS.items() if metric.needs.classes}


def evaluate(arguments: argparse.Namespace) -> int:
    """Measure samples of the chosen checkpoints, print a table, and add a line for each to evaluations.jsonl."""
    run: Path = arguments.run
    config = load_options(run, arguments)
    if arguments.processes is not None and arguments.processes > 1 and not is_launched():
        # Mistakes in checkpoints or shards are reported once, before any rank starts.
        check_gpu_count(best_device(), arguments.processes)
        # The ranks say what is no mistake, such as a damaged checkpoint that is passed over.
        open_images(config, choose_checkpoints(run, arguments.checkpoint, _say_nothing)).files.close()
        return launch(arguments.processes, "pipeline.cli", arguments.words)
    with join(config) as runtime, rank_failures():
        checkpoints = choose_together(run, arguments.checkpoint, runtime)
        with runtime.agreement():
            share = slice(runtime.local_rank, None, runtime.local_world_size)
            shards = open_images(config, checkpoints, share)
        judge(config, checkpoints, shards, runtime, arguments)
        shards.files.close()
        runtime.close()
    return 0


def judge(
    config: Config,
    checkpoints: Sequence[Checkpoint],
    shards: ShardSet,
    runtime: Runtime,
    arguments: argparse.Namespace,
) -> None:
    """Measure one checkpoint after another. All ranks call it together."""
    run: Path = arguments.run
    say = stdout.say if runtime.is_main else _say_nothing
    if runtime.is_main and (warning := describe_other_images(checkpoints[0], shards)):
        say_warning(warning)
    rows = RankRows(0, config.schedule.real_images, config.schedule.real_images)
    context = RunContext(config, shards, RunDirectory(run), runtime, output=_say_nothing)
    loader, order = build_loader(context, rows)
    evaluation = build_evaluation(context, loader, order, arguments.seed, show_progress=True)
    say(describe(evaluation, config, arguments))
    floor = evaluation.floor()
    for line in describe_floor(floor, evaluation, config.quality.samples):
        say(line)
    for checkpoint in checkpoints:
        with runtime.agreement():
            generator = read_generator(run, checkpoint.step, arguments.ema).to(runtime.device)
        figures, by_class = evaluation.compare(generator.draw)
        for line in describe_figures(f"step {checkpoint.step:>8,}", figures, evaluation):
            say(line)
        for line in describe_by_class(by_class):
            say(line)
        record = {
            "step": checkpoint.step,
            "weights": generator.card.weights,
            **evaluation.counts,
            "seed": arguments.seed,
            "features": evaluation.features.name,
            **({"mirrored": True} if config.data.flip else {}),
            **describe_classes(evaluation, figures),
            "manifest": shards.manifest.sha256,
            "metrics": figures,
            **({"by_class": by_class} if by_class else {}),
            "real_against_real": {"images": floor.images, "metrics": floor.figures},
            "time": time.strftime("%FT%T%z"),
        }
        with runtime.agreement():
            if runtime.is_main:
                append_record(RunDirectory(run).evaluations, record)
        if arguments.neighbours:
            path = RunDirectory(run).samples / neighbours_name(record)
            draw_neighbours(evaluation, generator, path, runtime)
            say(f"each row is a sample and the training images most like it: {path}")
    say(f"recorded in {RunDirectory(run).evaluations}")


def load_options(run: Path, arguments: argparse.Namespace) -> Config:
    """The run's options, with those of the arguments. Raises ConfigError."""
    directory = open_directory(run)
    names = ("metrics", "features", "classifier", "inception", "samples")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    validated(QualityOptions, given, "--")
    for name in filter(is_import_path, arguments.metrics or []):
        load_plugin(METRIC, name, is_trusted=True)
    # An evaluation reads each image once, with the processes and devices of this command, not of the run.
    overrides = ["runtime.processes=null", "runtime.device=auto", "precision=null"]
    overrides += ["data.cache=none", "data.workers=0", "quality.every=null"]
    overrides += ["quality.keep_best=null", "quality.patience=null"]
    needs_classifier = arguments.features == "classifier" or not BY_CLASS.isdisjoint(arguments.metrics or [])
    if needs_classifier and not (
        arguments.classifier or load_config(directory.config, overrides, is_trusted=False).quality.classifier
    ):
        raise ConfigError(
            f"--features classifier and --metrics {' '.join(sorted(BY_CLASS))} need a classifier, and the run has "
            "none. Make one with `wgan features train SHARDS --out FILE`, and name it with --classifier FILE."
        )
    overrides += [f"quality.{name}={json.dumps(value)}" for name, value in given.items()]
    if arguments.shards is not None:
        overrides += [f"data.shards={json.dumps(arguments.shards)}", "data.mix=null"]
    return load_config(directory.config, overrides, is_trusted=False)


def choose_checkpoints(run: Path, wanted: Sequence[str] | None, say: Say = say_warning) -> list[Checkpoint]:
    """The checkpoints of these steps, "best" or "all"; the newest for None. Raises ConfigError or CheckpointError."""
    if wanted is None:
        return [open_run(run, None, say)[1]]
    if wanted == ["all"]:
        found = list_checkpoints(RunDirectory(run).checkpoints)
        if not found:
            raise CheckpointError(f"{RunDirectory(run).checkpoints} holds no checkpoint yet.")
        return found
    if "all" in wanted:
        raise ConfigError(
            f"--checkpoint {' '.join(wanted)}: all already means every checkpoint, so it cannot be combined with "
            "others. Give --checkpoint all, or a list of steps and best."
        )
    steps: dict[str, int | Literal["best"] | None] = {
        word: "best" if word == "best" else parse_step(word) for word in wanted
    }
    if wrong := [word for word, step in steps.items() if step is None]:
        raise ConfigError(
            f"--checkpoint: invalid value {' '.join(wrong)}: expected steps, such as 1000 2000, best or all."
        )
    return [open_run(run, steps[word], say)[1] for word in wanted]


def choose_together(run: Path, wanted: Sequence[str] | None, runtime: Runtime) -> list[Checkpoint]:
    """The checkpoints that the main rank chooses, on all ranks: a run that trains may save or delete some meanwhile."""
    steps: list[int] = []
    with runtime.agreement():
        if runtime.is_main:
            steps = [checkpoint.step for checkpoint in choose_checkpoints(run, wanted)]
    directory = RunDirectory(run).checkpoints
    return [Checkpoint(directory / f"step_{step:08d}", step) for step in runtime.gather_json(steps)[0]]


def open_images(config: Config, checkpoints: Sequence[Checkpoint], share: slice = EVERYTHING) -> ShardSet:
    """The shards that samples are compared with, after a check of the sizes of a share of them.

    Raises ConfigError, DataError or CheckpointError.
    """
    try:
        shards = open_data(config.data)
        shards.check_sizes(share)
    except DataError as error:
        raise DataError(f"{error} If the run's shards have moved, name their place with --shards.") from None
    for checkpoint in checkpoints:
        check_shape(checkpoint, shards, config.data.place)
        check_classes(checkpoint, classes_of_run(config, shards.manifest), config.data.place)
    return shards


def check_shape(checkpoint: Checkpoint, shards: ShardSet, place: str) -> None:
    """Raise ConfigError unless the shards at `place` hold images of the size that the run draws."""
    drawn = checkpoint.facts().identity.images
    found = shards.image_shape
    if drawn != found:
        raise ConfigError(
            f"{checkpoint.path} draws images of (channels, height, width) {drawn}, and the shards of {place} hold "
            f"{found}. Name the run's own with --shards."
        )


def check_classes(checkpoint: Checkpoint, found: Sequence[str], place: str) -> None:
    """Raise ConfigError unless the shards at `place` have the classes that the run knows, in their order."""
    known = checkpoint.facts().identity.classes
    if list(known) != list(found):
        raise ConfigError(
            f"{checkpoint.path} knows the classes {listed(known)}, in this order, and the shards of {place} have "
            f"{listed(found)}. Name the run's own with --shards."
        )


def describe_other_images(checkpoint: Checkpoint, shards: ShardSet) -> str | None:
    """A warning if the shards are not those that the run was trained on, by the hashes of their manifests."""
    trained, found = checkpoint.facts().identity.manifest, shards.manifest.sha256
    if trained == found:
        return None
    return (
        f"the run was trained on shards {trained[:8]}, and these are {found[:8]} (SHA-256 of the manifest), so "
        "the figures are not for the images that it was trained on"
    )


def describe(evaluation: Evaluation, config: Config, arguments: argparse.Namespace) -> str:
    """How many samples are compared with how many images, and with which features."""
    counts = evaluation.counts
    kind = "the moving average" if arguments.ema else "the generator"
    return (
        f"{counts['samples']:,} samples of {kind} (seed {arguments.seed}) against {counts['real']:,} training images "
        f"of {config.data.place}, by {evaluation.features.name}"
    )


def describe_floor(floor: Floor, evaluation: Evaluation, samples: int) -> Iterator[str]:
    """The lines that show what figures a perfect generator can have."""
    if not floor.figures:
        return
    yield from describe_figures("real images", floor.figures, evaluation)
    halves = f"{counted(floor.images, 'training image')} against {floor.images:,} others, as good as samples can be"
    few = f"; {samples:,} samples can have better figures, because there are more of them"
    yield f"{'':{TITLE}}  ({halves}{few if floor.images < samples else ''})"


def describe_figures(title: str, figures: Mapping[str, float], evaluation: Evaluation) -> Iterator[str]:
    """The lines of one set of images: its figures, and what a reader should know of them."""
    shown = [
        describe_modes(value, evaluation.classes) if name == "modes" else f"{name} {value:.4g}"
        for name, value in figures.items()
    ]
    yield "  ".join([f"{title:{TITLE}}", *shown])
    fidelity = [name for name in ("precision", "density") if name in figures]
    if fidelity and figures.get("recall") == 0:
        verb = "means" if len(fidelity) == 1 else "mean"
        yield (
            f"{'':{TITLE}}  recall 0: no real image is near a sample, so {' and '.join(fidelity)} {verb} nothing here"
        )


def describe_by_class(by_class: Mapping[str, Mapping[str, float | None]]) -> Iterator[str]:
    """The lines that say which classes are worst, and which a metric leaves out."""
    for name, found in by_class.items():
        is_lower_better = METRICS[name].better == "lower"
        known = {label: value for label, value in found.items() if value is not None}
        worst = sorted(known, key=lambda label: known[label], reverse=is_lower_better)[:WORST_CLASSES]
        listed_worst = ", ".join(f"{printable(label)} {known[label]:.4g}" for label in worst)
        left_out = [label for label in found if label not in known]
        few = f"; without {listed(left_out)}, of which there are too few images" if left_out else ""
        yield f"{'':{TITLE}}  {name}, worst classes: {listed_worst}{few}"


def describe_modes(value: float, classes: RealClasses) -> str:
    """The number of classes that were found, of how many, and those that could not be found."""
    unseen = f", the classifier does not see {listed(classes.unseen)}" if classes.unseen else ""
    return f"modes {value:g} of {classes.total:,}{unseen}"


def describe_classes(evaluation: Evaluation, figures: Mapping[str, float]) -> dict[str, Any]:
    """The classifier of class metrics and the classes that it should see, for the record; empty if none was used."""
    if evaluation.classifier is None or not any(find_metric(name).needs.classes for name in figures):
        return {}
    total, unseen = evaluation.classes
    return {"classifier": evaluation.classifier.name, "classes": total, "unseen_classes": list(unseen)}


def neighbours_name(record: Mapping[str, Any]) -> str:
    """The name of the picture, with all that it depends on: "step_00000800-neighbours-ema-seed0-pixels.png"."""
    features = re.sub(r"[^A-Za-z0-9]+", "-", record["features"])
    return f"step_{record['step']:08d}-neighbours-{record['weights']}-seed{record['seed']}-{features}.png"


def draw_neighbours(
    evaluation: Evaluation, generator: TrainedGenerator, path: Path, runtime: Runtime
) -> None:
    """Draw samples next to the training images most like them. All ranks call it together. Raises StorageError."""
    pairs = evaluation.nearest_training_images(generator.draw, NEIGHBOUR_ROWS, NEIGHBOURS)
    with runtime.agreement():
        if runtime.is_main:
            with storage_errors(path.parent):
                make_directory(path.parent)
            save_png(image_grid(pairs.flatten(0, 1), 1 + NEIGHBOURS), path)


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Append one line, also after a line that a kill cut short. Raises StorageError."""
    with storage_errors(path), open_for_append(path) as file:
        if file.seek(0, os.SEEK_END) > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(record).encode() + b"\n")


def _say_nothing(*lines: str) -> None:
    """For all ranks but the main one."""
