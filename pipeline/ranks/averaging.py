"""What ranks exchange of what is on their devices: gathered tensors, and means.

An all-reduce of gloo takes two rounds of messages, and their latency is most of the time for few numbers. An all-gather
takes one round; all ranks then add the parts in the same order, so they get the same bits. Between CPUs of one machine
gloo itself is left out for these (unix_sockets.py). In NCCL each of both is one kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.futures import Future

from pipeline.ranks.unix_sockets import UnixSockets

GATHERED_BYTES = 2**20
"""On CPUs values are averaged by an all-gather if a rank then receives at most this many bytes."""
_gather_into = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""The second is its name in torch before 2.14."""


@dataclass(frozen=True)
class Exchange:
    """The exchanges of all ranks, over gloo or NCCL. `sockets` are set if all ranks are CPUs of one machine."""

    sockets: UnixSockets | None = None

    def gather(self, values: Tensor) -> Tensor:
        """The tensors of all ranks, by rank: (ranks, *shape). They have the same shape on all ranks."""
        if self.sockets is not None:
            return self.sockets.gather(values)
        ranks = dist.get_world_size()
        if dist.get_backend() == "gloo":
            rows = [torch.empty_like(values) for _ in range(ranks)]
            dist.all_gather(rows, values)
            return torch.stack(rows)
        # One tensor instead of a list of them, which takes a host long to make for many ranks.
        gathered = values.new_empty(ranks * values.numel())
        _gather_into(gathered, values.reshape(-1))
        return gathered.view(ranks, *values.shape)

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of floats by their means over the ranks, all in one exchange.

        The ranks give tensors of the same shapes and memory formats, in the same order.
        """
        flat = torch.cat([_in_memory_order(tensor).reshape(-1) for tensor in tensors])
        if dist.get_backend() == "gloo" and _is_small(flat):
            flat = self.gather(flat).mean(0)
        else:
            # Divided first, as DDP does it: the sum of large gradients could overflow.
            dist.all_reduce(flat.div_(dist.get_world_size()))
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        places = [_in_memory_order(tensor) for tensor in tensors]
        torch._foreach_copy_(places, [part.view_as(place) for part, place in zip(parts, places, strict=True)])

    def mean(self, values: Tensor) -> Future[Tensor]:
        """The mean over the ranks of values on CPUs, later; an error if the exchange fails."""
        if not _is_small(values):
            ranks = dist.get_world_size()
            work: Any = dist.all_reduce(values.div_(ranks), async_op=True)
            reduced: Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
            return reduced
        if self.sockets is not None:
            found: Future[Tensor] = Future()
            found.set_result(self.sockets.gather(values).mean(0))
            return found
        rows = [torch.empty_like(values) for _ in range(dist.get_world_size())]
        work = dist.all_gather(rows, values, async_op=True)

        def gathered(done: Any) -> Tensor:
            # It is called after a failure too, which only this raises.
            done.value()
            return torch.stack(rows).mean(0)

        averaged: Future[Tensor] = work.get_future().then(gathered)
        return averaged


def _is_small(values: Tensor) -> bool:
    return (dist.get_world_size() - 1) * values.nbytes <= GATHERED_BYTES


def _in_memory_order(tensor: Tensor) -> Tensor:
    """The same memory with its dimensions from the slowest to the fastest: copying it moves nothing around."""
    order = sorted(range(tensor.dim()), key=lambda dim: (tensor.stride(dim), tensor.size(dim)), reverse=True)
    return tensor.permute(order)


# Without annotations: DDP compares those of a hook with its own types, and here they would be text.
def average_bucket(exchange, bucket):  # type: ignore[no-untyped-def]
    """Average a bucket of gradients over the ranks: DDP's communication hook for gloo."""
    return exchange.mean(bucket.buffer())
