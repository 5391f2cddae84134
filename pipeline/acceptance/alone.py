"""A single rank connected by NCCL: it starts, and its exchanges work, one after the other and in a CUDA graph."""

from __future__ import annotations

import gc
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.acceptance.bench import Bench
from pipeline.ranks.averaging import Exchange
from pipeline.ranks.devices import best_device, capture_cuda_graph, synchronize
from pipeline.wording import counted

SIZES = (1, 1000, 2**22)
"""Numbers of 4 bytes"""
REPLAYS = 3
SECONDS_TO_START = timedelta(seconds=60)


def run(bench: Bench, backend: str = "nccl") -> str:
    """Exchange tensors in a group of one, as training does. Each must come back as it was.

    Nothing passes between GPUs, but NCCL has to start, and a graph has to hold its work.
    """
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=SECONDS_TO_START)
    for size in SIZES:
        check_exchanges(bench, size, best_device())
    # NCCL waits for graphs that hold its exchanges.
    gc.collect()
    dist.destroy_process_group()
    return f"{backend} started, and exchanges of one rank gave back what they got, eager and as one graph"


def check_exchanges(bench: Bench, size: int, device: torch.device) -> None:
    """The exchanges of so many numbers, eager, and in a graph that is repeated with other numbers."""
    exchange = Exchange()
    place, pattern = torch.empty(size, device=device), torch.arange(size, device=device) % 1024

    def exchanged() -> dict[str, Tensor]:
        averaged, sent = place.clone(), place.clone()
        exchange.average([averaged])
        dist.broadcast(sent, 0)
        return {"mean": averaged, "broadcast": sent, "gathered tensor": exchange.gather(place)[0]}

    def check(exchanges: Callable[[], dict[str, Tensor]], number: int, how: str) -> None:
        place.copy_(pattern + number)
        for name, values in exchanges().items():
            bench.check(
                torch.equal(values, place), f"{how}: the {name} of {counted(size, 'number')} is wrong"
            )

    check(exchanged, 0, "eager")
    # The graph may only be captured once all of this is over.
    synchronize(device)
    graph = capture_cuda_graph(exchanged)
    for number in range(1, 1 + REPLAYS):
        check(graph, number, "as a graph")
