"""`wgan sample`: draw images from a trained generator."""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pipeline.commands.arguments import (
    Commands,
    add_classes,
    add_command,
    add_generator,
    add_seed,
    add_truncation,
    add_whole,
)
from pipeline.commands.targets import check_directory, check_file
from pipeline.durable import make_directory, make_directory_of, replacing, storage_errors
from pipeline.errors import ConfigError
from pipeline.stdout import say
from pipeline.wording import counted

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.run.generator import TrainedGenerator

EXAMPLES = """\
examples:
  wgan sample runs/digits                              a grid of 64 images, drawn with the moving average
  wgan sample runs/digits --count 1000 --files         one PNG for each image
  wgan sample runs/digits --no-ema --checkpoint 800 --seed 7 --out grid.png
  wgan sample runs/digits --seeds 0-63,100             the first image of each seed
  wgan sample runs/mnist-classes --class 7 --class 3   of these classes in turn, by name or number
  wgan sample digits.safetensors --truncation 0.7 --npz --count 5000

An .npz holds uint8 `images` (count, height, width, channels) and float32 `latents` (count, latent), and of a generator
with classes int64 `labels` (count,).
"""
Drawn: TypeAlias = "tuple[Tensor, Tensor | None]"
"""Latents, float32 (batch, latent), and labels, int64 (batch,), if there are classes."""

COUNT = 64
LARGEST_GRID, MOST_IMAGES = 10_000, 10_000_000


