"""`wgan interpolate`: images between latents, as a strip or as an animation that loops."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.arguments import (
    Commands,
    add_classes,
    add_command,
    add_generator,
    add_truncation,
    add_whole,
)
from pipeline.commands.targets import check_file
from pipeline.durable import make_directory_of
from pipeline.errors import ConfigError
from pipeline.stdout import say
from pipeline.wording import counted

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.run.generator import TrainedGenerator

FEWEST_SECONDS = 0.2
MOST_SECONDS = 120.0
MOST_IMAGES = 10_000
EXAMPLES = """\
examples:
  wgan interpolate runs/digits                         a strip with one row from each of 8 latents to the next
  wgan interpolate runs/digits --seeds 3,14,15 --positions 12 --out strip.png
  wgan interpolate runs/digits --animation loop.gif    the strip, and the same path as a seamless animation
  wgan interpolate runs/digits --animation loop.mp4 --seconds 20      needs the extra `video`
  wgan interpolate runs/mnist-classes --class 3                       all images of one class
  wgan interpolate runs/mnist-classes --class 3 --class 8             from a 3 to an 8 and back

The path follows great circles, and returns from the last latent to the first. From class to class, the vectors of the
classes in the network change linearly.
"""


def add_parser(commands: Commands) -> None:
    """Add the command, its flags and its help."""
    interpolate = add_command(commands, "interpolate", "draw images between latents", EXAMPLES)
    add_generator(interpolate)
    interpolate.add_argument(
        "--seeds",
        default="0-7",
        metavar="LIST",
        help="seeds of the latents on the path, such as 0-3,10 (default 0-7)",
    )
    add_truncation(interpolate)
    add_classes(interpolate, "a class of the latents on the path, which take those given in turn")
    positions = "images in a row, including both ends (default 9)"
    add_whole(interpolate, "--positions", 2, MOST_IMAGES, 9, help=positions)
    interpolate.add_argument(
        "--out", type=Path, help="the strip, a PNG (default: in RUN/samples, or next to an exported file)"
    )
    interpolate.add_argument(
        "--animation", type=Path, metavar="FILE", help="write an animation too, a .gif or an .mp4"
    )
    interpolate.add_argument(
        "--seconds", type=float, help="length of the animation (default: 1 for each latent)"
    )
    interpolate.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the strip of a closed path through the latents of some seeds, and its animation if --animation is given."""
    import torch

    from pipeline.commands.film import FRAMES_PER_SECOND, write_animation
    from pipeline.monitor.grids import image_grid, save_png
    from pipeline.run.class_choice import labels_in_turn, places_of
    from pipeline.run.generator import default_directory, read_generator
    from pipeline.run.latents import latents_at, latents_of_seeds, loop_places, name_seeds, strip_places

    seeds = _check_arguments(arguments)
    generator = read_generator(arguments.run, arguments.checkpoint, arguments.ema)
    classes = places_of(generator.classes, arguments.classes)
    _check_classes(generator, classes)
    card, labels = generator.card, labels_in_turn(classes, len(seeds))
    listed = name_seeds(arguments.seeds, seeds)
    name = f"step_{card.step:08d}-{card.weights}-interpolation-seeds{listed}"
    if arguments.classes:
        name += f"-class{','.join(map(str, classes))}"
    strip: Path = arguments.out or default_directory(arguments.run) / f"{name}.png"
    stops = torch.cat(list(latents_of_seeds(card.latent, seeds, arguments.truncation)))
    make_directory_of(strip)
    places = strip_places(len(seeds), arguments.positions)
    images = generator.draw(latents_at(stops, places), labels_at(generator, labels, places))
    save_png(image_grid(images, arguments.positions), strip)
    say(f"{counted(len(seeds), 'pair')} of step {card.step} ({card.weights}): {strip}")
    if arguments.animation is not None:
        count = round(_seconds(arguments, seeds) * FRAMES_PER_SECOND)
        places = loop_places(stops, count)
        frames = _frames(generator, latents_at(stops, places), labels_at(generator, labels, places))
        write_animation(frames, arguments.animation)
        say(f"{counted(len(frames), 'frame')}, {len(frames) / FRAMES_PER_SECOND:g} s: {arguments.animation}")
    return 0


