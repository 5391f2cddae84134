"""Means between log points, and a window that a save cuts in two."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.monitor.window import Window

CPU = torch.device("cpu")


def alone(values: Tensor) -> Tensor:
    """The mean over one rank."""
    return values


def gather(values: Tensor) -> Tensor:
    """What one rank of one gathers."""
    return values[None]


def steps(count: int, rank: int = 0) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(rank)
    return [
        {"loss": torch.randn((), generator=generator), "norm": torch.rand((), generator=generator)}
        for _ in range(count)
    ]


def filled(metrics: list[dict[str, Tensor]]) -> Window:
    window = Window()
    for values in metrics:
        window.add(values)
    return window


def test_the_means_are_over_the_steps_since_the_last_time() -> None:
    window = filled(
        [{"a": torch.tensor(1.0), "b": torch.tensor(-2.0)}, {"a": torch.tensor(2.0), "b": torch.tensor(-4.0)}]
    )
    assert window.means(alone) == {"a": 1.5, "b": -3.0}
    window.add({"a": torch.tensor(8.0), "b": torch.tensor(0.0)})
    assert window.means(alone) == {"a": 8.0, "b": 0.0}


def test_a_window_without_steps_has_no_means_and_asks_no_other_rank() -> None:
    def fail(values: Tensor) -> Tensor:
        raise AssertionError

    assert Window().means(fail) == {}
    window = filled(steps(2))
    window.means(alone)
    assert window.means(fail) == {}


def test_the_ranks_are_averaged_once_with_all_values_together() -> None:
    calls = []

    def over_ranks(values: Tensor) -> Tensor:
        calls.append(values)
        return values + 1

    window = filled([{"a": torch.tensor(1.0), "b": torch.tensor(2.0)}] * 3)
    assert window.means(over_ranks) == {"a": 2.0, "b": 3.0}
    assert len(calls) == 1


def test_the_caller_may_reuse_its_tensors() -> None:
    window, value = Window(), torch.tensor(1.0)
    for _ in range(3):
        window.add({"a": value})
        value += 1
    assert window.means(alone) == {"a": 2.0}
    assert value == 4.0


@pytest.mark.parametrize("cut", [0, 1, 3, 6])
def test_a_window_saved_in_the_middle_ends_with_the_same_bits(cut: int) -> None:
    metrics = steps(7)
    expected = filled(metrics).means(alone)
    before = filled(metrics[:cut])
    tensors, facts = before.save(gather)
    after = Window()
    after.restore({name: value.clone() for name, value in tensors.items()}, facts, 0, 1, CPU)
    for window in (before, after):
        for values in metrics[cut:]:
            window.add(values)
        assert window.means(alone) == expected


def save_of_two_ranks(count: int) -> tuple[list[Window], dict[str, Tensor], dict[str, object]]:
    ranks = [filled(steps(count, rank)) for rank in range(2)]
    own = [rank.save(gather)[0]["sums"][0] for rank in ranks]
    tensors, facts = ranks[0].save(lambda _: torch.stack(own))
    return ranks, tensors, facts


def test_each_rank_takes_its_own_sums_back() -> None:
    ranks, tensors, facts = save_of_two_ranks(3)
    for rank, window in enumerate(ranks):
        restored = Window()
        restored.restore(tensors, facts, rank, 2, CPU)
        assert restored.means(alone) == window.means(alone)


@pytest.mark.parametrize("world_size", [1, 3, 4])
def test_with_another_number_of_ranks_each_takes_the_mean(world_size: int) -> None:
    ranks, tensors, facts = save_of_two_ranks(3)
    means = [window.means(alone) for window in ranks]
    for rank in range(world_size):
        restored = Window()
        restored.restore(tensors, facts, rank, world_size, CPU)
        found = restored.means(alone)
        for name in ("loss", "norm"):
            assert found[name] == pytest.approx((means[0][name] + means[1][name]) / 2, rel=1e-6)


def test_what_is_saved_does_not_follow_the_window() -> None:
    window = filled(steps(2))
    tensors, facts = window.save(lambda values: values.clone()[None])
    expected = tensors["sums"].clone()
    window.add(steps(1)[0])
    assert torch.equal(tensors["sums"], expected)
    assert facts["count"] == 2
