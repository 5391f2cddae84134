"""How many of 25 Gaussians a generator finds with each objective: the usual test for lost modes, in two dimensions.

command:   python benchmarks/studies/mode_coverage.py --seeds 3
duration:  about 20 minutes on one core
prints:    a markdown table: for each objective the modes that at least 0.5% of 5,000 samples are in (a mode is within
           three standard deviations of its centre), the share of samples in any mode, and seconds; means and spread
           over the seeds

The modes are on a grid of 5 x 5 with a distance of 0.4 and a standard deviation of 0.02. Networks have three hidden
layers of 128 units, and batches have 256 points. The updates are those of training (training/updates.py).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from study import run_study
from torch import Tensor, nn

from pipeline.objectives import build_objective
from pipeline.option_objective import (
    CrossEntropyOptions,
    GradientPenaltyOptions,
    HingeOptions,
    LeastSquaresOptions,
    ObjectiveOptions,
    RelativisticOptions,
    WassersteinOptions,
)
from pipeline.options import AdamOptions, OptimizerOptions, RmspropOptions
from pipeline.profiling.flops import SingleProcess
from pipeline.training.state import build_optimizer
from pipeline.training.updates import (
    CriticBatch,
    GeneratorBatch,
    Player,
    UpdatePlan,
    critic_update,
    draw_fakes,
    generator_update,
)

BATCH, LATENT, UNITS, SAMPLES = 256, 8, 128, 5000
DISTANCE, DEVIATION = 0.4, 0.02
LEAST_SHARE = 0.005
CENTRES = torch.cartesian_prod(*[torch.arange(-2.0, 3.0) * DISTANCE] * 2)
"""float32 (25, 2)"""
ADAM = AdamOptions(name="adam", lr=1e-3, beta1=0.0, beta2=0.9)


@dataclass(frozen=True)
class Case:
    """An objective, its critic updates for each generator update, and the optimizer of both players."""

    name: str
    objective: ObjectiveOptions
    critic_updates: int = 1
    optimizer: OptimizerOptions = ADAM


CASES = (
    Case("clipping", WassersteinOptions(clip=0.1), 5, RmspropOptions(lr=5e-4)),
    Case("gradient penalty", GradientPenaltyOptions(name="gradient_penalty", weight=1.0), 5),
    Case("least squares", LeastSquaresOptions(name="least_squares")),
    Case("cross entropy", CrossEntropyOptions(name="cross_entropy")),
    Case("cross entropy + R1", CrossEntropyOptions(name="cross_entropy", r1=0.1)),
    Case("hinge", HingeOptions(name="hinge")),
    Case("relativistic + R1 + R2", RelativisticOptions(name="relativistic", r1=0.1, r2=0.1)),
)


class Points(nn.Module):
    """Latents (batch, latent) to points as images, (batch, 1, 1, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = hidden(LATENT, 2)

    def forward(self, latents: Tensor) -> Tensor:
        points: Tensor = self.layers(latents)
        return points.view(-1, 1, 1, 2)


class Critic(nn.Module):
    """Points (batch, 1, 1, 2) to scores (batch,)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = hidden(2, 1)

    def forward(self, points: Tensor, float32: bool = False) -> Tensor:
        scores: Tensor = self.layers(points.flatten(1))
        return scores.squeeze(1)


def hidden(inputs: int, outputs: int) -> nn.Sequential:
    """Three hidden layers between so many inputs and outputs."""
    sizes = [inputs, UNITS, UNITS, UNITS]
    layers = [
        layer for before, after in pairwise(sizes) for layer in (nn.Linear(before, after), nn.LeakyReLU(0.2))
    ]
    return nn.Sequential(*layers, nn.Linear(UNITS, outputs))


def draw_real(generator: torch.Generator) -> Tensor:
    """Points of the mixture, (batch, 1, 1, 2)."""
    chosen = CENTRES[torch.randint(len(CENTRES), (BATCH,), generator=generator)]
    return (chosen + DEVIATION * torch.randn(BATCH, 2, generator=generator)).view(-1, 1, 1, 2)


def train(case: Case, steps: int, seed: int) -> Points:
    """A generator after so many steps."""
    torch.manual_seed(seed)
    random, plan = torch.Generator().manual_seed(seed), UpdatePlan(SingleProcess())
    objective, points, network = build_objective(case.objective), Points(), Critic()
    generator = Player(points, points, build_optimizer(points, case.optimizer))
    critic = Player(network, network, build_optimizer(network, case.optimizer))
    for _ in range(steps):
        for _ in range(case.critic_updates):
            real, latents = draw_real(random), torch.randn(BATCH, LATENT, generator=random)
            batch = CriticBatch(real, draw_fakes(points, latents), torch.rand(BATCH, generator=random))
            critic_update(critic, objective, batch, plan, is_measured=False)
        latents = torch.randn(BATCH, LATENT, generator=random)
        generator_update(generator, network, objective, GeneratorBatch(latents, real), plan)
    return points


@torch.no_grad()
def coverage(points: Points) -> tuple[int, float]:
    """How many modes a generator finds, and the share of its samples in any."""
    latents = torch.randn(SAMPLES, LATENT, generator=torch.Generator().manual_seed(1))
    distances = torch.cdist(points(latents).flatten(1), CENTRES)
    nearest, mode = distances.min(1)
    is_inside = nearest < 3 * DEVIATION
    counts = torch.bincount(mode[is_inside], minlength=len(CENTRES))
    return int((counts >= LEAST_SHARE * SAMPLES).sum()), float(is_inside.float().mean())


def spread(values: Sequence[float], form: str) -> str:
    """The mean, and the range over the seeds."""
    return f"{statistics.mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def run(arguments: argparse.Namespace) -> None:
    """Train every case with every seed, and print the table."""
    print("| objective | modes of 25 | samples in a mode | seconds |\n|---|---:|---:|---:|")
    for case in CASES:
        found, seconds = [], []
        for seed in range(arguments.seeds):
            began = time.perf_counter()
            points = train(case, arguments.steps, seed)
            seconds.append(time.perf_counter() - began)
            found.append(coverage(points))
        modes, shares = zip(*found, strict=True)
        row = [case.name, spread(modes, ".1f"), spread(shares, ".0%"), f"{statistics.mean(seconds):.0f}"]
        print(f"| {' | '.join(row)} |", flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """Run the study. Returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5000, help="generator updates (default: 5,000)")
    return run_study(run, parser.parse_args(words))


if __name__ == "__main__":
    sys.exit(main())
