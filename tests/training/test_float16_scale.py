"""The scale of float16, by torch's scaler for CPUs: an overflow skips one update on all ranks, and the run recovers.

Float16 itself needs a GPU (test_gpu.py). Here all else is real: the scaler, Accelerate's optimizers, DDP, checkpoints.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.ranks.runtime import Runtime
from tests.ranks import Ranks, assert_same_bits, newest, read_state, read_tensors

pytestmark = pytest.mark.slow

SCALE, GROWS_AFTER = 1024.0, 10
WARM_UP = 2
"""Backward passes of the warm-up step: one for each network."""
UPDATES = 3
"""Critic updates of a step: with the generator's, it has four backward passes."""


def train_with_scaler(arguments: list[str], overflowing_pass: int) -> int:
    """Train with a scaler. In one backward pass, counted from 0 without the warm-up step, rank 0 overflows."""
    from pipeline.train import main

    real_start, real_backward, passes = Runtime.__init__, Runtime.backward, 0

    def start(runtime: Runtime, *options: Any) -> None:
        real_start(runtime, *options)
        runtime._accelerator.scaler = torch.amp.GradScaler(
            "cpu", init_scale=SCALE, growth_interval=GROWS_AFTER
        )
        # In no other precision is an infinite gradient an ordinary event.
        runtime.precision = "fp16"

    def backward(runtime: Runtime, loss: Tensor, weights: Any) -> None:
        nonlocal passes
        if passes == WARM_UP + overflowing_pass and runtime.is_main:
            loss = loss * float("inf")
        passes += 1
        real_backward(runtime, loss, weights)

    with patch.object(Runtime, "__init__", start), patch.object(Runtime, "backward", backward):
        return main(arguments)


@pytest.fixture
def options(config: str) -> list[str]:
    return [config, "runtime.digest_every=1", f"schedule.critic_updates={UPDATES}"]


NEVER = 10**6


def test_an_overflow_on_one_rank_halves_the_scale_on_all_and_skips_that_update_alone(
    options: list[str], ranks: Ranks, tmp_path: Path
) -> None:
    one_step = [*options, "schedule.steps=1"]
    for name, overflowing_pass in (("clean", NEVER), ("critic", 0), ("generator", UPDATES)):
        ranks.run(2, [*one_step, f"name={name}"], target=train_with_scaler, extra=(overflowing_pass,))
    clean, critic, generator = (newest(tmp_path / name) for name in ("clean", "critic", "generator"))
    scales = [read_state(found)["scaler"]["scale"] for found in (clean, critic, generator)]
    assert scales == [SCALE, SCALE / 2, SCALE / 2]
    fine, skipped = read_tensors(clean), read_tensors(generator)
    changed = {name.split("/")[0] for name in fine if not np.array_equal(fine[name], skipped[name])}
    assert changed == {"generator", "generator_optimizer", "ema"}, "the critic's updates came before"
    assert not np.array_equal(*(read_tensors(found)["critic/score.weight"] for found in (clean, critic)))


def test_the_scale_grows_back_and_a_resumed_run_goes_on_with_the_same_bits(
    options: list[str], ranks: Ranks, tmp_path: Path
) -> None:
    overflow = 4 * (UPDATES + 1) + 1
    scaled = {"target": train_with_scaler, "extra": (overflow,)}
    ranks.run(2, [*options, "name=whole", "schedule.steps=9"], **scaled)
    ranks.run(2, [*options, "name=moves", "schedule.steps=6"], **scaled)
    halved = read_state(newest(tmp_path / "moves"))["scaler"]
    ranks.run(2, [*options, "name=moves", "schedule.steps=9"], target=train_with_scaler, extra=(NEVER,))
    whole, moves = (newest(tmp_path / name) for name in ("whole", "moves"))
    assert_same_bits(read_tensors(whole), read_tensors(moves))
    assert read_state(whole)["scaler"] == read_state(moves)["scaler"]
    before, after = halved["scale"], read_state(whole)["scaler"]["scale"]
    assert after == 2 * before
