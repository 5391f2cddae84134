"""`wgan interpolate`: images on the way from one latent to the next, side by side or as a film that loops."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from pipeline.commands.targets import check_file
from pipeline.durable import replacing, storage_errors
from pipeline.errors import ConfigError
from pipeline.monitor.grids import image_grid, save_png
from pipeline.pixels import to_uint8
from pipeline.run.generator import TrainedGenerator, default_directory, read_generator
from pipeline.run.latents import BATCH, check_truncation, latents_of_seeds, name_seeds, parse_seeds

FRAMES_PER_SECOND = 25
"""A frame lasts 40 ms, which the hundredths of a second of a GIF can say."""
FEWEST_SECONDS = 0.2
MOST_SECONDS = 120.0
MOST_IMAGES = 10_000
SMALLEST_SIDE = 256
FINENESS = 256
"""Pieces of the way between two latents whose lengths are added up."""
PALETTE_FRAMES = 32


def interpolate(arguments: argparse.Namespace) -> int:
    """Write the strip of a loop through the latents of some seeds, and the film of it where one is asked for."""
    seeds = _check_arguments(arguments)
    generator = read_generator(arguments.run, arguments.checkpoint, arguments.ema)
    card = generator.card
    listed = name_seeds(arguments.seeds, seeds)
    name = f"step_{card.step:08d}-{card.weights}-interpolation-seeds{listed}.png"
    strip: Path = arguments.out or default_directory(arguments.run) / name
    stops = torch.cat(list(latents_of_seeds(card.latent, seeds, arguments.truncation)))
    with storage_errors(strip):
        strip.parent.mkdir(parents=True, exist_ok=True)
    images = generator.draw(strip_latents(stops, arguments.positions))
    save_png(image_grid(images, arguments.positions), strip)
    print(f"{len(seeds)} pairs of step {card.step} ({card.weights}): {strip}")
    if arguments.animation is not None:
        count = round(_seconds(arguments, seeds) * FRAMES_PER_SECOND)
        frames = _frames(generator, loop_latents(stops, count))
        write_animation(frames, arguments.animation)
        print(f"{len(frames)} frames, {len(frames) / FRAMES_PER_SECOND:g} s: {arguments.animation}")
    return 0


def slerp(start: Tensor, end: Tensor, positions: Tensor) -> Tensor:
    """Points between two latents (latent,), `positions` (count,) in [0, 1] of the way: (count, latent).

    The direction goes along the great circle at constant speed (Shoemake 1985), the norm linearly: so points
    between two draws of N(0, 1) have norms that such draws have (White 2016, section 2.1). Between opposite
    directions, where there is no single great circle, it is that towards the axis they are farthest from. With
    a latent of 0 at one end, or of one dimension, there are no directions, and the way is straight.
    """
    a, b, t = start.double(), end.double(), positions.double()[:, None]
    norms = a.norm(), b.norm()
    if len(a) == 1 or min(norms) == 0:
        straight: Tensor = (1 - t) * a + t * b
        return straight.to(start.dtype)
    a, b = a / norms[0], b / norms[1]
    # Not the arc cosine, which loses half of the digits of small angles.
    angle = 2 * torch.atan2((a - b).norm(), (a + b).norm())
    direction = torch.cos(t * angle) * a + torch.sin(t * angle) * _perpendicular(a, b)
    between: Tensor = ((1 - t) * norms[0] + t * norms[1]) * direction
    return between.to(start.dtype)


def strip_latents(stops: Tensor, positions: int) -> Tensor:
    """Latents from each stop (stops, latent) to the next, both included: (stops x positions, latent).

    From the last stop they lead back to the first.
    """
    places = torch.linspace(0, 1, positions, dtype=torch.float64)
    return torch.cat([slerp(start, end, places) for start, end in _legs(stops)])


def loop_latents(stops: Tensor, count: int) -> Tensor:
    """`count` latents at equal distances along the closed way through the stops (stops, latent).

    The first is the first stop. As far as from any of them to the next it is from the last to the first, so
    that a film of them has no seam and a constant speed.
    """
    fine = torch.linspace(0, 1, FINENESS + 1, dtype=torch.float64)
    steps = [slerp(start, end, fine).diff(dim=0).norm(dim=1) for start, end in _legs(stops.double())]
    lengths = np.concatenate([[0.0], np.cumsum(torch.cat(steps).numpy())])
    places = np.interp(np.arange(count) * (lengths[-1] / count), lengths, np.arange(len(lengths)) / FINENESS)
    return torch.cat(
        [
            slerp(start, end, torch.from_numpy(places[np.floor(places) == leg] - leg))
            for leg, (start, end) in enumerate(_legs(stops))
        ]
    )


def write_animation(frames: Tensor, target: Path) -> None:
    """Write uint8 (count, channels, height, width) as a film that loops: GIF, or H.264 where `target` is .mp4.

    Small images are enlarged to at least 256 pixels, each pixel to a square. Raises StorageError.
    """
    write = _write_mp4 if target.suffix.lower() == ".mp4" else _write_gif
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as file:
        write(frames, file)


def _legs(stops: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Each stop with the next, the last one with the first."""
    return list(zip(stops, stops.roll(-1, 0), strict=True))


