"""A fingerprint of tensors that changes when any bit of them does, computed where they lie.

Ranks compare fingerprints instead of the tensors themselves: 8 bytes for each tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

CHUNK = 1 << 18
"""Elements that are widened to 64 bits at once, so that a large tensor needs little extra memory."""

GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
"""The golden ratio's 64 bits: as in Knuth's multiplicative hashing, they spread a place over all bits."""

WORDS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}


@torch.no_grad()
def digest(tensors: Mapping[str, Tensor]) -> Tensor:
    """One int64 for each tensor, on the tensors' device, in the mapping's order.

    It is the sum, modulo 2^64, of the elements' bits, each times an odd number that depends on its place.
    A change in one element always shows: an odd factor has an inverse modulo 2^64.
    """
    digests = [_digest(tensor) for tensor in tensors.values()]
    # Optimizers keep their step counters on the host.
    return torch.stack([value.to(digests[0].device) for value in digests])


def _digest(tensor: Tensor) -> Tensor:
    bits = tensor.detach().contiguous().view(WORDS[tensor.element_size()]).reshape(-1)
    factors = _odd_factors(CHUNK, bits.device)
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for number, chunk in enumerate(torch.split(bits, CHUNK)):
        total += (chunk.to(torch.int64) * factors[: len(chunk)]).sum() * _odd(number + 1)
    return total


@lru_cache(maxsize=16)
def _odd_factors(count: int, device: torch.device) -> Tensor:
    factors = torch.arange(1, count + 1, dtype=torch.int64, device=device)
    # After one round they are evenly spaced still, and elements that changed places could cancel out.
    for _ in range(3):
        factors = factors * GOLDEN
        factors = factors ^ (factors >> 32)
    return factors | 1


def _odd(number: int) -> int:
    """An odd factor for each chunk, as a plain integer wrapped to 64 bits with a sign."""
    return ((number * GOLDEN | 1) + 2**63) % 2**64 - 2**63


def differing(names: list[str], digests: Tensor) -> list[tuple[str, list[int]]]:
    """The tensors that are not equal on all ranks, each with the ranks outside the largest equal group.

    `digests` is int64 (world_size, tensors), on the host. Where two groups are equally large, the one that
    holds the lowest rank counts as right.
    """
    found = []
    for name, column in zip(names, digests.T.tolist(), strict=True):
        if len(set(column)) > 1:
            right = max(column, key=lambda value: (column.count(value), -column.index(value)))
            found.append((name, [rank for rank, value in enumerate(column) if value != right]))
    return found
