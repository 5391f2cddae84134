"""One update of the critic and one of the generator, in one process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pipeline.errors import ConfigError
from pipeline.models import build_critic, build_generator
from pipeline.models.norms import BatchNorm2d
from pipeline.objectives import Objective, Scores, as_separable, build_objective
from pipeline.objectives.clipping import WeightClipping
from pipeline.objectives.contract import Constraint, Penalty
from pipeline.objectives.wasserstein import Wasserstein
from pipeline.options import (
    CrossEntropyOptions,
    DcganOptions,
    GradientPenaltyOptions,
    HingeOptions,
    LeastSquaresOptions,
    MlpOptions,
    Norm,
    Rounds,
    WassersteinOptions,
)
from pipeline.training.updates import (
    CriticBatch,
    Player,
    UpdatePlan,
    critic_update,
    draw_fakes,
    frozen,
    generator_update,
)

BATCH = 7
WASSERSTEIN = build_objective(WassersteinOptions(clip=0.03))
WIDE_BOX = build_objective(WassersteinOptions(clip=100.0))
PENALTY = build_objective(GradientPenaltyOptions(name="gradient_penalty"))
ONE_SIDED = build_objective(GradientPenaltyOptions(name="gradient_penalty", sides="one"))
LEAST_SQUARES = build_objective(LeastSquaresOptions(name="least_squares"))
CROSS_ENTROPY = build_objective(CrossEntropyOptions(name="cross_entropy"))
FLIPPED = build_objective(CrossEntropyOptions(name="cross_entropy", labels="real_is_zero"))
SATURATING = build_objective(CrossEntropyOptions(name="cross_entropy", generator="saturating"))
HINGE = build_objective(HingeOptions(name="hinge"))
OBJECTIVES = {
    "wasserstein": WIDE_BOX,
    "gradient_penalty": PENALTY,
    "one-sided": ONE_SIDED,
    "least_squares": LEAST_SQUARES,
    "binary": build_objective(LeastSquaresOptions(name="least_squares", a=0.0, b=1.0, c=1.0)),
    "cross_entropy": CROSS_ENTROPY,
    "flipped": FLIPPED,
    "saturating": SATURATING,
    "hinge": HINGE,
}
ALL = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())
NEEDS_BOTH_KINDS = ("gradient_penalty", "one-sided")
ROUNDS: dict[str, tuple[Objective, Rounds]] = {
    **{f"{name}, joint": (objective, "joint") for name, objective in OBJECTIVES.items()},
    **{
        f"{name}, alternating": (objective, "alternating")
        for name, objective in OBJECTIVES.items()
        if name not in NEEDS_BOTH_KINDS
    },
}
IN_ALL_ROUNDS = pytest.mark.parametrize(("objective", "rounds"), ROUNDS.values(), ids=ROUNDS.keys())


class Plain:
    """One process: gradients are those of the backward pass. Records which passes would not be averaged."""

    def __init__(self) -> None:
        self.passes: list[bool] = []
        self._is_local = False

    def backward(self, loss: Tensor, weights: Sequence[Tensor]) -> None:
        self.passes.append(self._is_local)
        loss.backward(inputs=weights)

    def no_sync(self, module: nn.Module) -> AbstractContextManager[Any]:
        return self._locally()

    @contextmanager
    def _locally(self) -> Iterator[None]:
        self._is_local = True
        yield
        self._is_local = False

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        pass


class Pair:
    """A generator and a critic with the same weights each time, moved by plain gradient descent."""

    def __init__(self, norm: Norm = "none", lr: float = 0.1, largest: float | None = None) -> None:
        torch.manual_seed(0)
        options = DcganOptions(latent=6, width=4, generator_norm=norm, critic_norm=norm)
        self.generator = self._player(build_generator(options, 16, 1), lr, largest)
        self.critic = self._player(build_critic(options, 16, 1), lr, largest)

    @staticmethod
    def _player(module: nn.Module, lr: float, largest: float | None) -> Player:
        with torch.no_grad():
            for weight in module.parameters():
                weight.mul_(5)
        return Player(module, module, torch.optim.SGD(module.parameters(), lr=lr), largest)

    def update_critic(
        self, objective: Objective, batch: int = BATCH, is_measured: bool = True, **options: Any
    ) -> dict[str, Tensor]:
        plan = UpdatePlan(**{"parallel": Plain(), **options})
        real, latents, uniform = critic_batch(batch)
        fake = draw_fakes(self.generator.module, latents, plan.micro_batch)
        return critic_update(
            self.critic, objective, CriticBatch(real, fake, uniform), plan, is_measured=is_measured
        )

    def update_generator(self, objective: Objective, **options: Any) -> dict[str, Tensor]:
        plan, (real, _, _) = UpdatePlan(**{"parallel": Plain(), **options}), critic_batch()
        return generator_update(self.generator, self.critic.module, objective, generator_batch(), real, plan)


def critic_batch(batch: int = BATCH) -> tuple[Tensor, Tensor, Tensor]:
    """Real images, latents and uniform numbers, the same each time."""
    generator = torch.Generator().manual_seed(1)
    real = torch.rand(batch, 1, 16, 16, generator=generator) * 2 - 1
    return real, torch.randn(batch, 6, generator=generator), torch.rand(batch, generator=generator)


def generator_batch() -> Tensor:
    return torch.randn(BATCH, 6, generator=torch.Generator().manual_seed(2))


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_state(module: nn.Module, expected: dict[str, Tensor]) -> None:
    for name, value in module.state_dict().items():
        assert torch.equal(value, expected[name]), name


def change(module: nn.Module, before: dict[str, Tensor]) -> Tensor:
    """All parameters' changes as one vector."""
    return torch.cat([(value - before[name]).flatten() for name, value in module.named_parameters()]).detach()


