"""One step of a run: a function of its inputs, and what builds these inputs.

    schedules, noise, batches  --TrainingStep.inputs-->  StepInputs  --take_step-->  metrics, last critic batch

Everything that depends on the step's number is decided on the host before `take_step`, which reads nothing else. So the
same function can run as it is, be captured as a CUDA graph (graphed_step.py), be counted (profiling/flops.py) and be
timed alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.data.reading.loader import RealBatch, Staged
from pipeline.errors import ConfigError
from pipeline.models.norms import can_be_grouped
from pipeline.noise import Draw, Noise, Purpose, RankRows, labels_from
from pipeline.objectives import Metrics, Objective, Penalty, as_separable
from pipeline.options import Config
from pipeline.phases import phase
from pipeline.ranks.runtime import Runtime
from pipeline.training.augmentation import ADAPT_EVERY, NUMBERS, Augmentation, augment
from pipeline.training.ema import decay_of, ema_weight, update_ema
from pipeline.training.schedule import critic_updates_at, due_penalties, learning_rate
from pipeline.training.state import TrainingState, optimizer_tensors, set_learning_rate
from pipeline.training.updates import (
    EVERYTHING,
    Change,
    CriticBatch,
    GeneratorBatch,
    Player,
    UpdatePlan,
    as_they_are,
    critic_update,
    draw_fakes,
    generator_update,
)

UPDATES_AT_ONCE = 5
"""Critic updates whose generated images are drawn in one pass: a burst of 100 would need too much memory."""


class StepInputs(NamedTuple):
    """Everything that changes from step to step. In a captured step every number is a 0-d tensor on the device."""

    updates: int
    """How many critic updates come first."""
    penalties: Sequence[tuple[Penalty, ...]]
    """The penalties that each critic update has."""
    batches: Iterable[Staged]
    """The real images of each critic update, taken only when their update begins."""
    draws: Iterable[Draw]
    """The random numbers of each critic update, taken a few updates ahead."""
    generator_draw: Draw
    """The random numbers of the generator's update."""
    critic_lr: float | Tensor
    generator_lr: float | Tensor
    ema_weight: float | Tensor
    """How far the moving average moves towards the generator, in [0, 1]."""
    augmentation_probability: float | Tensor = 0.0


@dataclass(frozen=True)
class StepParts:
    """What a step works on: the same for all steps of a run."""

    generator: Player
    critic: Player
    objective: Objective
    plan: UpdatePlan
    to_batch: Callable[[Staged], RealBatch]
    """The images of a batch and their labels, on the device."""
    ema: nn.Module | None = None
    """The generator's moving average, or None to keep none."""
    augment: Callable[[Tensor, Tensor, float | Tensor], Tensor] | None = None
    """Changes images, with the numbers of each and a probability, before the critic sees them; None changes none."""
    average_buffers: Callable[[nn.Module], None] | None = None
    """Gives all ranks the mean of their buffers after each step, or None if all ranks have the same."""


Fakes = tuple[Tensor, Draw]
"""Generated images of a critic update, float32 (batch, channels, height, width), and its random numbers."""
Result = tuple[Metrics, CriticBatch]
"""Metrics as 0-d tensors, and the images of the last critic update, when the critic is nearest its optimum."""


def take_step(parts: StepParts, inputs: StepInputs) -> Result:
    """All critic updates, the generator's update and the moving average, in place."""
    set_learning_rate(parts.critic, inputs.critic_lr)
    set_learning_rate(parts.generator, inputs.generator_lr)
    metrics, seen = train_critic(parts, inputs)
    metrics |= train_generator(parts, inputs, seen)
    with phase("averaging"):
        if parts.average_buffers is not None:
            parts.average_buffers(parts.generator.module)
            parts.average_buffers(parts.critic.module)
        if parts.ema is not None:
            update_ema(parts.ema, parts.generator.module, inputs.ema_weight)
    return metrics, seen


