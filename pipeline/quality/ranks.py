"""What evaluations need of the ranks, and work that every rank or only the main one does."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from pipeline.errors import PipelineError

SECONDS_BETWEEN_MEETINGS = 1.0

Result = TypeVar("Result")


class Ranks(Protocol):
    """The processes that evaluate together."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool: ...

    def gather(self, values: Tensor) -> Tensor: ...

    def gather_objects(self, value: Any) -> list[Any]: ...

    def all_agree(self, error: Exception | None) -> None: ...


def on_all_ranks(ranks: Ranks, find: Callable[[], Result]) -> Result:
    """What each rank finds for itself. An error on one rank is raised on all of them."""
    found: list[Result] = []
    error = None
    try:
        found.append(find())
    except PipelineError as failure:
        error = failure
    ranks.all_agree(error)
    return found[0]


def on_main_rank(ranks: Ranks, find: Callable[[], Result]) -> Result:
    """What the main rank finds, on all ranks. They meet every second, so that no rank runs into its time limit."""
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(find) if ranks.is_main else None
        is_done = False
        while not is_done:
            if work is not None:
                wait([work], SECONDS_BETWEEN_MEETINGS)
            is_done = ranks.gather_objects(work is not None and work.done())[0]
    found: Result = ranks.gather_objects(
        on_all_ranks(ranks, lambda: None if work is None else work.result())
    )[0]
    return found
