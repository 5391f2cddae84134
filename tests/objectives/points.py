"""Two distributions over a few points, and the best critic for them, with one free score per point."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.objectives import Objective, Scores

REAL_COUNTS = torch.tensor([1, 4, 9, 2, 30, 5, 12, 20, 10, 7])
FAKE_COUNTS = torch.tensor([11, 4, 3, 25, 6, 5, 1, 20, 8, 17])
"""The number of samples of each kind at each point: 100 in total, so these are probabilities in per cent. At three
points both are equal."""

REAL, FAKE = REAL_COUNTS.double() / 100, FAKE_COUNTS.double() / 100


def losses(objective: Objective, scores: Tensor, real_counts: Tensor, fake_counts: Tensor) -> Tensor:
    """The critic's loss for the points' scores (float64), with as many samples at each point as its count."""
    real, fake = scores.repeat_interleave(real_counts), scores.repeat_interleave(fake_counts)
    return objective.critic_loss(Scores(real, fake))


def generated(scores: Tensor) -> Scores:
    """What a generator's loss gets if it does not need real images' scores: those of its own images only."""
    return Scores(scores.new_empty(0), scores)


def best_scores(objective: Objective, real_counts: Tensor, fake_counts: Tensor) -> Tensor:
    """The scores (float64) where the gradient of the critic's loss is 0, by Newton's method."""
    scores = torch.zeros(len(real_counts), dtype=torch.float64)
    for _ in range(20):
        scores.requires_grad_()
        loss = losses(objective, scores, real_counts, fake_counts)
        (gradient,) = torch.autograd.grad(loss, scores, create_graph=True)
        # The loss is a sum over points, so the matrix of second derivatives is diagonal.
        (curvature,) = torch.autograd.grad(gradient.sum(), scores)
        scores = (scores - gradient / curvature).detach()
    scores.requires_grad_()
    (gradient,) = torch.autograd.grad(losses(objective, scores, real_counts, fake_counts), scores)
    assert gradient.abs().max() < 1e-14
    return scores.detach()