def train_critic(parts: StepParts, inputs: StepInputs) -> Result:
    """All critic updates of a step. The metrics are those of the last."""
    draws, fakes = iter(inputs.draws), deque[Fakes]()
    updates = zip(inputs.batches, inputs.penalties, strict=True)
    for update, (staged, penalties) in enumerate(updates, start=1):
        with phase("data"):
            real = parts.to_batch(staged)
        if not fakes:
            fakes.extend(draw_next_fakes(parts, draws, real.labels))
        fake, draw = fakes.popleft()
        plain = CriticBatch(real.images, fake, draw.uniform, real.labels)
        of_real, of_fake = changes(parts, inputs, draw)
        # As in the generator's update, what the critic sees is made of images in the forward pass.
        with phase("forward"):
            seen = plain._replace(real=of_real(plain.real), fake=of_fake(plain.fake))
        # Only the last update is measured: it has the critic nearest its optimum, and measuring takes time.
        is_last = update == inputs.updates
        metrics = critic_update(parts.critic, parts.objective, seen, parts.plan, is_last, penalties)
    return metrics, plain


def train_generator(parts: StepParts, inputs: StepInputs, seen: CriticBatch) -> Metrics:
    """The generator's update. `seen` is the batch of the last critic update before it."""
    draw = inputs.generator_draw
    of_real, of_fake = changes(parts, inputs, draw)
    real = of_real(seen.real) if parts.objective.generator_sees_real else seen.real
    labels = seen.labels if draw.labels is None else draw.labels
    batch = GeneratorBatch(draw.latents, real, of_fake, labels)
    return generator_update(parts.generator, parts.critic.module, parts.objective, batch, parts.plan)


def changes(parts: StepParts, inputs: StepInputs, draw: Draw) -> tuple[Change, Change]:
    """How the critic sees real images of an update and generated ones: as they are, or augmented with its numbers."""
    if parts.augment is None or draw.augmentation is None:
        return as_they_are, as_they_are

    def change(images: Tensor, part: slice = EVERYTHING, *, numbers: Tensor) -> Tensor:
        assert parts.augment is not None
        return parts.augment(images, numbers[part], inputs.augmentation_probability)

    of_real, of_fake = draw.augmentation.chunk(2, dim=1)
    return partial(change, numbers=of_real), partial(change, numbers=of_fake)


def draw_next_fakes(parts: StepParts, draws: Iterator[Draw], labels: Tensor | None) -> Iterator[Fakes]:
    """Generated images and random numbers of the next critic update, and of more if one pass can draw them together.

    `labels` are those of the next update's real images, which its generated images have too: so the points between
    them, and pairs, are within a class. Those of later updates are not known yet.
    """
    generator, micro_batch = parts.generator.module, parts.plan.micro_batch
    can_be_together = labels is None and micro_batch is None and can_be_grouped(generator)
    drawn = list(islice(draws, UPDATES_AT_ONCE if can_be_together else 1))
    latents = torch.cat([draw.latents for draw in drawn])
    with phase("fakes"):
        fakes = draw_fakes(generator, latents, labels, micro_batch, batches=len(drawn))
    return zip(torch.split(fakes, len(drawn[0].latents)), drawn, strict=True)


