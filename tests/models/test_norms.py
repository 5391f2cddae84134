"""Batch norm, on one rank and over ranks, compared with PyTorch's."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.models.norms import BatchNorm2d, can_be_grouped, grouped, norm

SHAPE = (5, 3, 4, 4)


def alone(values: Tensor) -> Tensor:
    """The gather function of a single rank."""
    return values[None]


class Meeting:
    """Ranks that are threads of this process."""

    def __init__(self, world_size: int) -> None:
        self._barrier, self._values = threading.Barrier(world_size, timeout=30), [torch.empty(0)] * world_size

    def rows(self, rank: int, values: Tensor) -> Tensor:
        self._values[rank] = values
        self._barrier.wait()
        rows = torch.stack(self._values)
        self._barrier.wait()
        return rows


def pair(summing: bool) -> tuple[BatchNorm2d, nn.BatchNorm2d]:
    """Our layer and PyTorch's, with the same weights, biases and running statistics."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = BatchNorm2d(3), nn.BatchNorm2d(3)
    with torch.no_grad():
        theirs.weight.copy_(torch.randn(3, generator=generator) + 1)
        theirs.bias.copy_(torch.randn(3, generator=generator))
    ours.load_state_dict(theirs.state_dict())
    if summing:
        ours.gather_over_ranks = alone
    return ours, theirs


def batch(number: int = 0, offset: float = 2.0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(number)) * 3 + offset


def assert_same_state(ours: nn.Module, theirs: nn.Module, **tolerance: Any) -> None:
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, **tolerance)


def weights_of(x: Tensor) -> Tensor:
    return torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x)


def gradients(layer: nn.BatchNorm2d, x: Tensor, weights: Tensor) -> list[Tensor]:
    """The output, and the gradients of a loss."""
    x = x.clone().requires_grad_()
    y = layer(x)
    found = torch.autograd.grad((y.sin() * weights).sum(), [x, layer.weight, layer.bias])
    return [y.detach(), *found]


def derivatives(layer: nn.BatchNorm2d, x: Tensor) -> list[Tensor]:
    """The output, its gradients, and the gradients of a penalty on those of the input."""
    x = x.clone().requires_grad_()
    y = layer(x)
    loss = (y.sin() * weights_of(x)).sum()
    first = torch.autograd.grad(loss, [x, layer.weight, layer.bias], create_graph=True)
    penalty = (first[0].flatten(1).norm(dim=1) - 1).square().sum()
    second = torch.autograd.grad(penalty, [x, layer.weight, layer.bias])
    return [y.detach(), *(gradient.detach() for gradient in (*first, *second))]


def assert_equal_over_ranks(layers: list[BatchNorm2d], whole: BatchNorm2d, x: Tensor) -> None:
    """Two ranks with a part of the batch each have, together, the output and the gradients of the whole one."""
    meeting, expected = Meeting(2), gradients(whole, x, weights_of(x))
    for rank, layer in enumerate(layers):
        layer.gather_over_ranks = partial(meeting.rows, rank)
    halves, weights = [x[:2], x[2:]], [weights_of(x)[:2], weights_of(x)[2:]]
    with ThreadPoolExecutor(2) as pool:
        (images, slopes, gains, biases) = zip(*pool.map(gradients, layers, halves, weights), strict=True)
    torch.testing.assert_close(torch.cat(images), expected[0])
    torch.testing.assert_close(torch.cat(slopes), expected[1])
    # DDP sums the gradients of the weights over the ranks.
    torch.testing.assert_close(sum(gains), expected[2])
    torch.testing.assert_close(sum(biases), expected[3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_on_one_rank_it_equals_pytorch_bit_for_bit(dtype: torch.dtype) -> None:
    ours, theirs = (layer.to(dtype) for layer in pair(summing=False))
    for number in range(3):
        found, expected = (derivatives(layer, batch(number).to(dtype)) for layer in (ours, theirs))
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)
    assert_same_state(ours, theirs, rtol=0, atol=0)
    ours.eval()
    theirs.eval()
    assert torch.equal(ours(batch(9).to(dtype)), theirs(batch(9).to(dtype)))


def test_in_a_group_of_one_rank_it_equals_pytorch_up_to_rounding() -> None:
    ours, theirs = pair(summing=True)
    theirs.double()
    for number in range(3):
        x = batch(number)
        found = gradients(ours, x, weights_of(x))
        expected = gradients(theirs, x.double(), weights_of(x.double()))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other.float(), rtol=2e-4, atol=2e-4)
    assert_same_state(ours, theirs.float(), rtol=1e-5, atol=1e-5)
    ours.eval()
    theirs.eval()
    torch.testing.assert_close(ours(batch(9)), theirs(batch(9)), rtol=1e-5, atol=1e-5)


def test_a_small_spread_around_a_large_mean_keeps_its_digits() -> None:
    ours, theirs = pair(summing=True)
    x = batch(offset=3000.0)
    torch.testing.assert_close(ours(x), theirs.double()(x.double()).float(), rtol=1e-3, atol=1e-3)


