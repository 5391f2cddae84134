"""A step that is captured once as a CUDA graph and replayed.

A small network's kernels are done before Python has launched the next. A graph launches the whole ordinary step
at once: turning pixels to images, all critic updates, the clipping, the generator's update and the moving average.
What changes from step to step comes in through tensors that keep their place: rows of the images on the device (or
pixels), latents, uniform numbers, learning rates and the average's weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.data.reading.loader import Staged
from pipeline.noise import Purpose, RankRows
from pipeline.objectives import Metrics
from pipeline.training.ema import update_ema
from pipeline.training.step import TrainingStep
from pipeline.training.updates import CriticBatch

Result = tuple[Metrics, CriticBatch]
Replay = Callable[[], Result]


def capture_cuda_graph(run: Callable[[], Result]) -> Replay:
    """What does `run` again, on the same tensors, without Python. Capturing itself changes no tensor."""
    graph = torch.cuda.CUDAGraph()
    # Threads that decode images may go on meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = run()

    def replay() -> Result:
        graph.replay()
        return result

    return replay


@dataclass
class GraphedStep(TrainingStep):
    """A step on one GPU, after `rehearse`. A burst of critic updates goes step by step, as ever."""

    capture: Callable[[Callable[[], Result]], Replay] = capture_cuda_graph
    _batches: list[Staged] = field(default_factory=list, init=False)
    _noise: dict[tuple[Purpose, int], tuple[Tensor, Tensor]] = field(default_factory=dict, init=False)
    _weight: Tensor = field(init=False)
    _is_within: bool = field(default=False, init=False)
    _replay: Replay | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._weight = next(self.state.ema.parameters()).new_empty(())

    def _train(self, batches: Iterator[Staged], updates: int) -> Result:
        if updates != self.config.schedule.critic_updates:
            return super()._train(batches, updates)
        self._fill(batches, updates)
        if self._replay is None:
            # What the rehearsal leaves out: on their first call operations may set up what cannot be captured.
            self.to_images(self._batches[0])
            update_ema(self.state.ema, self.state.generator.module, torch.zeros_like(self._weight))
            self._replay = self.capture(self._run)
        return self._replay()

    def _run(self) -> Result:
        self._is_within = True
        result = super()._train(iter(self._batches), len(self._batches))
        self._is_within = False
        return result

    def _fill(self, batches: Iterator[Staged], updates: int) -> None:
        """Put this step's batches, noise and weight where the graph reads them."""
        self._weight.fill_(super()._ema_weight())
        draws = {(Purpose.CRITIC, update): self.critic_rows for update in range(updates)}
        if not self.config.schedule.reuse_fakes:
            draws[Purpose.GENERATOR, 0] = self.rows
        drawn = {key: super(GraphedStep, self)._draw(key[0], rows, key[1]) for key, rows in draws.items()}
        taken = [next(batches) for _ in range(updates)]
        if self._replay is None:
            self._batches = [self._places_for(batch) for batch in taken]
            self._noise = {
                key: (latents.clone(), uniform.clone()) for key, (latents, uniform) in drawn.items()
            }
            return
        for places, batch in zip(self._batches, taken, strict=True):
            for place, value in zip(places, batch, strict=True):
                if place is not None and value is not None:
                    place.copy_(value, non_blocking=True)
        for key, values in drawn.items():
            for place, value in zip(self._noise[key], values, strict=True):
                place.copy_(value)

    def _places_for(self, batch: Staged) -> Staged:
        device = self.runtime.device
        places = [None if value is None else value.to(device, copy=True) for value in batch]
        return Staged(*places)  # type: ignore[arg-type]

    def _ema_weight(self) -> float | Tensor:
        return self._weight if self._is_within else super()._ema_weight()

    def _draw(self, purpose: Purpose, rows: RankRows, update: int = 0) -> tuple[Tensor, Tensor]:
        if self._is_within:
            return self._noise[purpose, update]
        return super()._draw(purpose, rows, update)
