"""Means over the ranks of what is on their devices.

An all-reduce of gloo takes two rounds of messages, and their latency is most of the time for few numbers. An all-gather
takes one round; all ranks then add the parts in the same order, so they get the same bits. In NCCL each is one kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

GATHERED_BYTES = 2**20
"""Over gloo, values are averaged by an all-gather if a rank then receives at most this many bytes."""

_gather_into = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""The second is its name in torch before 2.14."""


def gather_on_devices(values: Tensor) -> Tensor:
    """The tensors of all ranks, by rank: (world_size, *shape). They have the same shape on all ranks."""
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
def average(tensors: Sequence[Tensor]) -> None:
    """Replace tensors of floats by their means over the ranks, all in one exchange.

    The ranks give tensors of the same shapes and memory formats, in the same order.
    """
    flat = torch.cat([_in_memory_order(tensor).reshape(-1) for tensor in tensors])
    ranks = dist.get_world_size()
    if dist.get_backend() == "gloo" and (ranks - 1) * flat.nbytes <= GATHERED_BYTES:
        flat = gather_on_devices(flat).mean(0)
    else:
        # Divided first, as DDP does it: the sum of large gradients could overflow.
        dist.all_reduce(flat.div_(ranks))
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    places = [_in_memory_order(tensor) for tensor in tensors]
    torch._foreach_copy_(places, [part.view_as(place) for part, place in zip(parts, places, strict=True)])


def _in_memory_order(tensor: Tensor) -> Tensor:
    """The same memory with its dimensions from the slowest to the fastest: copying it moves nothing around."""
    order = sorted(range(tensor.dim()), key=lambda dim: (tensor.stride(dim), tensor.size(dim)), reverse=True)
    return tensor.permute(order)


# Without annotations: DDP compares those of a hook with its own types, and here they would be text.
def mean_over_ranks(_state, bucket):  # type: ignore[no-untyped-def]
    """Average a bucket of gradients over the ranks: DDP's communication hook for gloo."""
    values, ranks = bucket.buffer(), dist.get_world_size()

    # Both also run after a failure, and only `done.value()` raises it.
    def reduced(done):  # type: ignore[no-untyped-def]
        return done.value()[0]

    def gathered(done):  # type: ignore[no-untyped-def]
        done.value()
        return torch.stack(rows).mean(0)

    if (ranks - 1) * values.nbytes > GATHERED_BYTES:
        return dist.all_reduce(values.div_(ranks), async_op=True).get_future().then(reduced)
    rows = [torch.empty_like(values) for _ in range(ranks)]
    return dist.all_gather(rows, values, async_op=True).get_future().then(gathered)
