"""Checkpoints of a few tensors, for the tests of saving, loading and damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pipeline.run.checkpoint import Checkpoint, save_checkpoint

FACTS: dict[str, Any] = {
    "identity": {
        "seed": 3,
        "images": [1, 8, 8],
        "data.manifest": "5ea1",
        "objective.clip": 0.1,
        "data.classes": None,
    },
    "counters": {"step": 3, "position": 2**40},
    "scaler": {},
    "window": {"names": ["a", "b"], "count": 2},
    "recorder": {"smooth": 0.1, "smoothed": 2},
}
FILES = ["generator.safetensors", "critic.safetensors", "window.safetensors", "state.json", "manifest.json"]


def groups(seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    special = torch.tensor([0x7FC00001, -0x80000000, 1], dtype=torch.int32).view(torch.float32)
    return {
        "generator": {
            "weight": torch.randn(3, 4, generator=generator),
            "transposed": torch.randn(4, 3, generator=generator).T,
            "half": torch.randn(5, generator=generator).bfloat16(),
            "double": torch.randn(2, generator=generator).double(),
            "special": special,
        },
        "critic": {"score/step": torch.tensor(7.0), "count": torch.tensor(2**53 + 1), "none": torch.zeros(0)},
        "window": {},
    }


def save(directory: Path, *steps: int) -> list[Checkpoint]:
    return [save_checkpoint(directory, step, groups(step), FACTS) for step in steps]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())
