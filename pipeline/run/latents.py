"""Latents for sampling and interpolation: from one seed or one seed each, truncated, or along a path."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pipeline.errors import ConfigError
from pipeline.noise import Noise, Purpose

BATCH = 256
MOST_SEEDS = 1_000_000
TRUNCATIONS = (1e-6, 1000)
"""Least and largest. Hardly any number is drawn beyond 6, and float32 latents within less are all nearly 0."""
LONGEST_NAME = 64
"""Most characters of a list of seeds in a file name; file systems allow 255 bytes for the whole name."""
FINENESS = 256
"""Pieces into which the path between two latents is cut to measure its length."""


def latent_batches(latent: int, count: int, seed: int, truncation: float | None = None) -> Iterator[Tensor]:
    """`count` latents ~ N(0, 1) of one seed, in batches: float32 (up to 256, latent), on the host.

    A latent depends only on the seed and its position, not on the machine or on how many follow. With `truncation`
    T > 0, numbers z with |z| > T are drawn again until |z| <= T (Brock, Donahue, Simonyan 2019); the others stay as
    they are.
    """
    source = Noise(seed, torch.device("cpu")).seeded(Purpose.SAMPLES)
    for first in range(0, count, BATCH):
        # The last batch is drawn in full and then cut: a call for fewer numbers would give different ones.
        latents = torch.randn(BATCH, latent, generator=source)
        if truncation is not None:
            latents = _redraw_outside(latents, truncation, source)
        yield latents[: count - first]


def latents_of_seeds(latent: int, seeds: Sequence[int], truncation: float | None = None) -> Iterator[Tensor]:
    """One latent for each seed, the first one that it draws, in batches: float32 (up to 256, latent)."""
    for first in range(0, len(seeds), BATCH):
        rows = [next(latent_batches(latent, 1, seed, truncation)) for seed in seeds[first : first + BATCH]]
        yield torch.cat(rows)


def slerp(start: Tensor, end: Tensor, positions: Tensor) -> Tensor:
    """Points between two latents (latent,), at `positions` (count,) in [0, 1] along the path: (count, latent).

    The direction follows the great circle at constant speed (Shoemake 1985), and the norm changes linearly, so that
    points between two draws of N(0, 1) have norms like such draws (White 2016, section 2.1). Between opposite
    directions there are many great circles; this takes the one through the axis that is farthest from both. If a
    latent is 0 or has one dimension, it has no direction, and the path is a straight line.
    """
    a, b, t = start.double(), end.double(), positions.double()[:, None]
    norms = a.norm(), b.norm()
    if len(a) == 1 or min(norms) == 0:
        straight: Tensor = (1 - t) * a + t * b
        return straight.to(start.dtype)
    a, b = a / norms[0], b / norms[1]
    # Not arccos, which loses half of the digits of small angles.
    angle = 2 * torch.atan2((a - b).norm(), (a + b).norm())
    direction = torch.cos(t * angle) * a + torch.sin(t * angle) * _perpendicular(a, b)
    between: Tensor = ((1 - t) * norms[0] + t * norms[1]) * direction
    return between.to(start.dtype)


def strip_places(stops: int, positions: int) -> Tensor:
    """Places from each stop of a closed path to the next, both included: float64 (stops x positions,).

    A place is the number of the stop before it, plus the part of the way to the next. The last one is the number of
    stops, which is the first stop.
    """
    return (torch.arange(stops)[:, None] + torch.linspace(0, 1, positions, dtype=torch.float64)).flatten()


def loop_places(stops: Tensor, count: int) -> Tensor:
    """`count` places at equal distances along the closed path through the stops (stops, latent): float64 (count,).

    The first one is the first stop. The distance from the last back to the first is the same as between all others,
    so an animation of them is seamless and has constant speed.
    """
    fine = torch.linspace(0, 1, FINENESS + 1, dtype=torch.float64)
    steps = [slerp(start, end, fine).diff(dim=0).norm(dim=1) for start, end in _legs(stops.double())]
    lengths = np.concatenate([[0.0], np.cumsum(torch.cat(steps).numpy())])
    places = np.interp(np.arange(count) * (lengths[-1] / count), lengths, np.arange(len(lengths)) / FINENESS)
    return torch.from_numpy(places)


def latents_at(stops: Tensor, places: Tensor) -> Tensor:
    """The latents at these places of the path through the stops (stops, latent): (places, latent)."""
    found = stops.new_empty(len(places), stops.shape[1])
    legs = places.long() % len(stops)
    for leg, (start, end) in enumerate(_legs(stops)):
        found[legs == leg] = slerp(start, end, places[legs == leg].frac())
    return found


def class_shares_at(labels: Tensor, classes: int, places: Tensor) -> Tensor:
    """The shares of classes at these places of a path whose stops have the labels, int64 (stops,).

    float32 (places, classes). Between two stops they change linearly.
    """
    shares = one_hot(labels, classes).double()
    before, part = places.long() % len(labels), places.frac()[:, None]
    return torch.lerp(shares[before], shares[(before + 1) % len(labels)], part).float()


def parse_seeds(text: str) -> list[int]:
    """Turn "0-3,10" into [0, 1, 2, 3, 10]. Raises ConfigError if it is not a list of different whole numbers."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not _is_seed(first) or (dash and not _is_seed(last)):
            raise ConfigError(
                f"--seeds {text}: {part.strip()!r} is neither a seed nor a range of seeds. Write whole numbers "
                "from 0 on, such as 0-63,100."
            )
        chosen = range(int(first), int(last or first) + 1)
        if not chosen:
            raise ConfigError(f"--seeds {text}: {part.strip()} ends before it begins. Write {last}-{first}.")
        if len(seeds) + len(chosen) > MOST_SEEDS:
            raise ConfigError(
                f"--seeds {text}: more than {MOST_SEEDS:,} seeds. Use --seed and --count instead."
            )
        seeds += chosen
    if len(set(seeds)) < len(seeds):
        raise ConfigError(
            f"--seeds {text}: a seed is listed twice and would draw the same image twice. Remove one."
        )
    return seeds