def add_parser(commands: Commands) -> None:
    """Add the command, its flags and its help."""
    sample = add_command(commands, "sample", "draw images from a run", EXAMPLES)
    add_generator(sample)
    add_whole(sample, "--count", 1, MOST_IMAGES, help="number of images (default 64)")
    add_seed(sample, "seed of the latents (default 0)")
    sample.add_argument(
        "--seeds", metavar="LIST", help="draw one image for each of these seeds, such as 0-63,100"
    )
    add_truncation(sample)
    add_classes(sample, "a class to draw images of")
    kinds = sample.add_mutually_exclusive_group()
    kinds.add_argument("--files", action="store_true", help="write one PNG for each image instead of a grid")
    kinds.add_argument(
        "--npz", action="store_true", help="write one .npz of images and latents instead of a grid"
    )
    sample.add_argument(
        "--out",
        type=Path,
        help="a .png, an .npz, or a directory for --files (default: in RUN/samples, or next to an exported file)",
    )
    sample.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Draw images and write them as one grid, as one PNG each, or as arrays."""
    import torch

    from pipeline.monitor.grids import image_grid, save_png
    from pipeline.run.class_choice import labels_in_turn, places_of
    from pipeline.run.generator import default_directory, read_generator
    from pipeline.run.latents import latent_batches, latents_of_seeds, name_seeds

    seeds = _check_arguments(arguments)
    seed = arguments.seed or 0
    truncation: float | None = arguments.truncation
    generator = read_generator(arguments.run, arguments.checkpoint, arguments.ema)
    card, places = generator.card, places_of(generator.classes, arguments.classes)
    count = len(seeds) if seeds is not None else arguments.count or COUNT
    labels = labels_in_turn(places, count)
    name = f"step_{card.step:08d}-{card.weights}-" + (
        f"seed{seed}" if seeds is None else f"seeds{name_seeds(arguments.seeds, seeds)}"
    )
    if truncation is not None:
        name += f"-truncated{truncation:g}"
    if arguments.classes:
        name += f"-class{','.join(map(str, places))}"
    suffix = "" if arguments.files else ".npz" if arguments.npz else ".png"
    target: Path = arguments.out or default_directory(arguments.run) / f"{name}{suffix}"
    if seeds is None:
        batches = latent_batches(card.latent, count, seed, truncation)
    else:
        batches = latents_of_seeds(card.latent, seeds, truncation)
    drawn = labelled(batches, labels)
    make_directory_of(target)
    if arguments.files:
        with storage_errors(target):
            # A link that the user named is followed, but not one in the place of a directory of ours.
            make_directory(target if arguments.out is None else target.resolve())
    if arguments.npz:
        write_arrays(generator, drawn, count, target)
    elif arguments.files:
        names = (
            [f"{number:06d}" for number in range(count)] if seeds is None else [f"seed{s:06d}" for s in seeds]
        )
        write_files(starmap(generator.draw, drawn), names, target)
    else:
        # A column for each class, if that makes a picture that is higher than wide.
        columns = len(places) if 1 < len(places) ** 2 <= count else math.ceil(count**0.5)
        grid = image_grid(torch.cat([*starmap(generator.draw, drawn)]), columns)
        save_png(grid, target)
    say(f"{counted(count, 'image')} of step {card.step} ({card.weights}): {target}")
    return 0


def labelled(batches: Iterable[Tensor], labels: Tensor | None) -> Iterator[Drawn]:
    """Each batch of latents with its part of the labels, None if there are none."""
    first = 0
    for latents in batches:
        yield latents, None if labels is None else labels[first : first + len(latents)]
        first += len(latents)


def write_files(batches: Iterable[Tensor], names: Sequence[str], directory: Path) -> None:
    """Write one PNG for each image, as NAME.png. `batches` are float32 in [-1, 1]. Raises StorageError."""
    from tqdm import tqdm

    from pipeline.monitor.grids import save_png
    from pipeline.pixels import to_uint8

    images = (image for batch in batches for image in to_uint8(batch).cpu())
    progress = tqdm(names, unit=" images", leave=False, disable=None)
    for name, image in zip(progress, images, strict=True):
        save_png(image, directory / f"{name}.png")


def write_arrays(generator: TrainedGenerator, batches: Iterable[Drawn], count: int, target: Path) -> None:
    """Write an .npz of uint8 `images` (count, height, width, channels) and the float32 `latents` (count, latent).

    If the generator has classes, int64 `labels` (count,) are the places of the images' classes. The images are in
    0..255 and rounded as in a PNG. Raises StorageError.
    """
    import numpy as np
    from tqdm import tqdm

    from pipeline.pixels import to_uint8

    arrays: dict[str, list[Any]] = defaultdict(list)
    with tqdm(total=count, unit=" images", leave=False, disable=None) as progress:
        for latents, labels in batches:
            drawn = to_uint8(generator.draw(latents, labels)).permute(0, 2, 3, 1)
            arrays["images"].append(drawn.cpu().numpy())
            arrays["latents"].append(latents.numpy())
            if labels is not None:
                arrays["labels"].append(labels.numpy())
            progress.update(len(latents))
    with replacing(target) as file:
        joined: dict[str, Any] = {name: np.concatenate(parts) for name, parts in arrays.items()}
        np.savez(file, **joined)


def _check_arguments(arguments: argparse.Namespace) -> list[int] | None:
    """The seeds of --seeds, or None without it. Raises ConfigError."""
    from pipeline.run.latents import check_truncation, parse_seeds

    count, seed = arguments.count, arguments.seed
    if arguments.seeds is not None and (count is not None or seed is not None):
        raise ConfigError(
            f"--seeds {arguments.seeds} already says how many images to draw and from which seeds, so it cannot be "
            f"combined with {'--count' if count is not None else '--seed'}. Leave one of them out."
        )
    check_truncation(arguments.truncation)
    seeds = None if arguments.seeds is None else parse_seeds(arguments.seeds)
    if arguments.out is not None:
        _check_target(arguments.out, arguments.files, arguments.npz)
    if arguments.files:
        return seeds
    total = len(seeds) if seeds is not None else count or COUNT
    if total > LARGEST_GRID and not arguments.npz:
        raise ConfigError(
            f"{'--count' if seeds is None else '--seeds'}: {total:,} images do not fit into one picture: a grid has "
            f"at most {LARGEST_GRID:,}. Add --files for one PNG each, or --npz for arrays."
        )
    return seeds


def _check_target(out: Path, is_files: bool, is_arrays: bool) -> None:
    if is_files:
        check_directory("--out", out, "the PNGs of --files")
    elif is_arrays:
        check_file("--out", out, "an archive of arrays", [".npz"])
    else:
        otherwise = ", or add --npz for arrays or --files for one PNG each"
        check_file("--out", out, "a grid", [".png"], otherwise)
