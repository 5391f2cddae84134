"""Ranks in threads of one process, and digits for them to compare."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Queue
from threading import Barrier
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from pipeline.options import QualityOptions
from pipeline.quality.asked_classes import AskedClasses
from pipeline.quality.real_images import RealImages

DIGITS = torch.from_numpy((load_digits().images * 15.9375).astype(np.uint8))[:, None]
LABELS: np.ndarray[Any, np.dtype[np.int64]] = load_digits().target.astype(np.int64)
ASKED = AskedClasses(
    names=tuple("0123456789"),
    shares=torch.full((10,), 0.1, dtype=torch.float64),
    labels=lambda ids: LABELS[ids],
)


@dataclass
class Together:
    """What ranks in threads of one process share."""

    world_size: int
    barrier: Barrier = field(init=False)
    values: list[Any] = field(init=False)
    sent: list[Queue[Tensor]] = field(init=False)
    """By rank, what it has sent to the main one."""

    def __post_init__(self) -> None:
        self.barrier, self.values = Barrier(self.world_size), [None] * self.world_size
        self.sent = [Queue() for _ in range(self.world_size)]


@dataclass
class Rank:
    """A rank in a thread."""

    rank: int
    together: Together
    device = torch.device("cpu")
    machine_threads = torch.get_num_threads()

    def __post_init__(self) -> None:
        self.world_size = self.together.world_size

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def gather_json(self, value: Any) -> list[Any]:
        return [json.loads(text) for text in self._exchange(json.dumps(value))]

    def _exchange(self, value: Any) -> list[Any]:
        self.together.values[self.rank] = value
        self.together.barrier.wait(120)
        found = list(self.together.values)
        self.together.barrier.wait(120)
        return found

    def vote(self, flag: bool) -> Callable[[], bool]:
        is_any = any(self.gather_json(flag))
        return lambda: is_any

    def to_main(self, values: Tensor, senders: int) -> list[Tensor]:
        if not self.is_main:
            assert self.rank < senders
            self.together.sent[self.rank].put(values)
            return []
        found = [values, *(self.together.sent[rank].get(timeout=60) for rank in range(1, senders))]
        assert len({(row.shape, row.dtype) for row in found}) == 1
        return found

    def broadcast(self, values: Tensor) -> Tensor:
        found: Tensor = self._exchange(values)[0]
        assert (values.shape, values.dtype) == (found.shape, found.dtype)
        return found

    def all_agree(self, error: Exception | None) -> None:
        if any(self.gather_json(error is not None)):
            raise error or RuntimeError("another rank")


def on_ranks(world_size: int, work: Callable[[Rank], Any]) -> list[Any]:
    """The result of each rank."""
    together = Together(world_size)
    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(work, [Rank(rank, together) for rank in range(world_size)]))


def real(held_out: int = 300, asked: AskedClasses | None = None) -> RealImages:
    ids = np.arange(len(DIGITS))
    return RealImages(
        read=lambda chosen: DIGITS[chosen],
        shape=(1, 8, 8),
        compared=ids[:500],
        training=lambda: ids[:1000],
        held_out=lambda: ids[1000 : 1000 + held_out],
        held_out_count=held_out,
        asked=asked,
    )


def options(metrics: Sequence[str], **changes: Any) -> QualityOptions:
    return QualityOptions(**{"metrics": list(metrics), "samples": 300, **changes})


def draw(latents: Tensor, labels: Tensor | None = None) -> Tensor:
    """An image for each latent: a mixture of two digits that the latent chooses."""
    first, second = (latents[:, place].abs().mul(1000).long() % 1797 for place in (0, 1))
    return (DIGITS[first].float() + DIGITS[second].float()) / 255 - 1