def name_seeds(text: str, seeds: Sequence[int]) -> str:
    """The seeds for a file name: `text` itself, or if that is long FIRST..LAST-COUNT-HASH.

    The hash, the first 8 digits of a SHA-256, distinguishes lists with the same first and last seed.
    """
    name = "".join(text.split())
    if len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(",".join(map(str, seeds)).encode()).hexdigest()
    return f"{seeds[0]}..{seeds[-1]}-{len(seeds)}-{digest[:8]}"


def check_count(count: object) -> None:
    """Raise ConfigError unless the number of images is a whole number from 1 on."""
    if not isinstance(count, Integral) or count < 1:
        raise ConfigError(
            f"count {count!r}: at least one image must be drawn. Give a whole number, 1 or more."
        )


def check_seed(seed: object) -> None:
    """Raise ConfigError unless the seed is a whole number from 0 to 2^63 - 1."""
    if not isinstance(seed, Integral) or not 0 <= int(seed) < 2**63:
        raise ConfigError(f"seed {seed!r}: a seed is a whole number from 0 on, below 2^63. Give another one.")


def check_truncation(truncation: object) -> None:
    """Raise ConfigError unless it is None or a number from 0.000001 to 1,000."""
    if truncation is None:
        return
    least, most = TRUNCATIONS
    if not (isinstance(truncation, Real) and least <= float(truncation) <= most):
        raise ConfigError(
            f"truncation {truncation!r}: expected a number from {least:f} to {most:,}, usually 0.5 to 1. Leave it out "
            "to draw from the whole normal distribution."
        )


def _legs(stops: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Each stop with the next one, and the last with the first."""
    return list(zip(stops, stops.roll(-1, 0), strict=True))


def _perpendicular(a: Tensor, b: Tensor) -> Tensor:
    """The unit vector orthogonal to the unit vector `a` in the direction of `b`; any, if `b` is parallel to `a`."""
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
    # Drawing again until a number is inside gives the normal distribution cut at the bound. The inverse of its
    # distribution function does that in one draw, however small the bound is.
    uniform = torch.rand(latents.shape, generator=source, dtype=torch.float64)
    inside = math.sqrt(2) * torch.erfinv((2 * uniform - 1) * math.erf(bound / math.sqrt(2)))
    return torch.where(latents.abs() <= bound, latents, inside.float()).clamp(-bound, bound)