@dataclass
class TrainingStep:
    """Takes a run's steps, one after the other, on one rank. Every rank takes part in each.

    Raises ConfigError if the objective cannot be trained with the schedule.
    """

    config: Config
    runtime: Runtime
    state: TrainingState
    objective: Objective
    noise: Noise
    rows: RankRows
    critic_rows: RankRows
    to_batch: Callable[[Staged], RealBatch]
    class_shares: Tensor | None = None
    """How frequent each class is in the training images, float64 (classes,); None without classes."""
    parts: StepParts = field(init=False)
    run: Callable[[StepInputs], Result] = field(init=False)
    """`take_step` on this run's parts, or a `GraphedStep`, which captures it."""

    def __post_init__(self) -> None:
        check_objective(self.objective, self.config)
        schedule, state = self.config.schedule, self.state
        self.parts = StepParts(
            generator=state.generator,
            critic=state.critic,
            objective=self.objective,
            plan=UpdatePlan(
                self.runtime, schedule.micro_batch, schedule.critic_rounds, self._adapts is not None
            ),
            to_batch=self.to_batch,
            augment=partial(augment, kinds=self.config.augment.kinds) if self.state.augmentation else None,
            ema=state.ema,
            average_buffers=None if self.config.model.sync_batch_norm else self.runtime.average_buffers,
        )
        self.run = partial(take_step, self.parts)

    @property
    def updates(self) -> int:
        """How many critic updates, and so batches, the state's next step has."""
        return critic_updates_at(self.state.counters.step, self.config.schedule)

    def take(self, batches: Iterator[Staged]) -> Result:
        """Move both networks, the average and the counters by one step."""
        inputs = self.inputs(batches)
        with self.runtime.step_arithmetic():
            result = self.run(inputs)
        counters, images = self.state.counters, inputs.updates * self.config.schedule.real_images
        counters.position += images
        counters.step += 1
        return result if self._adapts is None else self._adapted(self._adapts, result, images)

    def _adapted(self, augmentation: Augmentation, result: Result, images: int) -> Result:
        """Adapt the probability if it is time, after a step on so many real images; it is logged with the metrics."""
        metrics, seen = result
        if self.state.counters.step % ADAPT_EVERY == 0:
            augmentation.adapt(self.runtime.mean(metrics["critic/real_higher"].clone()), ADAPT_EVERY * images)
        return {**metrics, "augmentation/probability": augmentation.probability.clone()}, seen

    @property
    def _adapts(self) -> Augmentation | None:
        """The augmentation, if its probability is adapted."""
        augmentation = self.state.augmentation
        return augmentation if augmentation is not None and augmentation.is_adapted else None

    def inputs(self, batches: Iterator[Staged]) -> StepInputs:
        """The inputs of the state's next step; its batches and random numbers come from iterators."""
        step, schedule = self.state.counters.step, self.config.schedule
        updates, position = self.updates, self.state.counters.position
        batch, progress = updates * schedule.real_images, step / schedule.steps
        half_life = self.config.ema_half_life
        decay = self.config.ema_decay if half_life is None else decay_of(half_life, batch)
        augmentation = self.state.augmentation
        return StepInputs(
            updates=updates,
            penalties=due_penalties(self.objective.penalties, position // schedule.real_images, updates),
            batches=islice(batches, updates),
            draws=self._critic_draws(step, updates),
            generator_draw=self._generator_draw(step, updates),
            critic_lr=learning_rate(self.config.critic_optimizer, progress, position, batch),
            generator_lr=learning_rate(self.config.generator_optimizer, progress, position, batch),
            ema_weight=ema_weight(decay, step + 1),
            augmentation_probability=0.0 if augmentation is None else augmentation.probability,
        )

    def warm_up(self, image_shape: tuple[int, int, int]) -> None:
        """Both updates on blank images (channels, height, width), undone afterwards, on a state at step 0.

        DDP decides the order of its gradient buckets in the first backward pass. After a warm-up step it is the same
        in a run that starts and in one that resumes, and so is every rounding error. If memory is too small, this
        fails before any long work; and the optimizers' state gets its final shape.
        """
        generator, critic = self.state.generator, self.state.critic
        before = [
            {k: v.clone() for k, v in player.module.state_dict().items()} for player in (generator, critic)
        ]
        scaler = self.runtime.scaler_state()
        # At its first scale float16 overflows on purpose, and a skipped step would leave no optimizer state.
        self.runtime.restore_scaler({**scaler, "scale": 1.0})
        blank = torch.zeros(self.critic_rows.count, *image_shape, device=self.runtime.device)
        bursts, updates = self.config.schedule.bursts, self.config.schedule.critic_updates
        most = min(max(updates, bursts.critic_updates if bursts else 0), UPDATES_AT_ONCE)
        inputs, labels = self.inputs(iter([])), None
        if self.class_shares is not None:
            labels = torch.zeros(self.critic_rows.count, dtype=torch.int64, device=self.runtime.device)
        with self.runtime.step_arithmetic():
            fake, draw = next(draw_next_fakes(self.parts, self._critic_draws(0, most), labels))
            seen = CriticBatch(blank, fake, draw.uniform, labels)
            critic_update(critic, self.objective, seen, self.parts.plan)
            train_generator(self.parts, inputs, seen)
        for player, weights in zip((generator, critic), before, strict=True):
            player.module.load_state_dict(weights)
            player.optimizer.zero_grad(set_to_none=True)
            # RMSprop and Adam start from zeros. A step that float16 skipped leaves no state, and no list may be empty.
            if state := list(optimizer_tensors(player).values()):
                torch._foreach_zero_(state)
        self.runtime.restore_scaler(scaler)

    def _critic_draws(self, step: int, updates: int) -> Iterator[Draw]:
        for update in range(updates):
            draw = self._draw(Purpose.CRITIC, step, update, self.critic_rows)
            yield self._with_augmentation(draw, Purpose.CRITIC_AUGMENTATION, step, update, self.critic_rows)

    def _generator_draw(self, step: int, updates: int) -> Draw:
        if self.config.schedule.reuse_fakes:
            # The same latents, and a generator that has not changed since, give the last critic update's images again.
            draw = self._draw(Purpose.CRITIC, step, updates - 1, self.critic_rows)
        else:
            draw = self._draw(Purpose.GENERATOR, step, 0, self.rows)._replace(labels=self._labels(step))
        return self._with_augmentation(draw, Purpose.GENERATOR_AUGMENTATION, step, 0, self.rows)

    def _labels(self, step: int) -> Tensor | None:
        """Labels of the generator's images; None without classes, or if they are those of real images beside them."""
        if self._label_shares is None or self.objective.generator_sees_real:
            return None
        uniform = self.noise.uniform(Purpose.LABELS, step, 0, self.rows, 1)[:, 0]
        return labels_from(uniform, self._label_shares)

    @cached_property
    def _label_shares(self) -> Tensor | None:
        """How frequent each class is to be among generated images."""
        if self.class_shares is None:
            return None
        shares = self.class_shares.to(self.runtime.device)
        return torch.full_like(shares, 1 / len(shares)) if self.config.model.labels == "uniform" else shares

    def _draw(self, purpose: Purpose, step: int, update: int, rows: RankRows) -> Draw:
        with phase("latents"):
            return self.noise.draw(purpose, step, update, rows, self.config.model.latent)

    def _with_augmentation(
        self, draw: Draw, purpose: Purpose, step: int, update: int, rows: RankRows
    ) -> Draw:
        if self.state.augmentation is None:
            return draw
        return draw._replace(augmentation=self.noise.uniform(purpose, step, update, rows, 2 * NUMBERS))


def check_objective(objective: Objective, config: Config) -> None:
    """Raise ConfigError if the objective cannot be trained with the schedule."""
    schedule = config.schedule
    if schedule.critic_rounds == "alternating":
        as_separable(objective)
    if config.model.critic_norm == "batch" and any(penalty.is_per_sample for penalty in objective.penalties):
        raise ConfigError(
            f"model.critic_norm: batch norm does not work with the objective {type(objective).__name__}. Its "
            "penalty is on the gradient of each sample alone, and batch norm makes it depend on the other samples. Use "
            "none, layer or instance."
        )
    constraint = objective.constraint
    if config.model.spectral_norm and constraint is not None and constraint.half_width is not None:
        raise ConfigError(
            f"model.spectral_norm: does not work with the objective {type(objective).__name__}, whose constraint holds "
            f"the critic's weights in [-{constraint.half_width:g}, {constraint.half_width:g}]: spectral norm scales "
            "them up again. Set it to false, or use an objective without such a constraint."
        )
    if objective.generator_sees_real and config.model.labels == "uniform":
        raise ConfigError(
            f"model.labels: uniform cannot be used with the objective {type(objective).__name__}, whose generator's "
            "loss compares images with the real images beside them, and so has their labels. Leave it out."
        )
    if objective.generator_sees_real and schedule.real_images != schedule.global_batch:
        raise ConfigError(
            f"schedule.critic_batch: {schedule.critic_batch} cannot be used with the objective "
            f"{type(objective).__name__}, whose generator's loss pairs each of the {schedule.global_batch} generated "
            "images (schedule.global_batch) with a real image of the last critic update. Leave schedule.critic_batch "
            "out."
        )
