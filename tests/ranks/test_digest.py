"""Digests: any changed bit changes them, and ranks that differ are named."""

from __future__ import annotations

import itertools

import pytest
import torch

from pipeline.ranks.digest import differing, digest

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
WHOLE = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]


def tensor_of(dtype: torch.dtype) -> torch.Tensor:
    values = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)) * 50
    return values.to(torch.int64).abs().to(dtype) if dtype in WHOLE else values.to(dtype)


def one(tensor: torch.Tensor) -> int:
    return int(digest({"x": tensor})[0])


@pytest.mark.parametrize("dtype", FLOATS + WHOLE)
def test_any_single_flipped_bit_shows(dtype: torch.dtype) -> None:
    tensor = tensor_of(dtype)
    raw, expected = tensor.view(-1).view(torch.uint8), one(tensor)
    for place, bit in itertools.product(range(len(raw)), range(8)):
        raw[place] ^= 1 << bit
        assert one(tensor) != expected, (place, bit)
        raw[place] ^= 1 << bit
    assert one(tensor) == expected


def test_a_flipped_boolean_shows() -> None:
    values = [one(torch.tensor(bits)) for bits in itertools.product([False, True], repeat=4)]
    assert len(set(values)) == 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.uint8])
def test_the_order_of_the_elements_counts(dtype: torch.dtype) -> None:
    tensors = [torch.tensor(order).to(dtype) for order in itertools.permutations([1, 2, 3, 4, 5])]
    assert len({one(tensor) for tensor in tensors}) == len(tensors)


def test_two_elements_that_change_places_far_apart_show() -> None:
    weights = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    expected = one(weights)
    for first, second in itertools.combinations([0, 1, 2, 63, 64, 500, 512, 998, 999], 2):
        swapped = weights.clone()
        swapped[[first, second]] = weights[[second, first]]
        assert one(swapped) != expected


def test_tensors_of_many_chunks_are_covered_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.ranks.digest.CHUNK", 8)
    weights = torch.arange(32, dtype=torch.float32)
    expected = one(weights)
    for place in range(32):
        changed = weights.clone()
        changed[place] += 1
        assert one(changed) != expected
    rolled = {one(weights.roll(shift)) for shift in range(32)}
    assert len(rolled) == 32


def test_zero_minus_zero_and_the_kinds_of_nan_differ() -> None:
    nans = torch.tensor([0x7FC00000, 0x7FC00001], dtype=torch.int32).view(torch.float32)
    values = [torch.tensor(0.0), torch.tensor(-0.0), nans[0].clone(), nans[1].clone()]
    assert len({one(value) for value in values}) == 4


def test_the_memory_layout_does_not_change_a_digest() -> None:
    matrix = torch.randn(6, 8)
    assert one(matrix.T.contiguous().T) == one(matrix)
    assert one(torch.cat([matrix, matrix], 1)[:, :8]) == one(matrix)
    assert one(matrix.clone().requires_grad_()) == one(matrix)


def test_there_is_one_digest_for_each_tensor_in_order() -> None:
    tensors = {"b": torch.zeros(3), "a": torch.ones(2, 2), "scalar": torch.tensor(7), "empty": torch.zeros(0)}
    digests = digest(tensors)
    assert (digests.dtype, digests.shape) == (torch.int64, (4,))
    assert digests.tolist() == [one(tensor) for tensor in tensors.values()]


@pytest.mark.parametrize(
    ("column", "odd"),
    [
        ([5, 5, 5, 5], None),
        ([5, 5, 7, 5], [2]),
        ([7, 5, 5, 5], [0]),
        ([5, 7, 7, 7], [0]),
        ([5, 7], [1]),
        ([7, 5], [1]),
        ([5, 7, 7, 5], [1, 2]),
        ([7, 5, 5, 7, 9], [1, 2, 4]),
        ([1, 2, 3], [1, 2]),
        ([1, 2, 3, 3], [0, 1]),
        ([5], None),
    ],
)
def test_the_ranks_outside_the_largest_group_are_named(column: list[int], odd: list[int] | None) -> None:
    found = differing(["weight"], torch.tensor([column]).T)
    assert found == ([] if odd is None else [("weight", odd)])


def test_only_tensors_that_differ_are_named_in_order() -> None:
    digests = torch.tensor([[1, 2, 3, 4], [1, 9, 3, 4], [1, 2, 3, 8]])
    assert differing(["a", "b", "c", "d"], digests) == [("b", [1]), ("d", [2])]


def test_a_bit_that_one_rank_lost_is_traced_to_its_tensor_and_rank() -> None:
    ranks = [{"kept": torch.ones(3, 3), "lost": torch.full((4,), 0.5)} for _ in range(3)]
    ranks[1]["lost"].view(torch.int32)[2] ^= 1
    digests = torch.stack([digest(tensors) for tensors in ranks])
    assert differing(["kept", "lost"], digests) == [("lost", [1])]
