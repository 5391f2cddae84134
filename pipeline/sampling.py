"""`wgan sample`: images from a trained run."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.checkpoint import Checkpoint, check_same_tensors, find_defect, list_checkpoints, newest_valid
from pipeline.config import load_config
from pipeline.diagnostics import generate
from pipeline.durable import storage_errors
from pipeline.errors import CheckpointError, ConfigError
from pipeline.models import build_generator
from pipeline.monitor.grids import image_grid, save_png, to_uint8
from pipeline.noise import Noise, Purpose
from pipeline.options import Config
from pipeline.run_directory import RunDirectory

BATCH = 256
LARGEST_GRID = 10_000


def sample(arguments: argparse.Namespace) -> int:
    """Draw images from a run and write them as one grid, or one file each."""
    _check_arguments(arguments)
    run: Path = arguments.run
    config, checkpoint = open_run(run, arguments.checkpoint)
    generator = load_generator(config, checkpoint, use_ema=arguments.ema)
    kind = "ema" if arguments.ema else "generator"
    name = f"step_{checkpoint.step:08d}-{kind}-seed{arguments.seed}"
    images = draw_images(generator, config.model.latent, arguments.count, arguments.seed)
    target = arguments.out or run / "samples" / (name if arguments.files else f"{name}.png")
    with storage_errors(target):
        if arguments.files:
            target.mkdir(parents=True, exist_ok=True)
            write_files(images, arguments.count, target)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            save_png(image_grid(torch.cat(list(images)), math.ceil(arguments.count**0.5)), target)
    print(f"{arguments.count} images of step {checkpoint.step} ({kind}): {target}")
    return 0


def _check_arguments(arguments: argparse.Namespace) -> None:
    if arguments.count < 1:
        raise ConfigError(f"--count {arguments.count}: at least one image must be drawn.")
    if arguments.seed < 0:
        raise ConfigError(f"--seed {arguments.seed}: a seed is a whole number from 0 on.")
    if arguments.files:
        return
    if arguments.count > LARGEST_GRID:
        raise ConfigError(
            f"--count {arguments.count}: a grid of over {LARGEST_GRID:,} images is too large a picture. "
            "Add --files for one PNG each."
        )
    if arguments.out is not None and arguments.out.is_dir():
        raise ConfigError(
            f"--out {arguments.out} is a directory, and a grid is one file. Name a file in it, or add --files."
        )


def open_run(run: Path, step: int | None) -> tuple[Config, Checkpoint]:
    """A run's options and the checkpoint of `step`, or its newest. Raises ConfigError or CheckpointError."""
    directory = RunDirectory(run)
    if not directory.config.is_file():
        raise ConfigError(
            f"{run} is no run: it holds no config.yaml. Name a directory such as runs/digits, made by training."
        )
    return load_config(directory.config), _find(directory.checkpoints, step)


def load_generator(config: Config, checkpoint: Checkpoint, use_ema: bool) -> nn.Module:
    """The generator of a checkpoint, ready to draw from: float32, in evaluation mode, on the best device.

    Raises CheckpointError where the options are not those that it was trained with.
    """
    channels, height, _ = checkpoint.facts()["identity"]["images"]
    generator = build_generator(config.model, height, channels)
    group = "ema" if use_ema else "generator"
    tensors = checkpoint.tensors(group)
    check_same_tensors({group: generator.state_dict()}, {group: tensors}, checkpoint.path)
    generator.load_state_dict(tensors)
    return generator.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def draw_images(generator: nn.Module, latent: int, count: int, seed: int) -> Iterator[Tensor]:
    """Batches of images: float32 (up to 256, channels, height, width) in [-1, 1], where the generator is.

    The latents, ~ N(0, 1), depend on the seed and the place of the image alone: not on the machine, and
    not on how many come after it.
    """
    device = next(generator.parameters()).device
    source = Noise(seed, torch.device("cpu")).seeded(Purpose.SAMPLES)
    for first in range(0, count, BATCH):
        # The last batch is cut after it is drawn: fewer numbers in one call would be other numbers.
        latents = torch.randn(BATCH, latent, generator=source)[: count - first]
        yield generate(generator, latents.to(device), BATCH)


def write_files(batches: Iterable[Tensor], count: int, directory: Path) -> None:
    """One PNG for each image: 000000.png, 000001.png, ..."""
    images = (image for batch in batches for image in to_uint8(batch).cpu())
    for number, image in enumerate(tqdm(images, total=count, unit=" images", leave=False, disable=None)):
        save_png(image, directory / f"{number:06d}.png")


def _find(directory: Path, step: int | None) -> Checkpoint:
    if step is None:
        checkpoint, defects = newest_valid(directory)
        if checkpoint is None:
            found = "; ".join(defects) or "there is none yet"
            raise CheckpointError(f"{directory} holds no usable checkpoint: {found}.")
        return checkpoint
    known = {checkpoint.step: checkpoint for checkpoint in list_checkpoints(directory)}
    if step not in known:
        steps = ", ".join(map(str, known)) or "none"
        raise CheckpointError(f"{directory} has no checkpoint of step {step}; it has {steps}.")
    if (defect := find_defect(known[step])) is not None:
        raise CheckpointError(f"{defect}. Choose another --checkpoint.")
    return known[step]
