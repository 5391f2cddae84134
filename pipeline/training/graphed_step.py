"""A step that is captured once as a CUDA graph and replayed.

The kernels of a small network finish before Python has launched the next ones. A graph launches the whole step at once:
turning pixels into images, all critic updates, the clipping, the generator's update and the moving average. It is the
same function as the eager step; its inputs are copied into tensors that stay at the same address. With several ranks
the graph holds their exchanges too: one all-reduce for each update's gradients, and those of batch norm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.options import Config
from pipeline.ranks.devices import capture_cuda_graph
from pipeline.ranks.runtime import Runtime
from pipeline.training.ema import update_ema
from pipeline.training.step import Result, StepInputs, StepParts, take_step

STATIC = 2
"""The first fields of the inputs say what a step consists of, and are not tensors."""

Replay = Callable[[], Result]
Kind = tuple[tuple[int, ...], ...]
"""The identities of the penalties of each critic update: those of plug-ins need not be hashable."""


def captures_steps(config: Config, runtime: Runtime) -> bool:
    """Whether this run captures its steps. Raises ConfigError if it is to, and cannot."""
    wanted = config.runtime.cuda_graph
    if wanted is False:
        return False
    wrong = [
        (runtime.device.type != "cuda", "needs a GPU, and this run is on the CPU"),
        (
            config.profile,
            "cannot be combined with profile=true, which measures the parts of a step: a captured step has none",
        ),
        (
            runtime.world_size > 1 and runtime.backend == "gloo",
            "needs NCCL between the ranks, and they have gloo, which copies through the host",
        ),
        (
            runtime.precision == "fp16",
            "cannot be combined with precision: fp16, whose gradient scaler reads from the device in each step; "
            "use bf16",
        ),
    ]
    found = [text for is_wrong, text in wrong if is_wrong]
    if found and wanted is True:
        raise ConfigError(f"runtime.cuda_graph {', and '.join(found)}. Leave runtime.cuda_graph out.")
    return not found


@dataclass
class GraphedStep:
    """`take_step` on one GPU, after a warm-up step.

    Steps of `updates` critic updates are captured at the first of them and replayed from then on, and so is each
    sequence of lazy penalties. Any other number of updates, as in a burst, runs eagerly.
    """

    parts: StepParts
    updates: int
    device: torch.device
    capture: Callable[[Callable[[], Result]], Replay] = capture_cuda_graph
    _captured: dict[Kind, tuple[StepInputs, Replay]] = field(default_factory=dict, init=False)

    def __call__(self, inputs: StepInputs) -> Result:
        """Take a step. The result's tensors are overwritten by the next one."""
        if inputs.updates != self.updates:
            return take_step(self.parts, inputs)
        kind = tuple(tuple(map(id, penalties)) for penalties in inputs.penalties)
        if kind in self._captured:
            places, replay = self._captured[kind]
            refill(places, inputs)
        else:
            places = fixed(inputs, self.device)
            self._prepare(places)
            replay = self.capture(partial(take_step, self.parts, places))
            self._captured[kind] = places, replay
        return replay()

    def _prepare(self, inputs: StepInputs) -> None:
        """Run what the warm-up step leaves out: on first use, operations may set up what cannot be captured."""
        self.parts.to_batch(next(iter(inputs.batches)))
        if self.parts.ema is not None:
            update_ema(self.parts.ema, self.parts.generator.module, torch.zeros((), device=self.device))


def fixed(inputs: StepInputs, device: torch.device) -> StepInputs:
    """The same inputs with everything in tensors on the device that nothing else holds."""
    return StepInputs(inputs.updates, inputs.penalties, *(_fixed(value, device) for value in inputs[STATIC:]))


def refill(places: StepInputs, inputs: StepInputs) -> None:
    """Put the inputs where `fixed` has put those of the first step."""
    for place, value in zip(places[STATIC:], inputs[STATIC:], strict=True):
        _refill(place, value)


def _fixed(value: Any, device: torch.device) -> Any:
    match value:
        case None:
            return None
        case float():
            return torch.tensor(value, device=device)
        case Tensor():
            return value.to(device, copy=True)
        case tuple():
            # A batch or a draw: a named tuple of tensors.
            return type(value)(*(_fixed(part, device) for part in value))
        case _:
            return [_fixed(part, device) for part in value]


def _refill(place: Any, value: Any) -> None:
    match place:
        case None if value is None:
            return
        case Tensor() if isinstance(value, Tensor):
            place.copy_(value, non_blocking=True)
        case Tensor():
            place.fill_(value)
        case _:
            for part, new in zip(place, value, strict=True):
                _refill(part, new)
