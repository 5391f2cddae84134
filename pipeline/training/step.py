"""One step of a run: its critic updates on fresh batches, and its generator update."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.data.reading.loader import Staged
from pipeline.models.norms import can_be_grouped
from pipeline.noise import Noise, Purpose, RankRows
from pipeline.objectives import Metrics, Objective
from pipeline.options import Config
from pipeline.phases import phase
from pipeline.ranks.runtime import Runtime
from pipeline.training.ema import ema_weight, update_ema
from pipeline.training.schedule import critic_updates_at
from pipeline.training.state import TrainingState, optimizer_tensors, set_learning_rate
from pipeline.training.updates import CriticBatch, critic_update, draw_fakes, generator_update

UPDATES_AT_ONCE = 5
"""Critic updates whose generated images are drawn in one pass: a burst's hundred would need too much memory."""


@dataclass
class TrainingStep:
    """What a step of one rank works on. Every rank takes part in each."""

    config: Config
    runtime: Runtime
    state: TrainingState
    objective: Objective
    noise: Noise
    rows: RankRows
    critic_rows: RankRows
    to_images: Callable[[Staged], Tensor]

    def take(self, batches: Iterator[Staged]) -> tuple[Metrics, CriticBatch]:
        """Move both networks, the average and the counters on by one step.

        Returns metrics, as 0-d tensors, and what the last critic update saw, when the critic is at its best.
        """
        updates = critic_updates_at(self.state.counters.step, self.config.schedule)
        self._set_learning_rates()
        metrics, seen = self._train(batches, updates)
        self.state.counters.position += updates * self.config.schedule.real_images
        self.state.counters.step += 1
        return metrics, seen

    def rehearse(self, image_shape: tuple[int, int, int]) -> None:
        """Both updates on blank images (channels, height, width), without a trace, on a state at step 0.

        DDP settles the order of its gradient buckets on the first backward pass. Settled here, it is the
        same for a run that starts and for one that resumes, and so is every rounding. What does not fit into
        memory fails here too, before any long work; and the optimizers' state takes its final shape.
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
        most = max(updates, bursts.critic_updates if bursts else 0)
        self._update_critic(
            CriticBatch(blank, *next(self._fakes(min(most, UPDATES_AT_ONCE)))), is_measured=True
        )
        self._train_generator(updates=1)
        for player, weights in zip((generator, critic), before, strict=True):
            player.module.load_state_dict(weights)
            player.optimizer.zero_grad(set_to_none=True)
            # Zeros are what RMSprop and Adam start from.
            torch._foreach_zero_(list(optimizer_tensors(player).values()))
        self.runtime.restore_scaler(scaler)

    def _set_learning_rates(self) -> None:
        step, steps = self.state.counters.step, self.config.schedule.steps
        set_learning_rate(self.state.critic, self.config.critic_optimizer, step, steps)
        set_learning_rate(self.state.generator, self.config.generator_optimizer, step, steps)

    def _train(self, batches: Iterator[Staged], updates: int) -> tuple[Metrics, CriticBatch]:
        """All updates of both networks, and of the average."""
        for update, (fake, uniform) in enumerate(self._fakes(updates), start=1):
            staged = next(batches)
            with phase("data"):
                seen = CriticBatch(self.to_images(staged), fake, uniform)
            # Of the critic at its best; the others would cost time, and nobody would see them.
            metrics = self._update_critic(seen, is_measured=update == updates)
        metrics |= self._train_generator(updates)
        with phase("averaging"):
            self._average()
        return metrics, seen

    def _fakes(self, updates: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Generated images and uniform numbers for each critic update, those of several drawn in one pass."""
        generator, micro_batch = self.state.generator.module, self.config.schedule.micro_batch
        at_once = UPDATES_AT_ONCE if micro_batch is None and can_be_grouped(generator) else 1
        for first in range(0, updates, at_once):
            drawn = [
                self._draw(Purpose.CRITIC, self.critic_rows, update)
                for update in range(first, min(first + at_once, updates))
            ]
            latents = torch.cat([latents for latents, _ in drawn])
            with phase("fakes"):
                fakes = draw_fakes(generator, latents, micro_batch, batches=len(drawn))
            yield from zip(
                torch.split(fakes, self.critic_rows.count), [uniform for _, uniform in drawn], strict=True
            )

    def _update_critic(self, seen: CriticBatch, is_measured: bool) -> Metrics:
        return critic_update(
            self.state.critic,
            self.objective,
            *seen,
            self.runtime,
            self.config.schedule.micro_batch,
            self.config.schedule.critic_rounds,
            is_measured,
        )

    def _train_generator(self, updates: int) -> Metrics:
        """The generator update, after so many critic updates."""
        if self.config.schedule.reuse_fakes:
            # Equal latents through an unchanged generator are the last critic update's images again.
            latents, _ = self._draw(Purpose.CRITIC, self.critic_rows, updates - 1)
        else:
            latents, _ = self._draw(Purpose.GENERATOR, self.rows)
        return generator_update(
            self.state.generator,
            self.state.critic.module,
            self.objective,
            latents,
            self.runtime,
            self.config.schedule.micro_batch,
        )

    def _draw(self, purpose: Purpose, rows: RankRows, update: int = 0) -> tuple[Tensor, Tensor]:
        """This step's latents and uniform numbers."""
        with phase("latents"):
            return self.noise.draw(purpose, self.state.counters.step, update, rows, self.config.model.latent)

    def _average(self) -> None:
        state = self.state
        if not self.config.model.sync_batch_norm:
            self.runtime.average_buffers(state.generator.module)
            self.runtime.average_buffers(state.critic.module)
        update_ema(state.ema, state.generator.module, self._ema_weight())

    def _ema_weight(self) -> float | Tensor:
        """How far the average moves at the end of this step."""
        return ema_weight(self.config.ema_decay, self.state.counters.step + 1)
