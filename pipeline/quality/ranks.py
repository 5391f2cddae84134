"""What evaluations need of the ranks, and work that every rank or only the main one does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from pipeline import stopping
from pipeline.errors import PipelineError

SECONDS_BETWEEN_MEETINGS = 1.0
DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float64, torch.int64, torch.uint8)}
"""Those of tensors that the main rank sends, by the names that it sends with them."""

Result = TypeVar("Result")


class Ranks(Protocol):
    """The processes that evaluate together."""

    rank: int
    world_size: int
    device: torch.device
    machine_threads: int

    @property
    def is_main(self) -> bool: ...

    def to_main(self, values: Tensor, senders: int) -> list[Tensor]: ...

    def gather_json(self, value: Any) -> list[Any]: ...

    def broadcast(self, values: Tensor) -> Tensor: ...

    def all_agree(self, error: Exception | None) -> None: ...

    def vote(self, flag: bool) -> Callable[[], bool]: ...


def stop_together(ranks: Ranks) -> None:
    """Raise what `stopping.check` raises, on all ranks at the same point, if a signal has reached one of them.

    Also where the stop flag is held: whoever evaluates while training knows how to stop there.
    """
    if ranks.vote(stopping.received() is not None)():
        raise stopping.request()


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
    """What the main rank finds, on all ranks, as JSON returns it. An error there is raised on all of them."""
    found: Result = ranks.gather_json(_find_on_main_rank(ranks, find))[0]
    return found


def tensors_of_main_rank(ranks: Ranks, find: Callable[[], Sequence[Tensor]]) -> list[Tensor]:
    """The tensors that the main rank finds, on all ranks, in host memory. An error there is raised on all of them."""
    found = _find_on_main_rank(ranks, find) or []
    kinds = ranks.gather_json([(list(tensor.shape), str(tensor.dtype)) for tensor in found])[0]
    buffers = found if ranks.is_main else [torch.empty(shape, dtype=DTYPES[dtype]) for shape, dtype in kinds]
    return [ranks.broadcast(buffer) for buffer in buffers]


def _with_threads(count: int, find: Callable[[], Result]) -> Result:
    """What is found with this many of torch's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return find()
    finally:
        torch.set_num_threads(before)


def _find_on_main_rank(ranks: Ranks, find: Callable[[], Result]) -> Result | None:
    """What the main rank finds, on it alone. All ranks meet every second, so that none runs into its time limit.

    The other ranks of its machine only wait meanwhile, so it computes with their threads too.
    """
    pool = ThreadPoolExecutor(1)
    work = pool.submit(_with_threads, ranks.machine_threads, find) if ranks.is_main else None
    # After a signal the work is left alone: the process ends soon.
    pool.shutdown(wait=False)
    is_done = False
    while not is_done:
        if work is not None:
            wait([work], SECONDS_BETWEEN_MEETINGS)
        is_done = ranks.gather_json(work is not None and work.done())[0]
        if not is_done:
            stop_together(ranks)
    return on_all_ranks(ranks, lambda: None if work is None else work.result())