def test_two_ranks_equal_one_rank_with_the_whole_batch() -> None:
    """The ranks have different parts of the batch, and the sum of their losses is the loss of the whole."""
    x = batch().double()
    whole = pair(summing=False)[0].double()
    layers = [pair(summing=False)[0].double() for _ in range(2)]
    assert_equal_over_ranks(layers, whole, x)
    for layer in layers:
        assert_same_state(layer, whole, rtol=1e-9, atol=1e-9)


def test_grouped_batches_are_normalised_as_separate_passes() -> None:
    ours, theirs = pair(summing=True)[0], pair(summing=False)[0]
    batches = [batch(0), batch(1, offset=-5.0), batch(2)]
    with torch.no_grad(), grouped(ours, 3):
        found = ours(torch.cat(batches))
    torch.testing.assert_close(found, torch.cat([theirs(each) for each in batches]))
    assert_same_state(ours, theirs, rtol=1e-5, atol=1e-5)
    assert ours.groups == 1


def test_only_batch_norm_over_ranks_can_be_grouped() -> None:
    over_ranks, by_itself = pair(summing=True)[0], pair(summing=False)[0]
    assert can_be_grouped(nn.Sequential(nn.Conv2d(3, 3, 1), over_ranks, nn.GroupNorm(1, 3)))
    assert not can_be_grouped(nn.Sequential(over_ranks, by_itself))


@pytest.mark.parametrize("summing", [False, True])
def test_running_statistics_can_be_frozen(summing: bool) -> None:
    layer, _ = pair(summing)
    layer(batch(0))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    assert before["num_batches_tracked"] == 1
    expected = copy.deepcopy(layer)(batch(1))
    layer.updates_statistics = False
    found = layer(batch(1))
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert torch.equal(found, expected)
    layer.updates_statistics = True
    layer(batch(1))
    assert layer.num_batches_tracked == 2
    assert not torch.equal(layer.get_buffer("running_mean"), before["running_mean"])


@pytest.mark.parametrize("summing", [False, True])
def test_momentum_is_the_share_of_the_newest_batch(summing: bool) -> None:
    layers = (BatchNorm2d(3, momentum=0.2), BatchNorm2d(3), norm("batch", 3))
    for layer, share in zip(layers, (0.2, 0.1, 0.1), strict=True):
        assert isinstance(layer, BatchNorm2d)
        if summing:
            layer.gather_over_ranks = alone
        layer(batch())
        torch.testing.assert_close(layer.running_mean, share * batch().mean((0, 2, 3)))
        torch.testing.assert_close(layer.running_var, 1 - share + share * batch().var((0, 2, 3)))


@pytest.mark.parametrize("summing", [False, True])
def test_half_precision_input_gives_half_precision_output(summing: bool) -> None:
    layer, theirs = pair(summing)
    found = layer(batch().bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), theirs(batch()), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", ["none", "batch", "layer", "instance"])
def test_every_norm_keeps_the_shape(name: str) -> None:
    assert norm(name, 3)(batch()).shape == SHAPE  # type: ignore[arg-type]


def test_each_norm_normalises_its_own_axes() -> None:
    x = batch()
    torch.testing.assert_close(norm("none", 3)(x), x)
    for name, over in (("batch", (0, 2, 3)), ("layer", (1, 2, 3)), ("instance", (2, 3))):
        y = norm(name, 3)(x).detach()  # type: ignore[arg-type]
        means, deviations = y.mean(over), y.var(over, correction=0).sqrt()
        torch.testing.assert_close(means, torch.zeros_like(means), rtol=0, atol=1e-5)
        torch.testing.assert_close(deviations, torch.ones_like(deviations), rtol=1e-4, atol=1e-4)


def test_half_precision_gradients_are_as_exact_as_those_of_pytorch() -> None:
    x = batch().bfloat16()
    weights = (weights_of(batch()) + 2).bfloat16()
    errors = []
    for summing in (True, False):
        layer, theirs = pair(summing)
        found = gradients(layer, x, weights)[1].float()
        expected = gradients(theirs.double(), x.double(), weights.double())[1].float()
        errors.append((found - expected).norm() / expected.norm())
    assert errors[0] < 1.5 * errors[1]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_no_kernel_of_batch_norm_over_ranks_is_given_none_for_a_tensor(layout: torch.memory_format) -> None:
    # CUDA's kernels refuse what the CPU's accept.
    seen = []

    class Spy(TorchDispatchMode):
        def __torch_dispatch__(
            self, function: Any, types: Any, arguments: Any = (), named: Any = None
        ) -> Any:
            if "batch_norm" in function.name():
                missing = [
                    wanted.name
                    for wanted, given in zip(function._schema.arguments, arguments, strict=False)
                    if given is None
                ]
                seen.append((function.name(), missing))
            return function(*arguments, **(named or {}))

    layer, _ = pair(summing=True)
    with Spy():
        gradients(layer, batch().contiguous(memory_format=layout), weights_of(batch()))
    assert ("aten::native_batch_norm_backward", []) in seen
    assert all(not missing for _, missing in seen), seen
