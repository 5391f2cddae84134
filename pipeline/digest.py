"""A fingerprint of tensors that changes when any bit of them does, computed where they lie.

Ranks compare fingerprints instead of the tensors themselves: 8 bytes for each tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

WORDS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}


@torch.no_grad()
def digest(tensors: Mapping[str, Tensor]) -> Tensor:
    """One int64 for each tensor, on the tensors' device, in the mapping's order.

    It is the sum, modulo 2^64, of the elements' bits, each times an odd number that depends on its place.
    A change in one element always shows: an odd factor has an inverse modulo 2^64.
    """
    return torch.stack([_digest(tensor) for tensor in tensors.values()])


def _digest(tensor: Tensor) -> Tensor:
    bits = tensor.detach().contiguous().view(WORDS[tensor.element_size()]).reshape(-1).to(torch.int64)
    return (bits * _odd_factors(bits.numel(), bits.device)).sum()


@lru_cache(maxsize=256)
def _odd_factors(count: int, device: torch.device) -> Tensor:
    # The golden ratio's 64 bits, as in Knuth's multiplicative hashing, spread the places over all bits.
    golden = 0x9E3779B97F4A7C15 - (1 << 64)
    return torch.arange(1, count + 1, dtype=torch.int64, device=device) * golden | 1


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
