"""The generator's moving average."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pipeline.models.norms import BatchNorm2d
from pipeline.training.ema import decay_of, ema_weight, update_ema


def network(value: float) -> Any:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), BatchNorm2d(2)).double()
    for tensor in module.state_dict().values():
        tensor.fill_(value)
    return module


def decay_at(step: int, decay: float) -> float:
    return min(decay, (1 + step) / (10 + step))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_constant_weights_are_approached_by_the_product_of_the_decays(decay: float) -> None:
    average, model = network(1.0), network(4.0)
    left = 1.0
    for step in range(1, 201):
        update_ema(average, model, ema_weight(decay, step))
        left *= decay_at(step, decay)
        for name, tensor in average.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                assert tensor.flatten().tolist() == pytest.approx([4.0 - 3.0 * left] * tensor.numel())


def test_the_decay_rises_from_a_small_value_to_the_configured_one() -> None:
    average, model = network(0.0), network(1.0)
    update_ema(average, model, ema_weight(0.999, 1))
    assert average[0].bias[0].item() == pytest.approx(9 / 11)
    average = network(0.0)
    update_ema(average, model, ema_weight(0.999, 1_000_000))
    assert average[0].bias[0].item() == pytest.approx(0.001)


@pytest.mark.parametrize("batch", [16, 64, 320])
def test_a_half_life_in_images_does_not_depend_on_the_batch(batch: int) -> None:
    average, model, left = network(1.0), network(0.0), 1.0
    for _ in range(6400 // batch):
        update_ema(average, model, 1.0 - decay_of(3200, batch))
        left *= decay_of(3200, batch)
    assert left == pytest.approx(0.25)
    assert average[0].bias[0].item() == pytest.approx(0.25)


def test_running_statistics_are_averaged_and_counters_copied() -> None:
    average, model = network(1.0), network(3.0)
    model[1].running_var.fill_(2.0)
    model[1].num_batches_tracked.fill_(41)
    update_ema(average, model, 0.5)
    assert average[1].running_mean.tolist() == [2.0, 2.0]
    assert average[1].running_var.tolist() == [1.5, 1.5]
    assert average[1].num_batches_tracked.item() == 41


def test_the_model_is_left_alone_and_no_graph_is_kept() -> None:
    average, model = network(1.0), network(3.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    update_ema(average, model, 0.2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad_fn is None for parameter in average.parameters())
    update_ema(average, model, torch.tensor(0.2).double())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
