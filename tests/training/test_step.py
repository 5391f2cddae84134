"""A step as a function of its inputs, and the inputs as a function of the state's counters."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.data.reading.loader import RealBatch, Staged
from pipeline.errors import ConfigError
from pipeline.models import build_critic, build_generator
from pipeline.noise import Noise, Purpose, RankRows
from pipeline.objectives import Objective, Scores, build_objective
from pipeline.objectives.clipping import WeightClipping
from pipeline.options import Config
from pipeline.profiling.flops import SingleProcess
from pipeline.training.graphed_step import fixed, refill
from pipeline.training.state import TrainingState, build_optimizer
from pipeline.training.step import StepInputs, StepParts, TrainingStep, check_objective, take_step
from pipeline.training.updates import Player, UpdatePlan

LATENT, BATCH, SIDE, BURST = 4, 3, 4, 100


def config(**sections: Any) -> Config:
    schedule = {"steps": 40, "global_batch": BATCH, **sections.pop("schedule", {})}
    model = {"name": "mlp", "latent": LATENT, "width": 8, "layers": 1}
    content = {"name": "run", "data": {"shards": "x"}, "model": model, "schedule": schedule, **sections}
    return Config.model_validate(content)


def player(network: nn.Module, options: Any) -> Player:
    return Player(network, network, build_optimizer(network, options))


def plain(staged: Staged) -> RealBatch:
    return RealBatch(staged.content, staged.labels)


def training_step(found: Config, to_batch: Any = plain) -> TrainingStep:
    """A step in one process, on real images that are floats already."""
    torch.manual_seed(0)
    generator, critic = build_generator(found.model, SIDE, 1), build_critic(found.model, SIDE, 1)
    state = TrainingState(
        player(generator, found.generator_optimizer),
        player(critic, found.critic_optimizer),
        build_generator(found.model, SIDE, 1),
    )
    runtime: Any = SingleProcess()
    runtime.average_buffers, runtime.step_arithmetic = lambda module: None, nullcontext
    rows = RankRows.of_rank(0, 1, BATCH)
    noise = Noise(5, torch.device("cpu"))
    objective = build_objective(found.objective)
    return TrainingStep(found, runtime, state, objective, noise, rows, rows, to_batch)


def batches() -> Iterator[Staged]:
    generator = torch.Generator().manual_seed(1)
    while True:
        yield Staged(torch.rand(BATCH, 1, SIDE, SIDE, generator=generator), None)


def test_a_burst_holds_one_batch_of_floats_at_a_time() -> None:
    alive: list[int] = []
    made: weakref.WeakSet[Tensor] = weakref.WeakSet()

    def to_batch(staged: Staged) -> RealBatch:
        images = staged.content * 2 - 1
        made.add(images)
        alive.append(len(made))
        return RealBatch(images, None)

    step = training_step(config(schedule={"bursts": {"first_steps": 1, "critic_updates": BURST}}), to_batch)
    gc.disable()
    try:
        step.take(batches())
    finally:
        gc.enable()
    assert len(alive) == BURST
    # The batch of the update before is still there when the next one is made.
    assert max(alive) <= 2


def test_a_step_takes_no_more_batches_than_it_has_critic_updates() -> None:
    taken: list[int] = []

    def counted() -> Iterator[Staged]:
        for number, staged in enumerate(batches()):
            taken.append(number)
            yield staged

    step = training_step(config(schedule={"critic_updates": 3}))
    source = counted()
    for steps in (1, 2):
        step.take(source)
        assert taken == list(range(3 * steps))
        assert step.state.counters.step == steps
        assert step.state.counters.position == 3 * steps * BATCH


def test_inputs_are_those_of_the_states_step() -> None:
    found = config(
        schedule={"critic_updates": 2, "bursts": {"first_steps": 0, "every": 10, "critic_updates": 7}},
        critic_optimizer={"name": "rmsprop", "lr": 0.4, "decay": "linear"},
        ema_decay=0.5,
    )
    step, noise = training_step(found), Noise(5, torch.device("cpu"))
    for number, updates in ((10, 7), (11, 2)):
        step.state.counters.step = number
        inputs = step.inputs(batches())
        assert inputs.updates == updates
        assert inputs.critic_lr == pytest.approx(0.4 * (1 - number / 40))
        assert inputs.generator_lr == found.generator_optimizer.lr
        assert inputs.ema_weight == 0.5
        draws = list(inputs.draws)
        assert len(draws) == len(list(inputs.batches)) == updates
        for update, draw in enumerate(draws):
            expected = noise.draw(Purpose.CRITIC, number, update, step.rows, LATENT)
            assert torch.equal(draw.latents, expected.latents)
            assert torch.equal(draw.uniform, expected.uniform)
        latents = noise.draw(Purpose.GENERATOR, number, 0, step.rows, LATENT).latents
        assert torch.equal(inputs.generator_draw.latents, latents)


def test_reused_fakes_are_those_of_the_last_critic_update() -> None:
    step = training_step(config(schedule={"critic_updates": 3, "reuse_fakes": True}))
    inputs = step.inputs(batches())
    assert torch.equal(inputs.generator_draw.latents, list(inputs.draws)[-1].latents)


def test_a_step_is_a_function_of_its_inputs_and_of_nothing_else() -> None:
    """Two runs at different steps get the same inputs."""
    steps = [training_step(config()) for _ in range(2)]
    steps[1].state.counters.step = 17
    inputs = steps[0].inputs(batches())
    inputs = fixed(inputs, torch.device("cpu"))
    results = [take_step(step.parts, inputs) for step in steps]
    ours, theirs = (step.state.flat_tensors() for step in steps)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all(torch.equal(results[0][0][name], results[1][0][name]) for name in results[0][0])


def numbers(inputs: StepInputs) -> Iterator[Any]:
    """Everything in the inputs except the number of updates."""
    waiting = list(inputs[1:])
    while waiting:
        value = waiting.pop()
        if isinstance(value, (list, tuple)):
            waiting += value
        else:
            yield value


def test_fixed_inputs_are_tensors_that_keep_their_address() -> None:
    step = training_step(config(critic_optimizer={"name": "rmsprop", "lr": 0.5, "decay": "linear"}))
    source = batches()
    places = fixed(step.inputs(source), torch.device("cpu"))
    held = [value for value in numbers(places) if value is not None]
    assert all(isinstance(value, Tensor) for value in held)
    addresses = [value.data_ptr() for value in held]
    step.state.counters.step = 9
    refill(places, step.inputs(source))
    assert [value.data_ptr() for value in held] == addresses
    expected, again = batches(), step.inputs(batches())
    for _ in range(5):
        next(expected)
    for staged in places.batches:
        assert torch.equal(staged.content, next(expected).content)
    for place, draw in zip(places.draws, again.draws, strict=True):
        assert torch.equal(place.latents, draw.latents)
        assert torch.equal(place.uniform, draw.uniform)
    assert torch.equal(places.generator_draw.latents, again.generator_draw.latents)
    assert places.critic_lr == torch.tensor(again.critic_lr)
    assert places.ema_weight == torch.tensor(again.ema_weight)


class Paired(Objective):
    """An objective whose generator's loss compares pairs."""

    generator_sees_real = True

    def critic_loss(self, scores: Scores) -> Tensor:
        return (scores.fake - scores.real).mean()

    def generator_loss(self, scores: Scores) -> Tensor:
        return (scores.real - scores.fake).relu().mean()


