"""The levers change only the speed of a step: in five steps, the tutorial's loop and ours train the same weights."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.config import load_config

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "speed"))
from levers import LEVERS, ROOT, build_pair, draw_batches, fast_step, plain_step

pytestmark = pytest.mark.slow

STEPS, SIDE, CHANNELS = 5, 8, 1
SMALL = ["schedule.global_batch=8", "model.latent=6"]
NARROW = ["model.width=8"]
CASES = {
    "R2": ("configs/reference/wgan-digit7.yaml", [*SMALL, "schedule.critic_batch=4"]),
    "R3": ("configs/reference/wgan-dcgan.yaml", SMALL),
    "R5": ("configs/reference/gan-bce.yaml", SMALL),
    "clipping": ("configs/mnist.yaml", [*SMALL, *NARROW]),
    "gradient penalty": ("configs/mnist-gp.yaml", [*SMALL, *NARROW]),
}
EACH = pytest.mark.parametrize("case", CASES)
EXACT = [lever for lever in LEVERS if lever not in ("plain", "bf16", "kept memory")]
"""The levers that only change the order of the arithmetic; kept memory changes nothing at all."""


@pytest.fixture
def float64() -> Iterator[None]:
    """Float64, in which no ReLU's input is so near 0 that the last bit decides its sign."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def plain(case: str) -> tuple[Tensor, Tensor]:
    return _plain(case, torch.get_default_dtype())


@cache
def _plain(case: str, precision: torch.dtype) -> tuple[Tensor, Tensor]:
    return trained(case, ["plain"])


def trained(case: str, levers: list[str]) -> tuple[Tensor, Tensor]:
    """All weights of both networks after the steps, and by how much they changed."""
    path, options = CASES[case]
    config, device = load_config(ROOT / path, options), torch.device("cpu")
    pair = build_pair(config, SIDE, CHANNELS, levers, device)
    batches = draw_batches(config, SIDE, CHANNELS, device)
    before = weights(*(player.module for player in pair))
    for _ in range(STEPS):
        if levers == ["plain"]:
            plain_step(config, *pair, batches)
        else:
            fast_step(config, *pair, batches, has_scattered="scattered" in levers)
    after = weights(*(player.module for player in pair))
    return after, after - before


def weights(*networks: nn.Module) -> Tensor:
    return torch.cat([value.detach().flatten() for network in networks for value in network.parameters()])


@EACH
@pytest.mark.parametrize("lever", [*EXACT, "all"])
@pytest.mark.usefixtures("float64")
def test_each_lever_computes_what_the_plain_loop_does(case: str, lever: str) -> None:
    expected, moved = plain(case)
    found, _ = trained(case, EXACT if lever == "all" else [lever])
    assert moved.abs().max() > 1e-3
    assert (found - expected).abs().max() < 1e-9


@EACH
def test_in_float32_all_levers_together_differ_by_rounding(case: str) -> None:
    expected, moved = plain(case)
    found, _ = trained(case, EXACT)
    assert (found - expected).norm() < 0.005 * moved.norm()


@EACH
def test_in_bf16_the_networks_move_the_same_way(case: str) -> None:
    expected, moved = plain(case)
    found, _ = trained(case, [*EXACT, "bf16"])
    # Adam makes full steps from gradients that are only rounding errors; RMSprop's rate of 5e-5 keeps them small.
    bound = 1.0 if case == "R5" else 0.05
    assert 1e-4 * moved.norm() < (found - expected).norm() < bound * moved.norm()
