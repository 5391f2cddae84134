"""The training loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.checkpoint import prune
from pipeline.data.loader import Loader
from pipeline.data.order import Ids
from pipeline.diagnostics import (
    first_non_finite,
    generate,
    input_gradient_norm,
    mean_slope,
    wasserstein_estimate,
)
from pipeline.digest import differing, digest
from pipeline.ema import update_ema
from pipeline.errors import DivergenceError, NonFiniteError, StopRequested, StorageError
from pipeline.monitor.console import Console, say_warning
from pipeline.monitor.grids import image_grid
from pipeline.monitor.recorder import Recorder, non_finite
from pipeline.monitor.sinks import Sinks
from pipeline.noise import Noise, Purpose, Slice
from pipeline.objectives import Metrics, Objective
from pipeline.options import Config
from pipeline.resume import save_run
from pipeline.runtime import Runtime
from pipeline.schedule import critic_updates_at, is_due
from pipeline.state import TrainingState, optimizer_tensors, set_learning_rate
from pipeline.steps import add_share, critic_update, generator_update, parts
from pipeline.stopping import StopSignals

SAVES_THAT_MAY_FAIL = 2
VALIDATION_BATCHES = 16


@dataclass
class Trainer:
    """One run on one rank: what the loop works on, already built and restored."""

    config: Config
    runtime: Runtime
    state: TrainingState
    objective: Objective
    loader: Loader
    held_out: Ids
    noise: Noise
    rows: Slice
    critic_rows: Slice
    recorder: Recorder
    checkpoints: Path
    identity: dict[str, Any]
    stop: StopSignals
    sinks: Sinks = field(default_factory=lambda: Sinks([]))
    console: Console = field(default_factory=lambda: Console(0, 0, is_shown=False))
    failed_saves: int = field(default=0, init=False)
    fixed_latents: Tensor = field(init=False)

    def __post_init__(self) -> None:
        count = self.config.monitor.grid**2
        generator = self.noise.seeded(Purpose.SAMPLES)
        self.fixed_latents = torch.randn(
            count, self.config.model.latent, generator=generator, device=generator.device
        )

    def train(self) -> None:
        """Run from the state's step to the last. Raises StopRequested once a requested stop is saved."""
        schedule, counters = self.config.schedule, self.state.counters
        batches = self.loader.batches(counters.position)
        self.recorder.restart_clock()
        while counters.step < schedule.steps:
            stop_vote = self.runtime.vote(self.stop.received is not None)
            updates = critic_updates_at(counters.step, schedule)
            self._set_learning_rates()
            metrics, real = self._train_critic(batches, updates)
            metrics |= self._train_generator(updates)
            self._finish_step()
            self.recorder.add(metrics, images=updates * schedule.real_images)
            self._watch(real)
            self._keep_ranks_equal()
            self._save(is_stopping=stop_vote())

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
        self._update_critic(blank, update=0)
        self._train_generator(updates=1)
        for player, weights in zip((generator, critic), before, strict=True):
            player.module.load_state_dict(weights)
            player.optimizer.zero_grad(set_to_none=True)
            # Zeros are what RMSprop and Adam start from.
            torch._foreach_zero_(list(optimizer_tensors(player).values()))
        self.runtime.restore_scaler(scaler)

    def _train_critic(self, batches: Iterator[Tensor], updates: int) -> tuple[Metrics, Tensor]:
        """The step's critic updates. Returns metrics and images of the last, when the critic is at its best."""
        for update in range(updates):
            with self.recorder.waiting_for_data():
                real = next(batches)
            metrics = self._update_critic(real, update)
            self.state.counters.position += self.config.schedule.real_images
        return metrics, real

    def _update_critic(self, real: Tensor, update: int) -> Metrics:
        latents, uniform = self._draw(Purpose.CRITIC, self.critic_rows, update)
        return critic_update(
            self.state.critic,
            self.state.generator.module,
            self.objective,
            real,
            latents,
            uniform,
            self.runtime,
            self.config.schedule.micro_batch,
            self.config.schedule.critic_rounds,
        )

    def _draw(self, purpose: Purpose, rows: Slice, update: int = 0) -> tuple[Tensor, Tensor]:
        """This step's latents and uniform numbers."""
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

    def _watch(self, real: Tensor) -> None:
        """Log what is due. Every rank takes part in the means; only the main rank's sinks write."""
        step, steps, monitor = self.state.counters.step, self.config.schedule.steps, self.config.monitor
        values: dict[str, float] = {}
        if is_due(step, monitor.log_every, steps):
            values |= self._scalars(real)
        if len(self.held_out) and is_due(step, monitor.validation_every, steps):
            values["wasserstein/validation"] = self._validation_estimate()
        if values:
            self.sinks.scalars(step, values)
            self.console.show(step, values)
        if is_due(step, monitor.sample_every, steps):
            self._refuse_non_finite_state()
            if self.runtime.is_main:
                self._show_pictures(step)

    def _scalars(self, real: Tensor) -> dict[str, float]:
        latents, uniform = self._draw(Purpose.GENERATOR, self.critic_rows)
        measured = self.objective.report(self.state.critic.module)
        # No more images at once than the updates take: what they leave of the memory may be little.
        for part, share, _ in parts(len(real), self.config.schedule.micro_batch):
            add_share(measured, self._measure(real[part], latents[part], uniform[part]), share)
        means = self.recorder.window.means(self.runtime.mean)
        stacked = self.runtime.mean(torch.stack([value.float() for value in measured.values()]))
        values = means | dict(zip(measured, stacked.tolist(), strict=True))
        self._refuse_non_finite(values)
        if self.objective.measures_wasserstein:
            values["wasserstein/estimate_smooth"] = self.recorder.smooth(values["wasserstein/estimate"])
            # Of the critic and the images that the slope is of.
            estimate = values.pop("estimate")
            if values["critic/slope"] > 0:
                values["wasserstein/normalized"] = estimate / values["critic/slope"]
        return {
            **values,
            "optimizer/critic_lr": self.state.critic.optimizer.param_groups[0]["lr"],
            "optimizer/generator_lr": self.state.generator.optimizer.param_groups[0]["lr"],
            **self.recorder.speed(),
            **self.recorder.memory(),
        }

    def _measure(self, real: Tensor, latents: Tensor, uniform: Tensor) -> Metrics:
        """Figures of the critic as it is now, on one batch."""
        critic, generator = self.state.critic.module, self.state.generator.module
        measured = {"critic/input_grad_norm": input_gradient_norm(critic, generator, latents)}
        if self.objective.measures_wasserstein:
            measured["critic/slope"] = mean_slope(critic, generator, real, latents, uniform)
            measured["estimate"] = wasserstein_estimate(critic, generator, [(real, latents)])
        return measured

    def _refuse_non_finite(self, values: dict[str, float]) -> None:
        for name in non_finite(values):
            if self.runtime.precision == "fp16" and name in ("critic/grad_norm", "generator/grad_norm"):
                # The float16 scale is too high now and then; the scaler skips the step and lowers it.
                del values[name]
                continue
            raise NonFiniteError(
                f"{name} is {values[name]} at step {self.state.counters.step}: training has become unstable. The "
                f"last good checkpoint is in {self.checkpoints}. Lower the learning rates, set "
                "critic_grad_clip and generator_grad_clip, or use precision: float32."
            )

    def _refuse_non_finite_state(self) -> None:
        if (name := first_non_finite(self._flat_tensors())) is not None:
            raise NonFiniteError(
                f"{name} is not finite at step {self.state.counters.step}, so this state is not saved. The last good "
                f"checkpoint is in {self.checkpoints}. Lower the learning rates, or use precision: float32."
            )

    def _validation_estimate(self) -> float:
        """On held-out images and latents that are the same each time."""
        total = self.rows.total
        count = min(VALIDATION_BATCHES, len(self.held_out) // total)
        batches = (
            (
                self.loader.read(self.rows.of(self.held_out[index * total :])),
                self.noise.draw(Purpose.VALIDATION, 0, index, self.rows, self.config.model.latent)[0],
            )
            for index in range(count)
        )
        estimate = wasserstein_estimate(self.state.critic.module, self.state.generator.module, batches)
        return float(self.runtime.mean(estimate))

    def _show_pictures(self, step: int) -> None:
        columns = self.config.monitor.grid
        for name, network in (("generated", self.state.generator.module), ("ema", self.state.ema)):
            images = generate(network, self.fixed_latents)
            self.sinks.images(step, f"samples/{name}", image_grid(images, columns))
        weights = {
            f"critic/weights/{name}": value.detach().cpu()
            for name, value in self.state.critic.module.named_parameters()
        }
        self.sinks.histograms(step, weights)

    def _keep_ranks_equal(self) -> None:
        if is_due(self.state.counters.step, self.config.runtime.digest_every, self.config.schedule.steps):
            self.compare_ranks()

    def compare_ranks(self) -> None:
        """Raise DivergenceError, naming tensors and ranks, unless all ranks hold the same state."""
        if self.runtime.world_size == 1:
            return
        tensors = self._flat_tensors()
        found = differing(list(tensors), self.runtime.gather(digest(tensors)))
        if found:
            listed = "\n  ".join(f"{name} on rank {', '.join(map(str, ranks))}" for name, ranks in found[:8])
            raise DivergenceError(
                f"Ranks no longer hold the same state at step {self.state.counters.step}; {len(found)} tensors "
                f"differ:\n  {listed}\nNothing was saved since they last agreed. Run the same command again to go "
                "on from the last checkpoint; if it comes back, suspect that rank's memory or device."
            )

    def _save(self, is_stopping: bool) -> None:
        step, options = self.state.counters.step, self.config.checkpoint
        is_last = step == self.config.schedule.steps
        if not (is_stopping or is_due(step, options.every, self.config.schedule.steps)):
            return
        self.compare_ranks()
        self._refuse_non_finite_state()
        self._write_checkpoint(must_succeed=is_stopping or is_last)
        if is_stopping and not is_last:
            reason = self.stop.received or "another rank's signal"
            raise StopRequested(f"Stopped by {reason} at step {step}; the same command continues from there.")

    def _write_checkpoint(self, must_succeed: bool) -> None:
        """Save and prune. A save may fail now and then (a disk that is full for a while), not for long."""
        # What was logged up to here must survive a kill that comes right after the save.
        self.sinks.flush()
        error = None
        try:
            save_run(self.checkpoints, self.state, self.recorder, self.runtime, self.identity)
            if self.runtime.is_main:
                prune(self.checkpoints, self.config.checkpoint.keep_last, self.config.checkpoint.keep_every)
        except StorageError as failure:
            error = failure
        has_failed = any(self.runtime.gather_objects(error is not None))
        self.failed_saves = self.failed_saves + 1 if has_failed else 0
        if must_succeed or self.failed_saves > SAVES_THAT_MAY_FAIL:
            self.runtime.all_agree(error)
        elif error is not None:
            say_warning(f"{error} Training goes on; the next save tries again.")

    def _flat_tensors(self) -> dict[str, Tensor]:
        groups = self.state.named_tensors()
        return {
            f"{group}/{name}": value for group, tensors in groups.items() for name, value in tensors.items()
        }
