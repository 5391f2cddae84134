"""Everything that a run records while it trains: scalars, image grids, alarms and evaluations."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.data.reading.loader import Loader
from pipeline.data.reading.stream import Ids
from pipeline.errors import NonFiniteError
from pipeline.metric_table import find_metric
from pipeline.monitor.console import Console
from pipeline.monitor.grids import class_columns, image_grid
from pipeline.monitor.recorder import Recorder, non_finite
from pipeline.monitor.sinks import ALARM_PREFIX, Sinks
from pipeline.noise import Noise, Purpose
from pipeline.objectives import Metrics, Objective
from pipeline.options import Config
from pipeline.quality.best import Best
from pipeline.quality.evaluation import Evaluation
from pipeline.ranks.runtime import Runtime
from pipeline.run.checkpoint import list_checkpoints
from pipeline.run.generator import generate
from pipeline.training.context import RunContext
from pipeline.training.diagnostics import (
    draw_as_training_does,
    first_non_finite,
    input_gradient_norm,
    mean_slope,
    spread,
    wasserstein_estimate,
)
from pipeline.training.schedule import is_due, is_picture_due
from pipeline.training.state import TrainingState
from pipeline.training.updates import CriticBatch, add_share, parts
from pipeline.wording import listed

VALIDATION_BATCHES = 16


class Shown(NamedTuple):
    """The images of a grid: latents, float32 (count, latent), labels, int64 (count,) or None, and columns."""

    latents: Tensor
    labels: Tensor | None
    columns: int


@dataclass
class Observer:
    """Measures one rank's state without changing it. All ranks take part; the main rank writes."""

    run: RunContext
    state: TrainingState
    objective: Objective
    loader: Loader
    held_out: Ids
    noise: Noise
    recorder: Recorder
    evaluation: Evaluation | None
    best: Best
    sinks: Sinks
    console: Console
    has_warned: bool = field(default=False, init=False)
    """Whether the user knows which classes the classifier does not see."""

    @property
    def config(self) -> Config:
        """The run's options."""
        return self.run.config

    @property
    def runtime(self) -> Runtime:
        """This rank among the others."""
        return self.run.runtime

    @cached_property
    def shown(self) -> Shown:
        """What all image grids show. With classes, a row has one latent and a column one class."""
        generator, grid = self.noise.seeded(Purpose.SAMPLES), self.config.monitor.grid
        size = (grid**2, self.config.model.latent)
        latents = torch.randn(size, generator=generator, device=generator.device)
        if not self.run.classes:
            return Shown(latents, None, grid)
        labels = torch.tensor(class_columns(len(self.run.classes)), device=latents.device)
        columns = len(labels)
        return Shown(latents[:grid].repeat_interleave(columns, 0), labels.repeat(grid), columns)

    def watch(self, seen: CriticBatch) -> bool:
        """Log what is due after a step whose last critic update used `seen`. Returns whether it is the best step yet.

        Raises NonFiniteError.
        """
        step, steps, monitor = self.state.counters.step, self.config.schedule.steps, self.config.monitor
        self.console.advance(step)
        values, is_best = self._evaluate(step)
        # If the patience has run out, this is the last step.
        last = step if self.is_exhausted else steps
        if is_due(step, monitor.log_every, last):
            values |= self._scalars(seen)
        can_validate = len(self.held_out) > 0 and self.objective.measures_wasserstein
        if can_validate and is_due(step, monitor.validation_every, last):
            values["wasserstein/validation"] = self._validation_estimate()
        if values:
            self._record(step, values)
        if is_picture_due(step, monitor.sample_every, last):
            self.refuse_non_finite_state()
            if self.runtime.is_main:
                self._show_pictures(step)
        return is_best

    def close(self) -> None:
        """Write what the sinks still hold, and leave the progress bar."""
        self.sinks.close()
        self.console.close()

    @property
    def is_exhausted(self) -> bool:
        """Whether `quality.patience` has run out."""
        return self.best.is_exhausted

    def refuse_non_finite_state(self) -> None:
        """Raise NonFiniteError, naming the tensor, unless all numbers of the state are finite."""
        if (name := first_non_finite(self.state.flat_tensors())) is not None:
            raise NonFiniteError(
                f"{name} is not finite at step {self.state.counters.step}, so this state is not "
                f"saved. {self._last_good()} Lower the learning rates, or use precision: float32."
            )

    def _evaluate(self, step: int) -> tuple[dict[str, float], bool]:
        """The quality metrics that are due, and whether they are the best yet."""
        every = self.config.quality.every
        if self.evaluation is None or every is None or not is_due(step, every, self.config.schedule.steps):
            return {}, False
        with self.recorder.paused():
            figures = self.evaluation.measure(partial(generate, self.state.ema))
            self._warn_of_classes(self.evaluation, figures)
        features = self.config.quality.features
        values = {find_metric(name).tag(features): value for name, value in figures.items()}
        return values, self.best.update(step, figures)

    def _warn_of_classes(self, evaluation: Evaluation, figures: dict[str, float]) -> None:
        """Once, with the first figures: classes that a figure leaves out, or that the classifier does not see."""
        concerned = [name for name in figures if find_metric(name).needs.classes]
        if self.has_warned or not figures:
            return
        self.has_warned = True
        if left_out := sorted(evaluation.left_out):
            self.run.warn(
                f"metrics that compare the images of each class leave out {listed(left_out)}, of which there are too "
                "few samples or training images"
            )
        if not concerned:
            return
        if unseen := evaluation.classes.unseen:
            self.run.warn(
                f"the classifier does not see {listed(unseen)} in real images, so {' and '.join(concerned)} cannot "
                "show whether samples have these classes"
            )

    def _record(self, step: int, values: dict[str, float]) -> None:
        self.sinks.scalars(step, values)
        self.console.show(step, values)
        for alarm in self.recorder.alarms.check(values):
            self.sinks.text(step, f"{ALARM_PREFIX}{alarm.name}", alarm.text)
            self.run.warn(f"step {step}: {alarm.text}")

    def _scalars(self, seen: CriticBatch) -> dict[str, float]:
        real, fake = seen.real, seen.fake
        constraint = self.objective.constraint
        measured = constraint.report(self.state.critic.module) if constraint else {}
        # In micro-batches like the updates: the rest of the memory may be small.
        for part, share, _ in parts(len(real), self.config.schedule.micro_batch):
            add_share(measured, self._measure_critic(seen.part(part)), share)
        centres = self.runtime.mean(torch.stack([fake.mean(0), real.mean(0)]))
        measured |= {"spread of fakes": spread(fake, centres[0]), "spread of reals": spread(real, centres[1])}
        means = self.recorder.window.means(self.runtime.mean)
        own = torch.stack([value.float() for value in measured.values()])
        stacked = self.runtime.mean(own.clone())
        values = means | dict(zip(measured, stacked.tolist(), strict=True))
        self._refuse_non_finite(values, dict(zip(measured, own.tolist(), strict=True)))
        spread_of_fakes, spread_of_reals = values.pop("spread of fakes"), values.pop("spread of reals")
        if spread_of_reals > 0:
            values["generator/diversity"] = (spread_of_fakes / spread_of_reals) ** 0.5
        if self.objective.measures_wasserstein:
            values["wasserstein/estimate_smooth"] = self.recorder.smooth(values["wasserstein/estimate"])
            # Measured with the same critic and images as the slope.
            estimate = values.pop("estimate")
            if values["critic/slope"] > 0:
                values["wasserstein/normalized"] = estimate / values["critic/slope"]
        return {
            **values,
            "optimizer/critic_lr": float(self.state.critic.optimizer.param_groups[0]["lr"]),
            "optimizer/generator_lr": float(self.state.generator.optimizer.param_groups[0]["lr"]),
            **self.recorder.speed(),
            **self.recorder.memory(),
        }

    def _measure_critic(self, seen: CriticBatch) -> Metrics:
        """Metrics of the critic as it is now, on one batch."""
        critic, (real, fake, uniform, labels) = self.state.critic.module, seen
        measured = {"critic/input_grad_norm": input_gradient_norm(critic, fake, labels)}
        if self.objective.measures_wasserstein:
            measured["critic/slope"] = mean_slope(critic, real, fake, uniform, labels)
            measured["estimate"] = wasserstein_estimate(critic, [both(real, fake, labels)])
        return measured

    def _refuse_non_finite(self, values: dict[str, float], own: dict[str, float]) -> None:
        """Raise NonFiniteError if a metric is not finite. `own` are this rank's values of those measured now."""
        for name in non_finite(values):
            if self.runtime.precision == "fp16" and name in ("critic/grad_norm", "generator/grad_norm"):
                # The float16 scale is sometimes too high; then the scaler skips the step and lowers it.
                del values[name]
                continue
            ours = {**self.recorder.window.own_means(), **own}
            raise NonFiniteError(
                f"{name} is {values[name]} at step {self.state.counters.step}"
                f"{self._ranks_where(bool(non_finite({name: ours[name]})))}: training has become unstable. "
                f"{self._last_good()} Lower the learning rates, set critic_grad_clip and generator_grad_clip, or use "
                "precision: float32."
            )

    def _ranks_where(self, is_here: bool) -> str:
        """On which ranks `is_here` holds, as the end of a clause. All ranks call it together."""
        found = [rank for rank, is_there in enumerate(self.runtime.gather_json(is_here)) if is_there]
        if self.runtime.world_size == 1:
            return ""
        if len(found) == self.runtime.world_size:
            return " on all ranks"
        return f" on rank {', '.join(map(str, found))}"

    def _last_good(self) -> str:
        saved = list_checkpoints(self.run.directory.checkpoints)
        return f"The last good checkpoint is {saved[-1].path}." if saved else "No checkpoint was saved yet."

    def _validation_estimate(self) -> float:
        """The Wasserstein estimate on held-out images and latents, the same ones each time."""
        total = self.run.rows.total
        count = min(VALIDATION_BATCHES, len(self.held_out) // total)

        def batch(index: int) -> tuple[Tensor, ...]:
            real, labels = self.loader.read(self.run.rows.of(self.held_out[index * total :]))
            draw = self.noise.draw(Purpose.VALIDATION, 0, index, self.run.rows, self.config.model.latent)
            fake = draw_as_training_does(self.state.generator.module, draw.latents, labels)
            return both(real, fake, labels)

        estimate = wasserstein_estimate(self.state.critic.module, map(batch, range(count)))
        return float(self.runtime.mean(estimate))

    def _show_pictures(self, step: int) -> None:
        latents, labels, columns = self.shown
        for name, network in (("generated", self.state.generator.module), ("ema", self.state.ema)):
            images = generate(network, latents, labels)
            self.sinks.images(step, f"samples/{name}", image_grid(images, columns))
        weights = {
            f"critic/weights/{name}": value.detach().cpu()
            for name, value in self.state.critic.module.named_parameters()
        }
        constraint = self.objective.constraint
        self.sinks.histograms(step, weights, constraint.half_width if constraint else None)


def both(real: Tensor, fake: Tensor, labels: Tensor | None) -> tuple[Tensor, ...]:
    """A batch of an estimate: images of both kinds, and their labels if there are classes."""
    return (real, fake) if labels is None else (real, fake, labels)
