"""The training loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.checkpoint import prune
from pipeline.data.loader import Loader
from pipeline.digest import differing, digest
from pipeline.ema import update_ema
from pipeline.errors import DivergenceError, StopRequested, StorageError
from pipeline.models.norms import has_running_statistics
from pipeline.monitor.console import say_warning
from pipeline.noise import Noise, Purpose, Slice
from pipeline.objectives import Metrics, Objective
from pipeline.observer import Observer
from pipeline.options import Config
from pipeline.phases import phase
from pipeline.profiling import StepProfiler
from pipeline.resume import save_run
from pipeline.runtime import Runtime
from pipeline.schedule import critic_updates_at, is_due
from pipeline.state import TrainingState, optimizer_tensors, set_learning_rate
from pipeline.steps import critic_update, draw_fakes, generator_update
from pipeline.stopping import StopSignals

SAVES_THAT_MAY_FAIL = 2
UPDATES_AT_ONCE = 8
"""Critic updates whose generated images are drawn in one pass: a burst's hundred would need too much memory."""


@dataclass
class Trainer:
    """One run on one rank: what the loop works on, already built and restored."""

    config: Config
    runtime: Runtime
    state: TrainingState
    objective: Objective
    loader: Loader
    noise: Noise
    rows: Slice
    critic_rows: Slice
    observer: Observer
    checkpoints: Path
    identity: dict[str, Any]
    stop: StopSignals
    profiler: StepProfiler | None
    failed_saves: int = field(default=0, init=False)

    def train(self) -> None:
        """Run from the state's step to the last. Raises StopRequested once a requested stop is saved."""
        schedule, counters = self.config.schedule, self.state.counters
        batches = self.loader.batches(counters.position)
        self.observer.recorder.restart_clock()
        with self.profiler or nullcontext():
            while not self.is_complete:
                stop_vote = self.runtime.vote(self.stop.received is not None)
                updates = critic_updates_at(counters.step, schedule)
                self._set_learning_rates()
                metrics, real = self._train_critic(batches, updates)
                metrics |= self._train_generator(updates)
                with phase("averaging"):
                    self._finish_step()
                self.observer.recorder.add(metrics, images=updates * schedule.real_images)
                with phase("logging"):
                    is_best = self.observer.watch(real)
                with phase("digest"):
                    self._keep_ranks_equal()
                with phase("saving"):
                    self._save(is_best, is_stopping=stop_vote())
                if self.profiler is not None:
                    with self.observer.recorder.paused():
                        self.profiler.after_step(counters.step)

    @property
    def is_complete(self) -> bool:
        """Whether all steps are done, or no better samples came for as long as the run may wait."""
        return self.state.counters.step >= self.config.schedule.steps or self.observer.is_exhausted

    def rehearse(self) -> None:
        """One step on blank images that leaves no trace, on a state at step 0.

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
        blank = torch.zeros(self.critic_rows.count, *self.loader.image_shape, device=self.runtime.device)
        self._update_critic(blank, *next(self._fakes(updates=1)))
        self._train_generator(updates=1)
        for player, weights in zip((generator, critic), before, strict=True):
            player.module.load_state_dict(weights)
            player.optimizer.zero_grad(set_to_none=True)
            # Zeros are what RMSprop and Adam start from.
            torch._foreach_zero_(list(optimizer_tensors(player).values()))
        self.runtime.restore_scaler(scaler)

    def _train_critic(self, batches: Iterator[Tensor], updates: int) -> tuple[Metrics, Tensor]:
        """The step's critic updates. Returns metrics and images of the last, when the critic is at its best."""
        for fake, uniform in self._fakes(updates):
            with phase("data"), self.observer.recorder.waiting_for_data():
                real = next(batches)
            metrics = self._update_critic(real, fake, uniform)
            self.state.counters.position += self.config.schedule.real_images
        return metrics, real

    def _fakes(self, updates: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Generated images and uniform numbers for each critic update.

        The images of several are drawn in one pass, unless batch norm makes each depend on its batch.
        """
        generator = self.state.generator.module
        at_once = 1 if has_running_statistics(generator) else UPDATES_AT_ONCE
        for first in range(0, updates, at_once):
            drawn = [
                self._draw(Purpose.CRITIC, self.critic_rows, update)
                for update in range(first, min(first + at_once, updates))
            ]
            latents = torch.cat([latents for latents, _ in drawn])
            with phase("fakes"):
                fakes = draw_fakes(generator, latents, self.config.schedule.micro_batch)
            yield from zip(
                torch.split(fakes, self.critic_rows.count), [uniform for _, uniform in drawn], strict=True
            )

    def _update_critic(self, real: Tensor, fake: Tensor, uniform: Tensor) -> Metrics:
        return critic_update(
            self.state.critic,
            self.objective,
            real,
            fake,
            uniform,
            self.runtime,
            self.config.schedule.micro_batch,
            self.config.schedule.critic_rounds,
        )

    def _draw(self, purpose: Purpose, rows: Slice, update: int = 0) -> tuple[Tensor, Tensor]:
        """This step's latents and uniform numbers."""
        with phase("latents"):
            return self.noise.draw(purpose, self.state.counters.step, update, rows, self.config.model.latent)

    def _train_generator(self, updates: int) -> Metrics:
        """The step's generator update, after so many critic updates."""
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

    def _finish_step(self) -> None:
        if not self.config.model.sync_batch_norm:
            self.runtime.average_buffers(self.state.generator.module)
            self.runtime.average_buffers(self.state.critic.module)
        self.state.counters.step += 1
        update_ema(
            self.state.ema, self.state.generator.module, self.config.ema_decay, self.state.counters.step
        )

    def _set_learning_rates(self) -> None:
        step, steps = self.state.counters.step, self.config.schedule.steps
        set_learning_rate(self.state.critic, self.config.critic_optimizer, step, steps)
        set_learning_rate(self.state.generator, self.config.generator_optimizer, step, steps)

    def _keep_ranks_equal(self) -> None:
        if is_due(self.state.counters.step, self.config.runtime.digest_every, self.config.schedule.steps):
            self.compare_ranks()

    def compare_ranks(self) -> None:
        """Raise DivergenceError, naming tensors and ranks, unless all ranks hold the same state."""
        if self.runtime.world_size == 1:
            return
        tensors = self.state.flat_tensors()
        found = differing(list(tensors), self.runtime.gather(digest(tensors)))
        if found:
            listed = "\n  ".join(f"{name} on rank {', '.join(map(str, ranks))}" for name, ranks in found[:8])
            raise DivergenceError(
                f"Ranks no longer hold the same state at step {self.state.counters.step}; {len(found)} tensors "
                f"differ:\n  {listed}\nNothing was saved since they last agreed. Run the same command again to go "
                "on from the last checkpoint; if it comes back, suspect that rank's memory or device."
            )

    def _save(self, is_best: bool, is_stopping: bool) -> None:
        step, is_last = self.state.counters.step, self.is_complete
        if not (
            is_best
            or is_last
            or is_stopping
            or is_due(step, self.config.checkpoint.every, self.config.schedule.steps)
        ):
            return
        self.compare_ranks()
        self.observer.refuse_non_finite_state()
        self._write_checkpoint(is_best, must_succeed=is_stopping or is_last)
        if is_stopping and not is_last:
            reason = self.stop.received or "another rank's signal"
            raise StopRequested(f"Stopped by {reason} at step {step}; the same command continues from there.")

    def _write_checkpoint(self, is_best: bool, must_succeed: bool) -> None:
        """Save and prune. A save may fail now and then (a disk that is full for a while), not for long."""
        # What was logged up to here must survive a kill that comes right after the save.
        self.observer.sinks.flush()
        recorder, best, options = self.observer.recorder, self.observer.best, self.config.checkpoint
        error, is_saved = None, False
        try:
            save_run(self.checkpoints, self.state, recorder, best, self.runtime, self.identity)
            is_saved = True
            if self.runtime.is_main:
                prune(self.checkpoints, options.keep_last, options.keep_every, best.kept_steps)
        except StorageError as failure:
            error = failure
        outcomes = self.runtime.gather_objects((is_saved, error is not None))
        if is_best and not all(is_saved for is_saved, _ in outcomes):
            best.take_back()
        has_failed = any(has_failed for _, has_failed in outcomes)
        self.failed_saves = self.failed_saves + 1 if has_failed else 0
        if must_succeed or self.failed_saves > SAVES_THAT_MAY_FAIL:
            self.runtime.all_agree(error)
        elif error is not None:
            say_warning(f"{error} Training goes on; the next save tries again.")
