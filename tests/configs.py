"""Texts of configs, and how tests load them and read their mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import load_config
from pipeline.errors import ConfigError
from pipeline.options import Config

SMALL = """\
name: small
data:
  shards: somewhere
schedule:
  steps: 10
"""
FULL = """\
name: full
seed: 3
precision: bf16
ema_decay: 0.99
critic_grad_clip: 1.5
data:
  shards: somewhere
  cache: none
  workers: 2
model:
  name: dcgan
  width: 32
  critic_norm: layer
objective:
  name: gradient_penalty
  weight: 5.0
critic_optimizer:
  name: adam
  lr: 1e-4
  beta1: 0.5
generator_optimizer:
  name: rmsprop
  lr: 5e-5
  decay: linear
schedule:
  steps: 100
  global_batch: 12
  bursts:
    first_steps: 5
checkpoint:
  every: 10
  keep_every: 50
runtime:
  processes: 3
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, text: str, *overrides: str) -> Config:
    return load_config(write(folder, text), overrides)


def mistakes(folder: Path, text: str, *overrides: str) -> list[str]:
    """The lines of the message: first the origin and the number, then one for each mistake."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text, *overrides)
    return [line.strip() for line in str(caught.value).splitlines()]
