"""The arithmetic of metrics on a GPU: shown without one, on tensors without content that know their device."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from pipeline.quality.frechet import gaussian
from pipeline.quality.metrics import MEASURES
from pipeline.quality.neighbours import nearest
from pipeline.quality.sets import Collected, RealSets, Sets
from pipeline.quality.sliced_wasserstein import RealPatches

GPU = torch.device("cuda", 0)


@pytest.fixture
def fake() -> Iterator[None]:
    with FakeTensorMode():
        yield


def on_host(count: int) -> Collected:
    return Collected(torch.empty(count, 16), torch.empty(count, 3, 32, 32, dtype=torch.uint8), torch.empty(0))


def sets(samples: int = 60) -> Sets:
    real = RealSets(on_host(60), torch.empty(300, 16), torch.empty(60, 16), samples, 0, device=GPU)
    return Sets(real, on_host(samples))


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("metric", ["fid", "kid", "precision", "copied", "swd"])
def test_a_metric_computes_on_the_device_until_it_has_its_figure(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = set()
    read = Tensor.item

    def item(tensor: Tensor) -> float:
        devices.add(tensor.device)
        return read(tensor)

    monkeypatch.setattr(Tensor, "item", item)
    # Without content there is no figure to read, and no rank of a covariance.
    expected = DynamicOutputShapeException if metric == "fid" else DataDependentOutputException
    with pytest.raises(expected):
        MEASURES[metric](sets())
    assert devices <= {GPU}


@pytest.mark.usefixtures("fake")
def test_every_result_is_on_the_device() -> None:
    measured = sets()
    ours, _ = measured.features
    found = gaussian(ours)
    results = [
        found.mean,
        found.covariance,
        *nearest(ours, measured.real.training, 2),
        *RealPatches.of(measured.real.compared.images.to(GPU), 60, 0).projections,
    ]
    assert {result.device for result in results} == {GPU}