def test_a_pairwise_generators_loss_gets_the_last_updates_real_images() -> None:
    step, seen = training_step(config()), []

    class Looking(Paired):
        def generator_loss(self, scores: Scores) -> Tensor:
            seen.append(scores.real.detach())
            return super().generator_loss(scores)

    parts = StepParts(
        step.parts.generator, step.parts.critic, Looking(), UpdatePlan(SingleProcess()), step.to_batch
    )
    _, last = take_step(parts, step.inputs(batches()))
    (scores,) = seen
    assert torch.equal(scores, step.parts.critic.module(last.real).detach())


@pytest.mark.parametrize("critic_batch", [2 * BATCH, 1])
def test_pairs_of_a_critic_batch_of_another_size_are_refused(critic_batch: int) -> None:
    found = config(schedule={"critic_batch": critic_batch})
    with pytest.raises(
        ConfigError, match=rf"critic_batch: {critic_batch} cannot be used with the objective Paired"
    ):
        check_objective(Paired(), found)
    check_objective(build_objective(found.objective), found)
    check_objective(Paired(), config())


def test_alternating_rounds_of_pairs_are_refused_when_the_run_is_built() -> None:
    with pytest.raises(ConfigError, match="Use joint"):
        check_objective(Paired(), config(schedule={"critic_rounds": "alternating"}))


class Boxed(Paired):
    """An objective of a user's own that clips weights."""

    constraint = WeightClipping(0.03)


def test_spectral_norm_is_refused_with_clipping_of_a_plugin() -> None:
    normed = config(model={"name": "mlp", "spectral_norm": True})
    with pytest.raises(ConfigError, match=r"spectral_norm: .* objective Boxed, .*\[-0\.03, 0\.03\]"):
        check_objective(Boxed(), normed)
    check_objective(Paired(), normed)
    check_objective(Boxed(), config())


def test_a_warm_up_step_that_float16_skips_leaves_no_state_and_no_error() -> None:
    step = training_step(config())
    runtime: Any = step.runtime
    runtime.device, runtime.scaler_state = torch.device("cpu"), dict
    runtime.restore_scaler = lambda state: None
    for one in (step.state.generator, step.state.critic):
        one.optimizer.step = lambda closure=None: None  # type: ignore[method-assign, assignment]
    step.warm_up((1, SIDE, SIDE))
    assert not step.state.critic.optimizer.state
