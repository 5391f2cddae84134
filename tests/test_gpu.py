"""What only a GPU can show: half precisions, the device's cache, and resume with both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.quality.metrics import MEASURES
from pipeline.quality.sets import Collected, RealSets, Sets
from tests.ranks import Ranks, assert_same_bits, newest, read_metrics, read_series, read_state, read_tensors

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]

CUDA = ["runtime.device=cuda", "schedule.global_batch=64"]


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
@pytest.mark.parametrize("objective", ["wasserstein", "gradient_penalty"])
def test_every_precision_trains(
    precision: str, objective: str, ranks: Ranks, config: str, tmp_path: Path
) -> None:
    options = [f"precision={precision}", f"objective.name={objective}", "schedule.steps=40"]
    run = ranks.run(1, [config, *CUDA, *options, "critic_optimizer.lr=5e-4"])
    assert f"{precision}," in run.log(0)
    series = read_series(tmp_path / "run")
    assert np.isfinite(series["wasserstein/estimate"]).all()
    assert series["wasserstein/estimate"][-1][1] > 0
    assert series["memory/device_peak_mib"][-1][1] > 0
    weights = read_tensors(newest(tmp_path / "run"))
    networks = [array for name, array in weights.items() if name.startswith(("critic/", "generator/"))]
    assert {str(array.dtype) for array in networks} <= {"float32", "int64"}
    if objective == "wasserstein":
        critic = [array for name, array in weights.items() if name.startswith("critic/")]
        assert max(np.abs(array).max() for array in critic) <= np.float32(0.01)


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_spectral_norm_holds_every_layer_near_1_in_every_precision(
    precision: str, ranks: Ranks, config: str, tmp_path: Path
) -> None:
    options = ["objective.name=hinge", "model.spectral_norm=true", "critic_optimizer.lr=1e-4"]
    ranks.run(1, [config, *CUDA, *options, f"precision={precision}"])
    weights = read_tensors(newest(tmp_path / "run"))
    layers = [
        name.removesuffix("original") for name in weights if name.endswith("parametrizations.weight.original")
    ]
    critic = [layer for layer in layers if layer.startswith("critic/")]
    assert critic
    for layer in critic:
        matrix = weights[f"{layer}original"].reshape(len(weights[f"{layer}original"]), -1)
        sigma = weights[f"{layer}0._u"] @ matrix @ weights[f"{layer}0._v"]
        assert sigma == pytest.approx(np.linalg.svd(matrix, compute_uv=False)[0], rel=0.05)


def test_every_cache_gives_the_same_bits(ranks: Ranks, config: str, tmp_path: Path) -> None:
    for cache in ("device", "host", "none"):
        run = ranks.run(1, [config, *CUDA, f"data.cache={cache}", f"name={cache}", "schedule.steps=1"])
        assert f"cache: {cache}" in run.log(0)
    device, host, none = (
        read_metrics(tmp_path / name)[0]["critic/real"] for name in ("device", "host", "none")
    )
    assert device == pytest.approx(host, rel=1e-5)
    assert device == pytest.approx(none, rel=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_a_resumed_run_goes_on_with_its_scale_and_counters(
    precision: str, ranks: Ranks, config: str, tmp_path: Path
) -> None:
    options = [config, *CUDA, f"precision={precision}"]
    ranks.run(1, [*options, "name=moves", "schedule.steps=11"])
    before = read_state(newest(tmp_path / "moves"))
    run = ranks.run(1, [*options, "name=moves", "schedule.steps=20"])
    assert "resumes from" in run.log(0)
    ranks.run(1, [*options, "name=whole", "schedule.steps=20"])
    moves, whole = (read_state(newest(tmp_path / name)) for name in ("moves", "whole"))
    assert moves["counters"] == whole["counters"]
    assert moves["scaler"] == whole["scaler"]
    assert bool(before["scaler"]) == (precision == "fp16")


def test_a_run_stopped_between_saves_is_restored_bit_for_bit(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    """Training on from a state may round otherwise on a GPU; the state itself must not change."""
    ranks.run(1, [config, *CUDA, "schedule.steps=4"])
    before = read_tensors(newest(tmp_path / "run"))
    ranks.run(1, [config, *CUDA, "schedule.steps=4"])
    assert_same_bits(read_tensors(newest(tmp_path / "run")), before)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["objective.name=gradient_penalty", "critic_optimizer.name=adam", "data.flip=true"],
        ["data.cache=none", "ema_decay=0.9"],
        ["model.conditional=true", "objective={name: relativistic, class_loss: 0.5}"],
        ["schedule.bursts={first_steps: 2, every: 6, critic_updates: 5}", "critic_optimizer.decay=linear"],
    ],
)
def test_a_step_that_is_one_cuda_graph_trains_the_same_weights(
    options: list[str], precision: str, ranks: Ranks, config: str, tmp_path: Path
) -> None:
    common = [config, *CUDA, f"precision={precision}", *options]
    ranks.run(1, [*common, "name=eager", "runtime.cuda_graph=false"])
    assert "one CUDA graph" in ranks.run(1, [*common, "name=graph"]).log(0)
    eager, graph = (read_tensors(newest(tmp_path / name)) for name in ("eager", "graph"))
    moved = [name for name in eager if name.startswith(("critic/", "generator/", "ema/"))]
    for name in moved:
        # The learning rate is a tensor there, which rounds otherwise.
        np.testing.assert_allclose(graph[name], eager[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_a_captured_run_goes_on_from_its_checkpoint(ranks: Ranks, config: str, tmp_path: Path) -> None:
    options = [config, *CUDA, "runtime.cuda_graph=true"]
    ranks.run(1, [*options, "name=moves", "schedule.steps=11"])
    ranks.run(1, [*options, "name=moves", "schedule.steps=20"])
    ranks.run(1, [*options, "name=whole", "schedule.steps=20"])
    moves, whole = (read_tensors(newest(tmp_path / name)) for name in ("moves", "whole"))
    for name in whole:
        np.testing.assert_allclose(moves[name], whole[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_fp16_is_not_captured(ranks: Ranks, config: str) -> None:
    run = ranks.start(1, [config, *CUDA, "precision=fp16", "runtime.cuda_graph=true"])
    assert run.wait() == [2]
    assert "runtime.cuda_graph cannot be combined with precision: fp16" in run.output


def test_the_precision_that_is_chosen_is_half_where_the_device_has_it(ranks: Ranks, config: str) -> None:
    expected = "bf16" if torch.cuda.is_bf16_supported(False) else "float32"
    run = ranks.run(1, [config, *CUDA, "precision=auto", "schedule.steps=1"])
    assert f"{expected}," in run.log(0)


@pytest.mark.parametrize("metric", ["fid", "kid", "precision", "recall", "copied", "swd"])
def test_metrics_find_the_same_on_a_gpu(metric: str) -> None:
    source = torch.Generator().manual_seed(0)

    def collected(scale: float) -> Collected:
        pixels = torch.randint(256, (300, 3, 32, 32), generator=source, dtype=torch.uint8)
        return Collected(torch.randn(300, 16, generator=source) * scale, pixels, torch.zeros(300, 0))

    real, fake, training, held_out = (collected(scale) for scale in (1.0, 1.1, 1.0, 1.0))
    figures = []
    for device in ("cpu", "cuda"):
        known = RealSets(real, training.features, held_out.features, 300, 0, device=torch.device(device))
        figures.append(MEASURES[metric](Sets(known, fake)))
    assert figures[1] == pytest.approx(figures[0], rel=1e-5)