def _perpendicular(a: Tensor, b: Tensor) -> Tensor:
    """The unit vector at right angles to the unit vector `a` on the side of `b`, or on any where `b` has none."""
    side = b - (a @ b) * a
    if side.norm() < 1e-9:
        axis = torch.zeros_like(a)
        axis[a.abs().argmin()] = 1
        side = axis - (a @ axis) * a
    unit: Tensor = side / side.norm()
    return unit


def _frames(generator: TrainedGenerator, latents: Tensor) -> Tensor:
    parts = []
    with tqdm(total=len(latents), unit=" frames", leave=False, disable=None) as progress:
        for part in torch.split(latents, BATCH):
            parts.append(to_uint8(generator.draw(part)).cpu())
            progress.update(len(part))
    return torch.cat(parts)


def _pictures(frames: Tensor) -> Iterator[Image.Image]:
    """Enlarged, in grey or RGB."""
    factor = max(1, -(-SMALLEST_SIDE // min(frames.shape[-2:])))
    for frame in tqdm(frames, unit=" frames", leave=False, disable=None):
        pixels = frame.repeat_interleave(factor, 1).repeat_interleave(factor, 2).permute(1, 2, 0).numpy()
        yield Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def _write_gif(frames: Tensor, file: IO[bytes]) -> None:
    pictures = _pictures(frames)
    if frames.shape[1] != 1:
        # One palette for all: colours of their own would make the frames flicker.
        chosen = frames[:: -(-len(frames) // PALETTE_FRAMES)].permute(0, 2, 3, 1).flatten(0, 1)
        palette = Image.fromarray(chosen.numpy()).quantize()
        pictures = (picture.quantize(palette=palette) for picture in pictures)
    first = next(pictures)
    duration = 1000 // FRAMES_PER_SECOND
    first.save(file, format="GIF", save_all=True, append_images=pictures, duration=duration, loop=0)


def _write_mp4(frames: Tensor, file: IO[bytes]) -> None:
    import av

    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"crf": "16"})
        stream.pix_fmt = "yuv420p"
        for number, picture in enumerate(_pictures(frames)):
            # Two pixels in either direction share a colour there: of an odd side the last row is repeated.
            padding = ((0, picture.height % 2), (0, picture.width % 2), (0, 0))
            pixels = np.pad(np.asarray(picture.convert("RGB")), padding, mode="edge")
            if number == 0:
                stream.height, stream.width = pixels.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def _check_arguments(arguments: argparse.Namespace) -> list[int]:
    """The seeds of the stops. Raises ConfigError."""
    seeds = parse_seeds(arguments.seeds)
    check_truncation(arguments.truncation)
    if len(seeds) < 2:
        raise ConfigError(
            f"--seeds {arguments.seeds}: a way needs two latents or more. Name more seeds, like 0-7."
        )
    if arguments.positions < 2:
        raise ConfigError(f"--positions {arguments.positions}: a row has two ends. Give 2 or more.")
    if len(seeds) * arguments.positions > MOST_IMAGES:
        raise ConfigError(
            f"--positions {arguments.positions}: {len(seeds)} rows of them are over {MOST_IMAGES:,} images, too "
            "large a picture. Name fewer seeds or positions."
        )
    if arguments.out is not None:
        check_file("--out", arguments.out, "a strip", [".png"])
    if arguments.animation is not None:
        _check_animation(arguments.animation, _seconds(arguments, seeds))
    elif arguments.seconds is not None:
        raise ConfigError(
            f"--seconds {arguments.seconds}: says how long an animation is. Add --animation FILE.gif."
        )
    return seeds


def _seconds(arguments: argparse.Namespace, seeds: Sequence[int]) -> float:
    """How long the animation is to last."""
    seconds: float | None = arguments.seconds
    return len(seeds) if seconds is None else seconds


def _check_animation(target: Path, seconds: float) -> None:
    if not FEWEST_SECONDS <= seconds <= MOST_SECONDS:
        raise ConfigError(
            f"--seconds {seconds:g}: an animation takes from {FEWEST_SECONDS:g} to {MOST_SECONDS:g} seconds, by "
            "default one for each seed."
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
                f"--animation {target}: this PyAV is built without libx264. Install the one that pip has, or name "
                "a .gif."
            )