@pytest.mark.parametrize("objective", [WASSERSTEIN, PENALTY])
def test_the_generators_update_leaves_the_critic_as_it_was(objective: Objective) -> None:
    pair = Pair("batch" if objective is WASSERSTEIN else "layer")
    critic, generator = pair.critic.module, pair.generator.module
    pair.update_critic(objective)
    before, moved = state(critic), state(generator)
    gradients = [weight.grad.clone() for weight in critic.parameters()]  # type: ignore[union-attr]
    pair.update_generator(objective)
    assert_state(critic, before)
    assert critic.training
    assert all(weight.requires_grad for weight in critic.parameters())
    for weight, gradient in zip(critic.parameters(), gradients, strict=True):
        assert torch.equal(weight.grad, gradient)  # type: ignore[arg-type]
    assert change(generator, moved).norm() > 0


def test_the_critics_update_leaves_the_generators_weights_as_they_were() -> None:
    pair = Pair("batch")
    generator, before = pair.generator.module, state(pair.generator.module)
    moved = state(pair.critic.module)
    pair.update_critic(WASSERSTEIN)
    assert change(generator, before).norm() == 0
    assert all(weight.grad is None and weight.requires_grad for weight in generator.parameters())
    assert change(pair.critic.module, moved).norm() > 0


def test_the_critics_own_running_statistics_move_with_its_updates_again() -> None:
    pair = Pair("batch")
    pair.update_generator(WASSERSTEIN)
    before = state(pair.critic.module)
    pair.update_critic(WASSERSTEIN)
    # Real and generated images pass as two batches.
    found = state(pair.critic.module)
    assert found["layers.3.num_batches_tracked"] == before["layers.3.num_batches_tracked"] + 2


def test_a_frozen_network_is_free_again_after_an_error() -> None:
    critic: Any = Pair("batch").critic.module
    before = state(critic)

    def fail_within() -> None:
        with frozen(critic):
            critic(torch.randn(3, 1, 16, 16))
            assert not any(weight.requires_grad for weight in critic.parameters())
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail_within()
    assert_state(critic, before)
    assert all(weight.requires_grad for weight in critic.parameters())
    critic(torch.randn(3, 1, 16, 16))
    assert critic.layers[3].num_batches_tracked == 1


