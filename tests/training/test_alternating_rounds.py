"""Critic updates in two rounds: one on real images, then one on generated images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pipeline.objectives import as_separable
from pipeline.objectives.clipping import WeightClipping
from pipeline.objectives.contract import Constraint
from pipeline.objectives.wasserstein import Wasserstein
from pipeline.options import Rounds
from tests.training.pairs import WIDE_BOX, Pair, assert_state, critic_batch, descend, state


class Recording(Wasserstein, Constraint):
    """The Wasserstein loss in a small box, which records the calls to it and the critic it leaves behind."""

    def __init__(self) -> None:
        super().__init__(constraint=self)
        self.asked: list[str] = []
        self.left: list[dict[str, Tensor]] = []

    def real_loss(self, scores: Tensor) -> Tensor:
        self.asked.append("real")
        return super().real_loss(scores)

    def fake_loss(self, scores: Tensor) -> Tensor:
        self.asked.append("fake")
        return super().fake_loss(scores)

    def apply(self, critic: nn.Module) -> None:
        WeightClipping(clip=0.03).apply(critic)
        self.asked.append("constrain")
        self.left.append(state(critic))


@pytest.mark.parametrize(
    ("rounds", "micro_batch", "expected"),
    [
        ("joint", None, ["real", "fake", "constrain"]),
        ("joint", 4, ["real", "fake", "real", "fake", "constrain"]),
        ("alternating", None, ["real", "constrain", "fake", "constrain"]),
        ("alternating", 4, ["real", "real", "constrain", "fake", "fake", "constrain"]),
    ],
)
def test_alternating_rounds_constrain_the_critic_after_each_round(
    rounds: Rounds, micro_batch: int | None, expected: list[str]
) -> None:
    objective, pair = Recording(), Pair()
    pair.update_critic(objective, rounds=rounds, micro_batch=micro_batch)
    assert objective.asked == expected
    for left in objective.left:
        assert max(weight.abs().max().item() for weight in left.values()) == pytest.approx(0.03)
    assert_state(pair.critic.module, objective.left[-1])


def test_the_second_alternating_round_starts_from_the_critic_of_the_first() -> None:
    objective, pair, by_hand = Recording(), Pair("layer"), Pair("layer")
    critic, (real, latents, _) = by_hand.critic.module, critic_batch()
    fake = by_hand.generator.module(latents).detach()
    untouched = critic(fake).mean().item()

    lefts, scores, norms = [], [], []
    for sign, images in ((-1, real), (1, fake)):
        scores.append(critic(images).mean())
        norms.append(descend(critic, sign * scores[-1], lr=0.1))
        with torch.no_grad():
            for weight in critic.parameters():
                weight.clamp_(-0.03, 0.03)
        lefts.append(state(critic))

    metrics = pair.update_critic(objective, rounds="alternating")
    for found, expected in zip(objective.left, lefts, strict=True):
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)
    assert any(not torch.equal(lefts[0][name], lefts[1][name]) for name in lefts[0])
    assert metrics["critic/real"].item() == pytest.approx(scores[0].item(), rel=1e-5)
    assert metrics["critic/fake"].item() == pytest.approx(scores[1].item(), rel=1e-5)
    assert metrics["critic/fake"].item() != pytest.approx(untouched, rel=0.1)
    assert metrics["critic/loss"].item() == pytest.approx((scores[1] - scores[0]).item(), rel=1e-5)
    assert metrics["critic/grad_norm"].item() == pytest.approx(sum(norms).item() / 2, rel=1e-4)  # type: ignore[union-attr]


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_an_alternating_estimate_is_of_the_critic_between_the_rounds(
    micro_batch: int | None,
) -> None:
    """Not the real images' score before the first round minus the generated images' score after it."""
    pair, between = Pair(), Pair()
    metrics = pair.update_critic(WIDE_BOX, rounds="alternating", micro_batch=micro_batch)
    real, latents, _ = critic_batch()
    as_separable(WIDE_BOX).real_loss(between.critic.module(real)).backward()
    between.critic.optimizer.step()
    with torch.no_grad():
        fake = between.generator.module(latents)
        expected = between.critic.module(real).mean() - between.critic.module(fake).mean()
    torch.testing.assert_close(metrics["wasserstein/estimate"], expected)
    assert abs(metrics["critic/real"] - metrics["critic/fake"] - expected) > 0.05 * abs(expected)
