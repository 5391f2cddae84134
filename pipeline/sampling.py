"""`wgan sample`: images from a trained run."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.checkpoint import Checkpoint, find_defect, list_checkpoints, newest_valid
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


def sample(arguments: argparse.Namespace) -> int:
    """Draw images from a run and write them as one grid, or one file each."""
    run: Path = arguments.run
    if arguments.count < 1:
        raise ConfigError(f"--count {arguments.count}: at least one image must be drawn.")
    config, checkpoint = open_run(run, arguments.checkpoint)
    generator = load_generator(config, checkpoint, use_ema=arguments.ema)
    kind = "ema" if arguments.ema else "generator"
    name = f"step_{checkpoint.step:08d}-{kind}-seed{arguments.seed}"
    latents = draw_latents(arguments.count, config.model.latent, arguments.seed)
    if arguments.files:
        target = arguments.out or run / "samples" / name
        with storage_errors(target):
            target.mkdir(parents=True, exist_ok=True)
            write_files(generator, latents, target)
    else:
        target = arguments.out or run / "samples" / f"{name}.png"
        with storage_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            images = generate(generator, latents.to(device_of(generator)), BATCH)
            save_png(image_grid(images, math.ceil(arguments.count**0.5)), target)
    print(f"{arguments.count} images of step {checkpoint.step} ({kind}): {target}")
    return 0


def open_run(run: Path, step: int | None) -> tuple[Config, Checkpoint]:
    """A run's options and the checkpoint of `step`, or its newest. Raises ConfigError or CheckpointError."""
    directory = RunDirectory(run)
    if not directory.config.is_file():
        raise ConfigError(
            f"{run} is no run: it holds no config.yaml. Name a directory such as runs/digits, made by training."
        )
    return load_config(directory.config), _find(directory.checkpoints, step)


def load_generator(config: Config, checkpoint: Checkpoint, use_ema: bool) -> nn.Module:
    """The generator of a checkpoint, ready to draw from: float32, in evaluation mode, on the best device."""
    channels, height, _ = checkpoint.facts()["identity"]["images"]
    generator = build_generator(config.model, height, channels)
    generator.load_state_dict(checkpoint.tensors("ema" if use_ema else "generator"))
    return generator.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def draw_latents(count: int, latent: int, seed: int) -> Tensor:
    """float32 (count, latent) ~ N(0, 1), the same on every machine."""
    return torch.randn(count, latent, generator=Noise(seed, torch.device("cpu")).seeded(Purpose.SAMPLES))


def device_of(module: nn.Module) -> torch.device:
    """Where a network's parameters are."""
    return next(module.parameters()).device


def write_files(generator: nn.Module, latents: Tensor, directory: Path) -> None:
    """One PNG for each latent: 000000.png, 000001.png, ..."""
    device = device_of(generator)
    with tqdm(total=len(latents), unit=" images", leave=False, disable=None) as bar:
        for first in range(0, len(latents), BATCH):
            images = to_uint8(generate(generator, latents[first : first + BATCH].to(device))).cpu()
            for number, image in enumerate(images, first):
                save_png(image, directory / f"{number:06d}.png")
            bar.update(len(images))


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
