"""Latents of images that somebody looks at: from one seed or a seed each, and from a truncated normal."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.noise import Noise, Purpose

BATCH = 256
MOST_SEEDS = 1_000_000
LONGEST_NAME = 64
"""Characters of a list of seeds in a file's name, which a file system ends at 255 bytes."""
FINENESS = 256
"""Pieces of the way between two latents whose lengths are added up."""


def latent_batches(latent: int, count: int, seed: int, truncation: float | None = None) -> Iterator[Tensor]:
    """`count` latents ~ N(0, 1) of one seed, in batches: float32 (up to 256, latent), on the host.

    A latent depends on the seed and its place alone: not on the machine, and not on how many come after it.
    With `truncation` T > 0, numbers z are redrawn until |z| <= T (Brock, Donahue, Simonyan 2019); those that
    are within T anyway stay as they are.
    """
    source = Noise(seed, torch.device("cpu")).seeded(Purpose.SAMPLES)
    for first in range(0, count, BATCH):
        # The last batch is cut after it is drawn: fewer numbers in one call would be other numbers.
        latents = torch.randn(BATCH, latent, generator=source)
        if truncation is not None:
            latents = _redraw_outside(latents, truncation, source)
        yield latents[: count - first]


def latents_of_seeds(latent: int, seeds: Sequence[int], truncation: float | None = None) -> Iterator[Tensor]:
    """One latent for each seed, the first that the seed draws, in batches: float32 (up to 256, latent)."""
    for first in range(0, len(seeds), BATCH):
        rows = [next(latent_batches(latent, 1, seed, truncation)) for seed in seeds[first : first + BATCH]]
        yield torch.cat(rows)


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


def parse_seeds(text: str) -> list[int]:
    """ "0-3,10" as [0, 1, 2, 3, 10]. Raises ConfigError where it is no list of different whole numbers."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not _is_seed(first) or (dash and not _is_seed(last)):
            raise ConfigError(
                f"--seeds {text}: {part.strip()!r} is neither a seed nor a range of them. Write whole numbers from 0 "
                "on, like 0-63,100."
            )
        chosen = range(int(first), int(last or first) + 1)
        if not chosen:
            raise ConfigError(f"--seeds {text}: {part.strip()} ends before it begins. Write {last}-{first}.")
        if len(seeds) + len(chosen) > MOST_SEEDS:
            raise ConfigError(f"--seeds {text}: over {MOST_SEEDS:,} seeds. Take --seed and --count instead.")
        seeds += chosen
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"--seeds {text}: a seed stands there twice, and would draw the same image twice.")
    return seeds


def name_seeds(text: str, seeds: Sequence[int]) -> str:
    """What --seeds `text` is called in a file's name: itself, or where it is long FIRST..LAST-COUNT-HASH.

    The hash, of the first 8 digits of a SHA-256, tells lists apart that begin and end alike.
    """
    name = "".join(text.split())
    if len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(",".join(map(str, seeds)).encode()).hexdigest()
    return f"{seeds[0]}..{seeds[-1]}-{len(seeds)}-{digest[:8]}"


def check_seed(seed: int) -> None:
    """Raise ConfigError unless it is a whole number from 0 on."""
    if seed < 0:
        raise ConfigError(f"seed {seed}: a seed is a whole number from 0 on.")


def check_truncation(truncation: float | None) -> None:
    """Raise ConfigError unless it is None or a bound that some latents are within."""
    if truncation is not None and not 0 < truncation < math.inf:
        raise ConfigError(
            f"truncation {truncation}: no latent is within this bound. Give a number above 0; 0.5 to 1 is usual, "
            "and leaving it out draws from the whole normal distribution."
        )


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


def _is_seed(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20


def _redraw_outside(latents: Tensor, bound: float, source: torch.Generator) -> Tensor:
    # Redrawing until a number is inside is drawing once from the normal distribution cut at the bound. By the
    # inverse of its distribution function that takes one draw, however small the bound.
    uniform = torch.rand(latents.shape, generator=source, dtype=torch.float64)
    inside = math.sqrt(2) * torch.erfinv((2 * uniform - 1) * math.erf(bound / math.sqrt(2)))
    return torch.where(latents.abs() <= bound, latents, inside.float()).clamp(-bound, bound)