def labels_at(generator: TrainedGenerator, labels: Tensor | None, places: Tensor) -> Tensor | None:
    """What the generator is told of classes at these places of a path whose stops have the labels; None without any.

    Labels, int64 (places,), if all stops have one class, else shares of classes, float32 (places, classes).
    """
    from pipeline.run.latents import class_shares_at

    if labels is None:
        return None
    if bool((labels == labels[0]).all()):
        return labels[:1].expand(len(places))
    return class_shares_at(labels, len(generator.classes), places)


def _check_classes(generator: TrainedGenerator, classes: Sequence[int]) -> None:
    """Raise ConfigError if a path leads from class to class, and the network has nothing between them."""
    from pipeline.models.class_inputs import can_mix_classes

    if len(set(classes)) > 1 and not can_mix_classes(generator.network):
        raise ConfigError(
            f"The network {generator.card.model.name} has no vectors of classes that could be mixed, so there is "
            "nothing between two classes. Name one of them with --class."
        )


def _frames(generator: TrainedGenerator, latents: Tensor, labels: Tensor | None) -> Tensor:
    import torch
    from tqdm import tqdm

    from pipeline.pixels import to_uint8
    from pipeline.run.latents import BATCH

    parts = []
    with tqdm(total=len(latents), unit=" frames", leave=False, disable=None) as progress:
        for first in range(0, len(latents), BATCH):
            part = slice(first, first + BATCH)
            images = generator.draw(latents[part], None if labels is None else labels[part])
            parts.append(to_uint8(images).cpu())
            progress.update(len(images))
    return torch.cat(parts)


def _check_arguments(arguments: argparse.Namespace) -> list[int]:
    """The seeds of --seeds. Raises ConfigError for arguments that cannot work."""
    from pipeline.run.latents import check_truncation, parse_seeds

    seeds = parse_seeds(arguments.seeds)
    check_truncation(arguments.truncation)
    if len(seeds) < 2:
        raise ConfigError(
            f"--seeds {arguments.seeds}: a path needs two latents or more. Name more seeds, such as 0-7."
        )
    if len(seeds) * arguments.positions > MOST_IMAGES:
        raise ConfigError(
            f"--positions {arguments.positions}: {len(seeds)} rows of them are over {MOST_IMAGES:,} images, too "
            "many for one picture. Give fewer seeds or positions."
        )
    if arguments.out is not None:
        check_file("--out", arguments.out, "a strip", [".png"])
    if arguments.animation is not None:
        _check_animation(arguments.animation, _seconds(arguments, seeds))
    elif arguments.seconds is not None:
        raise ConfigError(
            f"--seconds {arguments.seconds}: this is the length of an animation, and no animation "
            "was asked for. Add --animation FILE.gif."
        )
    return seeds


def _seconds(arguments: argparse.Namespace, seeds: Sequence[int]) -> float:
    """The length of the animation: --seconds, or one second for each seed."""
    seconds: float | None = arguments.seconds
    return len(seeds) if seconds is None else seconds


def _check_animation(target: Path, seconds: float) -> None:
    if not FEWEST_SECONDS <= seconds <= MOST_SECONDS:
        raise ConfigError(
            f"--seconds {seconds:g}: an animation takes from {FEWEST_SECONDS:g} to {MOST_SECONDS:g} seconds. "
            "Without --seconds it takes one second for each seed."
        )
    check_file("--animation", target, "an animation", [".gif", ".mp4"])
    if target.suffix.lower() == ".mp4":
        try:
            import av
        except ImportError:
            raise ConfigError(
                f"--animation {target}: MP4 needs PyAV, which is not installed. Install it with "
                "`pip install 'wgan-pipeline[video]'`, or name a .gif."
            ) from None
        if "libx264" not in av.codec.codecs_available:
            raise ConfigError(
                f"--animation {target}: this PyAV is built without libx264. Install the one from PyPI, or name a "
                ".gif."
            )