@IN_ALL_ROUNDS
@pytest.mark.parametrize("micro_batch", [1, 3, 7, 64])
def test_micro_batches_make_the_update_of_the_whole_batch(
    objective: Objective, rounds: Rounds, micro_batch: int
) -> None:
    (critic, generator, metrics), (whole_critic, whole_generator, whole_metrics) = (
        _update_both(objective, rounds, size) for size in (micro_batch, None)
    )
    for found, expected in ((critic, whole_critic), (generator, whole_generator)):
        assert expected.norm() > 1e-3
        assert (found - expected).norm() < 1e-4 * expected.norm()
    assert metrics.keys() == whole_metrics.keys()
    for name, value in whole_metrics.items():
        torch.testing.assert_close(metrics[name], value, rtol=1e-4, atol=1e-5)


def _update_both(
    objective: Objective, rounds: Rounds, micro_batch: int | None
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """How the critic and the generator moved, and what both updates reported."""
    pair = Pair("layer", lr=0.01)
    starts = state(pair.critic.module), state(pair.generator.module)
    metrics = pair.update_critic(objective, micro_batch=micro_batch, rounds=rounds)
    metrics |= pair.update_generator(objective, micro_batch=micro_batch)
    return change(pair.critic.module, starts[0]), change(pair.generator.module, starts[1]), metrics


@pytest.mark.parametrize(
    ("micro_batch", "passes"),
    [(None, [False]), (3, [True, True, False]), (1, [True] * 6 + [False]), (64, [False]), (7, [False])],
)
def test_gradients_are_averaged_over_ranks_once_an_update(
    micro_batch: int | None, passes: list[bool]
) -> None:
    pair = Pair()
    for update in (pair.update_critic, pair.update_generator):
        parallel = Plain()
        update(WASSERSTEIN, parallel=parallel, micro_batch=micro_batch)
        assert parallel.passes == passes
    parallel = Plain()
    pair.update_critic(WASSERSTEIN, parallel=parallel, micro_batch=micro_batch, rounds="alternating")
    assert parallel.passes == 2 * passes


@pytest.mark.parametrize("rounds", ["joint", "alternating"])
def test_no_part_is_larger_than_the_micro_batch(rounds: Rounds) -> None:
    pair, sizes = Pair(), []
    pair.critic.module.register_forward_hook(lambda _, inputs, output: sizes.append(len(inputs[0])))
    pair.update_critic(WASSERSTEIN, micro_batch=3, rounds=rounds)
    assert max(sizes) <= 3
    # In alternating rounds, the real images pass once more for the estimate.
    assert sum(sizes) == (2 if rounds == "joint" else 3) * BATCH


@pytest.mark.parametrize("rounds", ["joint", "alternating"])
def test_every_critic_weight_is_in_the_box_after_each_update(rounds: Rounds) -> None:
    pair = Pair("batch", lr=0.5)
    for _ in range(3):
        pair.update_critic(WASSERSTEIN, rounds=rounds)
        for weight in pair.critic.module.parameters():
            assert weight.abs().max() <= torch.tensor(0.03)


def test_with_a_penalty_nothing_is_clipped() -> None:
    pair = Pair()
    pair.update_critic(PENALTY)
    assert max(weight.abs().max() for weight in pair.critic.module.parameters()) > 0.1


@pytest.mark.parametrize("objective", [WASSERSTEIN, PENALTY])
@pytest.mark.parametrize("micro_batch", [None, 2])
def test_the_estimate_is_real_minus_fake_before_the_update(
    objective: Objective, micro_batch: int | None
) -> None:
    pair, untouched = Pair(), Pair()
    metrics = pair.update_critic(objective, micro_batch=micro_batch)
    real, latents, _ = critic_batch()
    with torch.no_grad():
        fake = untouched.generator.module(latents)
        real_score, fake_score = (untouched.critic.module(images).mean() for images in (real, fake))
    torch.testing.assert_close(metrics["critic/real"], real_score)
    torch.testing.assert_close(metrics["critic/fake"], fake_score)
    difference = metrics["critic/real"] - metrics["critic/fake"]
    torch.testing.assert_close(metrics["wasserstein/estimate"], difference)
    if objective is WASSERSTEIN:
        torch.testing.assert_close(metrics["critic/loss"], fake_score - real_score)
    assert all(value.shape == () and not value.requires_grad for value in metrics.values())


def test_the_gradients_norm_is_bounded_and_reported_as_it_was_before() -> None:
    lr, largest = 0.1, 0.05
    free, bound = Pair(lr=lr), Pair(lr=lr, largest=largest)
    for update in ("update_critic", "update_generator"):
        name = update.removeprefix("update_")
        before = state(getattr(bound, name).module)
        expected = getattr(free, update)(PENALTY)[f"{name}/grad_norm"]
        found = getattr(bound, update)(PENALTY)[f"{name}/grad_norm"]
        if name == "critic":
            assert found == expected
        assert found > 2 * largest
        moved = change(getattr(bound, name).module, before).norm() / lr
        assert moved.item() == pytest.approx(largest, rel=1e-3)


def test_the_reported_norm_is_that_of_the_whole_gradient() -> None:
    pair = Pair(lr=0.1)
    before = state(pair.generator.module)
    norm = pair.update_generator(PENALTY)["generator/grad_norm"]
    assert norm.item() == pytest.approx(change(pair.generator.module, before).norm().item() / 0.1, rel=1e-3)


def test_a_small_gradient_is_not_enlarged_to_the_bound() -> None:
    free, bound = Pair(), Pair(largest=1e6)
    for pair in (free, bound):
        pair.update_critic(PENALTY)
    assert_state(bound.critic.module, state(free.critic.module))


def test_gradients_of_the_update_before_do_not_add_up() -> None:
    fresh, used = Pair(), Pair()
    for weight in used.critic.module.parameters():
        weight.grad = torch.full_like(weight, 1e3)
    for pair in (fresh, used):
        pair.update_critic(PENALTY)
    assert_state(used.critic.module, state(fresh.critic.module))


def test_the_generators_update_raises_its_images_scores() -> None:
    pair = Pair(lr=0.02)
    losses = [pair.update_generator(PENALTY)["generator/loss"] for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


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


def descend(critic: nn.Module, loss: Tensor, lr: float) -> Tensor:
    """One step of gradient descent, written out. Returns the gradient's norm."""
    parameters = list(critic.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(lr * gradient)
    return torch.cat([gradient.flatten() for gradient in gradients]).norm()


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


@ALL
def test_a_joint_update_is_one_step_on_the_sum_of_the_losses(objective: Objective) -> None:
    pair, by_hand = Pair("layer"), Pair("layer")
    critic, (real, latents, uniform) = by_hand.critic.module, critic_batch()
    fake = by_hand.generator.module(latents).detach()
    loss = objective.critic_loss(Scores(critic(real), critic(fake)))
    terms = [term(critic, real, fake, uniform) for term in objective.penalties]
    penalty = torch.stack([torch.zeros(()), *terms]).sum()
    norm = descend(critic, loss + penalty, lr=0.1)

    before = state(pair.critic.module)
    metrics = pair.update_critic(objective)
    moved = change(pair.critic.module, before)
    assert (moved - change(critic, before)).norm() < 1e-5 * moved.norm()
    assert metrics["critic/loss"].item() == pytest.approx((loss + penalty).item(), rel=1e-5, abs=1e-6)
    assert metrics["critic/grad_norm"].item() == pytest.approx(norm.item(), rel=1e-4)
    if objective.penalties:
        assert metrics["critic/penalty"].item() == pytest.approx(penalty.item(), rel=1e-5)


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


@IN_ALL_ROUNDS
def test_an_update_reports_exactly_the_metrics_of_its_objective(objective: Objective, rounds: Rounds) -> None:
    pair = Pair()
    expected = {"critic/real", "critic/fake", "critic/loss", "critic/grad_norm"}
    if objective in (PENALTY, ONE_SIDED):
        expected.add("critic/penalty")
    if objective in (WIDE_BOX, PENALTY, ONE_SIDED):
        expected.add("wasserstein/estimate")
    metrics = pair.update_critic(objective, rounds=rounds)
    assert metrics.keys() == expected
    assert pair.update_generator(objective).keys() == {"generator/loss", "generator/grad_norm"}
    assert all(value.shape == () and not value.requires_grad for value in metrics.values())
    if "wasserstein/estimate" in expected and rounds == "joint":
        assert metrics["wasserstein/estimate"] == metrics["critic/real"] - metrics["critic/fake"]


@IN_ALL_ROUNDS
def test_every_objective_trains_the_critic_and_then_the_generator(
    objective: Objective, rounds: Rounds
) -> None:
    pair = Pair("layer", lr=3e-4)
    losses = [pair.update_critic(objective, rounds=rounds)["critic/loss"].item() for _ in range(8)]
    assert losses[-1] < losses[0]
    before = state(pair.critic.module)
    losses = [pair.update_generator(objective)["generator/loss"].item() for _ in range(8)]
    assert losses[-1] < losses[0]
    assert_state(pair.critic.module, before)


@ALL
def test_the_generators_update_is_one_step_on_its_loss_against_the_critic(objective: Objective) -> None:
    pair, by_hand = Pair("layer"), Pair("layer")
    generator = by_hand.generator.module
    scores = by_hand.critic.module(generator(generator_batch()))
    loss = objective.generator_loss(Scores(torch.empty(0), scores))
    descend(generator, loss, lr=0.1)
    before = state(pair.generator.module)
    metrics = pair.update_generator(objective)
    moved = change(pair.generator.module, before)
    assert moved.norm() > 0
    assert (moved - change(generator, before)).norm() < 1e-5 * moved.norm()
    assert metrics["generator/loss"].item() == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("rounds", ["joint", "alternating"])
def test_batch_norm_has_separate_statistics_of_real_and_generated_images(rounds: Rounds) -> None:
    pair, by_hand = Pair("batch", lr=1e-9), Pair("batch")
    layers: Any = by_hand.critic.module.layers
    first, norm = layers[:3], layers[3]
    assert isinstance(norm, BatchNorm2d)
    real, latents, _ = critic_batch()
    # The kinds are so different that statistics over both together would differ from their own.
    real = real / 10 + 0.9
    fake = by_hand.generator.module(latents).detach()
    maps = [first(images).detach() for images in (real, fake)]
    mean, variance = torch.zeros(norm.num_features), torch.ones(norm.num_features)
    for values in maps:
        mean = 0.9 * mean + 0.1 * values.mean((0, 2, 3))
        variance = 0.9 * variance + 0.1 * values.var((0, 2, 3))
    scores = [by_hand.critic.module(images).mean() for images in (real, fake)]
    mixed = by_hand.critic.module(torch.cat([real, fake])).chunk(2)
    assert abs(scores[0] - mixed[0].mean()) > 0.01 * abs(scores[0])

    metrics = critic_update(
        pair.critic,
        WIDE_BOX,
        CriticBatch(real, draw_fakes(pair.generator.module, latents), torch.zeros(BATCH)),
        UpdatePlan(Plain(), rounds=rounds),
    )
    found = state(pair.critic.module)
    torch.testing.assert_close(found["layers.3.running_mean"], mean)
    torch.testing.assert_close(found["layers.3.running_var"], variance)
    assert found["layers.3.num_batches_tracked"] == 2
    torch.testing.assert_close(metrics["critic/real"], scores[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(metrics["critic/fake"], scores[1], rtol=1e-4, atol=1e-5)


def test_frozen_layers_stay_frozen_after_the_generators_update() -> None:
    pair = Pair("batch")
    critic: Any = pair.critic.module
    kept = [*critic.layers[0].parameters(), critic.score.bias]
    for parameter in kept:
        parameter.requires_grad_(False)
    trainable = {name: parameter.requires_grad for name, parameter in critic.named_parameters()}
    assert 0 < sum(trainable.values()) < len(trainable)
    with frozen(critic):
        assert not any(parameter.requires_grad for parameter in critic.parameters())
    assert {name: parameter.requires_grad for name, parameter in critic.named_parameters()} == trainable
    pair.update_generator(LEAST_SQUARES)
    assert {name: parameter.requires_grad for name, parameter in critic.named_parameters()} == trainable


def test_frozen_layers_keep_their_weights_in_both_updates() -> None:
    pair = Pair("layer")
    critic: Any = pair.critic.module
    frozen_layers: list[Any] = [critic.layers[0], pair.generator.module.project]
    for layer in frozen_layers:
        layer.requires_grad_(False)
    before = [state(layer) for layer in frozen_layers]
    starts = state(pair.critic.module), state(pair.generator.module)
    for rounds in ("joint", "alternating"):
        pair.update_critic(LEAST_SQUARES, rounds=rounds)
        pair.update_generator(LEAST_SQUARES)
    for layer, weights in zip(frozen_layers, before, strict=True):
        assert_state(layer, weights)
    assert change(pair.critic.module, starts[0]).norm() > 0
    assert change(pair.generator.module, starts[1]).norm() > 0


def test_the_generators_update_leaves_spectral_norms_vectors_as_they_were() -> None:
    torch.manual_seed(0)
    pair, options = Pair(), MlpOptions(name="mlp", width=8, layers=2, spectral_norm=True)
    critic = build_critic(options, 16, 1)
    pair.critic = Player(critic, critic, torch.optim.SGD(critic.parameters(), lr=0.1))
    vectors = {name: value.clone() for name, value in critic.named_buffers()}
    assert len(vectors) == 6
    pair.update_generator(HINGE)
    assert all(torch.equal(value, vectors[name]) for name, value in critic.named_buffers())
    pair.update_critic(HINGE)
    assert not all(torch.equal(value, vectors[name]) for name, value in critic.named_buffers())


@pytest.mark.parametrize("rounds", ["joint", "alternating"])
def test_a_critic_updates_batch_may_differ_from_the_generators(rounds: Rounds) -> None:
    half, pair = 3, Pair("layer")
    seen: dict[str, list[int]] = {"critic": [], "generator": []}
    for name, player in (("critic", pair.critic), ("generator", pair.generator)):
        player.module.register_forward_hook(
            lambda _, inputs, output, name=name: seen[name].append(len(inputs[0]))
        )
    pair.update_critic(LEAST_SQUARES, batch=half, rounds=rounds)
    assert seen == {"critic": [half, half], "generator": [half]}
    scores = pair.critic.module(pair.generator.module(generator_batch()))
    expected = LEAST_SQUARES.generator_loss(Scores(torch.empty(0), scores)).item()
    found = pair.update_generator(LEAST_SQUARES)["generator/loss"].item()
    assert found == pytest.approx(expected, rel=1e-5)
    assert seen == {"critic": [half, half, BATCH, BATCH], "generator": [half, BATCH, BATCH]}


@IN_ALL_ROUNDS
def test_a_critics_step_does_not_grow_with_its_batch(objective: Objective, rounds: Rounds) -> None:
    small, large = Pair("layer"), Pair("layer")
    before = state(small.critic.module)
    real, latents, uniform = critic_batch(3)
    images = real, draw_fakes(small.generator.module, latents), uniform
    for pair, times in ((small, 1), (large, 2)):
        reals, fakes, places = (torch.cat([tensor] * times) for tensor in images)
        batch = CriticBatch(reals, fakes, places)
        critic_update(pair.critic, objective, batch, UpdatePlan(Plain(), rounds=rounds))
    moved = change(small.critic.module, before)
    assert moved.norm() > 1e-3
    assert (change(large.critic.module, before) - moved).norm() < 1e-4 * moved.norm()


@pytest.mark.parametrize("batch", [3, 7, 24])
def test_the_bias_of_the_score_does_not_move(batch: int) -> None:
    """Its gradient is exactly 0. RMSprop would make a full step from any other value, even a tiny one."""
    pair = Pair()
    bias = pair.critic.module.get_parameter("score.bias")
    before = bias.clone()
    pair.update_critic(WIDE_BOX, batch=batch)
    assert torch.equal(bias, before)


@pytest.mark.parametrize("largest", [None, 0.01])
@pytest.mark.parametrize("rounds", ["joint", "alternating"])
def test_an_update_moves_the_critic_equally_if_it_is_not_measured(
    rounds: Rounds, largest: float | None
) -> None:
    pairs = [Pair(norm="batch", largest=largest) for _ in range(2)]
    measured, unmeasured = (
        pair.update_critic(
            build_objective(WassersteinOptions(clip=0.5)), rounds=rounds, is_measured=is_measured
        )
        for pair, is_measured in zip(pairs, (True, False), strict=True)
    )
    assert "wasserstein/estimate" in measured
    assert unmeasured == {}
    ours, theirs = (state(pair.critic.module) for pair in pairs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


class Relativistic(Objective):
    """softplus(-(c(real) - c(fake))) and its mirror image (Jolicoeur-Martineau 2018): a loss of pairs of scores."""

    generator_sees_real = True

    def critic_loss(self, scores: Scores) -> Tensor:
        return softplus(scores.fake - scores.real).mean()

    def generator_loss(self, scores: Scores) -> Tensor:
        return softplus(scores.real - scores.fake).mean()


class Bias(nn.Module):
    """A critic: c(x) = w mean(x)."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, inputs: Tensor, float32: bool = False) -> Tensor:
        return self.weight * inputs.flatten(1).mean(1)


class Shift(Bias):
    """A generator of images of one pixel: the latent plus w."""

    def forward(self, inputs: Tensor, float32: bool = False) -> Tensor:
        return (self.weight + inputs)[:, :, None, None]


def player(module: nn.Module) -> Player:
    return Player(module, module, torch.optim.SGD(module.parameters(), lr=1.0))


@pytest.mark.parametrize("micro_batch", [None, 1, 2, 3])
def test_a_pairwise_loss_trains_both_networks_as_its_closed_form_says(micro_batch: int | None) -> None:
    one, other = Bias(0.5), Shift(0.25)
    critic, generator = player(one), player(other)
    real = torch.tensor([1.0, -2.0, 3.0, 0.5, 0.0])
    latents = torch.tensor([0.1, 0.2, -0.3, 0.4, 1.0])
    batch = CriticBatch(
        real[:, None, None, None], generator.module(latents[:, None]).detach(), torch.zeros(5)
    )
    plan = UpdatePlan(Plain(), micro_batch)
    metrics = critic_update(critic, Relativistic(), batch, plan)
    # With d = real - fake, the loss is the mean of log(1 + exp(-w d)), and its slope that of -d sigmoid(-w d).
    difference = real - (0.25 + latents)
    torch.testing.assert_close(metrics["critic/loss"], (1 + torch.exp(-0.5 * difference)).log().mean())
    weight = 0.5 + (difference / (1 + torch.exp(0.5 * difference))).mean()
    torch.testing.assert_close(one.weight.detach(), weight)

    weight_before = one.weight.detach().clone()
    metrics = generator_update(generator, critic.module, Relativistic(), latents[:, None], batch.real, plan)
    torch.testing.assert_close(metrics["generator/loss"], (1 + torch.exp(weight * difference)).log().mean())
    # The images move with the generator's weight one to one, and their scores w times as much.
    moved = (weight / (1 + torch.exp(-weight * difference))).mean()
    torch.testing.assert_close(other.weight.detach(), 0.25 + moved)
    assert torch.equal(one.weight.detach(), weight_before)


def test_reading_real_scores_without_generator_sees_real_fails() -> None:
    class Forgetful(Relativistic):
        generator_sees_real = False

    with pytest.raises(RuntimeError, match="size"):
        Pair().update_generator(Forgetful())


class AbsoluteScore(Penalty):
    """The mean absolute score of the real images, weighted."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, critic: Any, real: Tensor, fake: Tensor, uniform: Tensor) -> Tensor:
        return self.weight * critic(real).abs().mean()


def test_several_penalties_are_added_up() -> None:
    pair, by_hand = Pair(), Pair()
    real, latents, _ = critic_batch()
    with torch.no_grad():
        fake = by_hand.generator.module(latents)
        plain = Wasserstein().critic_loss(Scores(by_hand.critic.module(real), by_hand.critic.module(fake)))
        expected = 5 * by_hand.critic.module(real).abs().mean()
    metrics = pair.update_critic(Wasserstein(penalties=(AbsoluteScore(2.0), AbsoluteScore(3.0))))
    torch.testing.assert_close(metrics["critic/penalty"], expected)
    torch.testing.assert_close(metrics["critic/loss"], plain + expected)


@pytest.mark.parametrize(
    ("objective", "reason"),
    [
        (Relativistic(), "the objective Relativistic, whose loss compares the scores of real and generated"),
        (PENALTY, r"the objective Wasserstein, whose penalty \(GradientPenalty\) needs real and generated"),
    ],
)
def test_alternating_rounds_of_a_loss_that_needs_both_kinds_are_refused(
    objective: Objective, reason: str
) -> None:
    with pytest.raises(ConfigError, match=f"critic_rounds: alternating cannot be used with {reason}"):
        Pair().update_critic(objective, rounds="alternating")
