"""A digest of tensors that changes if any bit of them changes, computed on their own device.

Ranks compare digests, 8 bytes for each tensor, instead of the tensors themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

CHUNK = 1 << 18
"""How many elements are converted to 64 bits at once, so that a large tensor needs little extra memory."""

GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
"""2^64 divided by the golden ratio: Knuth's multiplicative hashing spreads numbers over all bits with it."""

WORDS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}


@torch.no_grad()
def digest(tensors: Mapping[str, Tensor]) -> Tensor:
    """One number for each tensor, in the mapping's order: int64 (tensors,), on the first tensor's device.

    It is the sum, modulo 2^64, of the bits of each element times an odd factor that depends on its position. A change
    of one element always changes the sum, because an odd factor has an inverse modulo 2^64.
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
    # After one round they are still evenly spaced, and elements that changed places could cancel out.
    for _ in range(3):
        factors = factors * GOLDEN
        factors = factors ^ (factors >> 32)
    return factors | 1


def _odd(number: int) -> int:
    """An odd factor for each chunk, as a signed integer of 64 bits."""
    return ((number * GOLDEN | 1) + 2**63) % 2**64 - 2**63


def differing(names: list[str], digests: Tensor) -> list[tuple[str, list[int]]]:
    """The tensors that are not equal on all ranks, each with the ranks outside the largest group of equal ones.

    `digests` is int64 (world_size, tensors), on the host. If two groups are equally large, the one with the lowest
    rank counts as right.
    """
    found = []
    for name, column in zip(names, digests.T.tolist(), strict=True):
        if len(set(column)) > 1:
            right = max(column, key=lambda value: (column.count(value), -column.index(value)))
            found.append((name, [rank for rank, value in enumerate(column) if value != right]))
    return found
