"""What a step asks of a GPU, for every preset: nothing that a GPU's kernels refuse, and no more with more ranks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.config import load_config
from pipeline.options import Config
from pipeline.presets import find_config, list_presets

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "speed"))
from operations import EXCHANGE, Counts, captured_step, count
from stand_in_gpu import stand_in_gpu

PRESETS = [preset.name for preset in list_presets()]


def preset(name: str) -> Config:
    return load_config(find_config(Path(name)))


def strides(tensor: Tensor) -> tuple[int, ...]:
    """Those that matter: along a dimension of size 1 there is nothing to stride over."""
    return tuple(stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1)


class Preconditions(TorchDispatchMode):
    """Fails where CUDA's kernels would, though those of the CPU do not."""

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        name = operation.name()
        if "batch_norm_backward" in name:
            assert all(given is not None for given in arguments), name
        if name.startswith("aten::_foreach") or "fused" in name:
            lists = [given for given in arguments if isinstance(given, (list, tuple)) and given]
            assert lists, f"{name} of no tensors"
            for tensors in zip(*lists, strict=True):
                # Other strides make CUDA take the tensors one by one.
                assert len({strides(tensor) for tensor in tensors if tensor.dim()}) <= 1, name
                assert len({tensor.device for tensor in tensors}) == 1, name
        return operation(*arguments, **(named or {}))


@pytest.mark.slow
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("name", PRESETS)
def test_a_step_of_a_preset_reads_nothing_on_the_host_and_asks_for_what_gpus_have(
    name: str, layout: torch.memory_format
) -> None:
    config = preset(name)
    with stand_in_gpu(8) as device:
        step = captured_step(config, 8, device, EXCHANGE.gather, layout)
        step()
        with Preconditions(), Counts() as counts:
            step()
    assert (counts.reads, counts.on_host) == ([], [])
    rounds = 2 if config.schedule.critic_rounds == "alternating" else 1
    gradients = config.schedule.critic_updates * rounds + 1
    has_batch_norm = "batch" in (config.model.generator_norm, config.model.critic_norm)
    assert len(counts.exchanges) > gradients if has_batch_norm else len(counts.exchanges) == gradients
    assert max(counts.exchanges) <= 2, "lists of tensors"


@pytest.mark.parametrize("name", ["digits", "mnist-gp"])
def test_the_operations_and_exchanges_of_a_step_do_not_grow_with_the_ranks(name: str) -> None:
    config, counts = preset(name), []
    for ranks in (8, 256):
        schedule = config.schedule.model_copy(update={"global_batch": 4 * ranks})
        counts.append(count(config.model_copy(update={"schedule": schedule}), ranks))
    few, many = counts
    assert few.names == many.names
    assert few.exchanges == many.exchanges


def test_one_rank_exchanges_nothing() -> None:
    assert count(preset("digits"), 1).exchanges == []


def test_a_read_by_the_host_is_seen() -> None:
    with stand_in_gpu() as device, pytest.raises(RuntimeError, match="item"):
        torch.zeros((), device=device).item()
    with Counts() as counts:
        torch.ones(2).sum().item()
    assert counts.reads == ["aten::_local_scalar_dense"]
    assert counts.on_host


def test_an_empty_list_is_refused() -> None:
    none: list[Tensor] = []
    with Preconditions(), pytest.raises((AssertionError, RuntimeError)):
        torch._foreach_zero_(none)
