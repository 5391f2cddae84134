"""What a run's files hold, and the text of its report."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CONFIG = {"name": "sevens", "data": {"shards": "data/digits"}, "schedule": {"steps": 1000}}
FIGURES = {
    "critic/real": 3.0,
    "critic/fake": 1.0,
    "generator/loss": -1.0,
    "wasserstein/estimate": 2.0,
    "wasserstein/estimate_smooth": 2.25,
    "speed/images_per_second": 1234.0,
    "speed/step_seconds": 0.5,
}


def write_lines(path: Path, *lines: Mapping[str, Any]) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def write_grid(run: Path, step: int, width: int = 70, noise: bool = False) -> None:
    (run / "samples").mkdir(exist_ok=True)
    pixels = np.full((width, width, 3), step % 256, np.uint8)
    if noise:
        pixels = np.random.default_rng(step).integers(0, 256, pixels.shape, np.uint8)
    Image.fromarray(pixels).save(run / "samples" / f"step_{step:08d}.png")


def write_checkpoint(run: Path, step: int, manifest: str = "5ea1", classes: Sequence[str] = ()) -> None:
    path = run / "checkpoints" / f"step_{step:08d}"
    path.mkdir(parents=True)
    facts: dict[str, dict[str, Any]] = {"identity": {"data.manifest": manifest, "images": [1, 16, 16]}}
    facts["identity"] |= {"classes": list(classes)} if classes else {}
    (path / "state.json").write_text(json.dumps(facts))
    (path / "generator.safetensors").write_bytes(bytes(2_000_000))


def sections(page: str) -> dict[str, str]:
    """The text of each section by its name, and the text above them as "head"."""
    head, *parts = re.split(r'<section id="', page.partition("<body")[2])
    named = {part.partition('"')[0]: part.partition(">")[2] for part in parts}
    return {name: text_of(part) for name, part in {"head": head.partition(">")[2], **named}.items()}


def text_of(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


EVALUATION = {"step": 3000, "weights": "ema", "samples": 2000, "seed": 0, "features": "pixels", "real": 2000}
