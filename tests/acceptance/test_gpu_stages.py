"""The stages that need a GPU, with what only a GPU has replaced: all of them but the GPU itself is run here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.acceptance import captured, scaled, speed
from pipeline.acceptance.bench import Bench
from pipeline.ranks.runtime import Runtime
from pipeline.training import build, checks
from pipeline.training.trainer import Trainer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture
def bench(scratch: Path) -> Bench:
    return Bench(scratch)


@pytest.fixture
def as_if_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the stages of captured steps run on the CPU, for few steps, which are eager."""
    monkeypatch.setattr(captured, "precisions", lambda: ["float32"])
    for module in (build, checks):
        monkeypatch.setattr(module, "captures_steps", lambda config, runtime: False)
    for name in ("FIRST", "WATCHED", "LONG"):
        monkeypatch.setattr(captured, name, 2)


@contextmanager
def refusal() -> Iterator[None]:
    yield
    raise RuntimeError("called a synchronizing CUDA operation")


def test_a_hidden_wait_fails_its_stage(
    bench: Bench, as_if_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captured, "hidden_waits_refused", refusal)
    captured.no_waits(bench)
    assert bench.failures == [
        f"float32, {kind}: called a synchronizing CUDA operation" for kind in ("eager", "one graph")
    ]


def test_a_graph_with_other_bits_and_more_memory_fails_its_stage(
    bench: Bench, as_if_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_eagerly, sizes = captured.take_eagerly, iter([1, 2])

    def spoil(trainer: Trainer) -> None:
        take_eagerly(trainer)
        next(trainer.state.critic.module.parameters()).data[0] += 1e-3

    monkeypatch.setattr(captured, "take_eagerly", spoil)
    monkeypatch.setattr(captured, "used_memory", lambda device: next(sizes))
    captured.same_as_eager(bench)
    assert bench.failures[0] == "float32: 1 bytes more are in use after 2 steps"
    assert "tensors differ" in bench.failures[1]


def test_a_scale_that_is_too_high_is_halved_until_steps_work(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With torch's scaler for CPUs, and losses that overflow where float16 would."""
    start, backward = Runtime.__init__, Runtime.backward

    def start_with_scaler(runtime: Runtime, *options: Any) -> None:
        start(runtime, *options)
        runtime._accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def overflow(runtime: Runtime, loss: Tensor, weights: Any) -> None:
        overflows = runtime.scaler_state()["scale"] > 2.0**16
        backward(runtime, loss * float("inf") if overflows else loss, weights)

    monkeypatch.setattr(Runtime, "__init__", start_with_scaler)
    monkeypatch.setattr(Runtime, "backward", overflow)
    monkeypatch.setattr(scaled, "PRECISION", "float32")
    scaled.run(bench)
    assert bench.failures == []
    # Three halvings in each: the last update of the fifteenth step is the first at 2^16.
    assert bench.figures == {"steps": 15, "scale": 2.0**16}


def test_several_gpus_that_are_slower_than_one_fail_their_stage(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = {1: 1000.0, 8: 900.0}

    def train(bench: Bench, ranks: int, precision: str, *overrides: str) -> dict[str, float]:
        found = {"images_per_second": speeds[ranks], "step_seconds": 0.002, "peak_mib": 1.0}
        return {**found, "kernel_ms": 1.0} if "profile=true" in overrides else found

    monkeypatch.setattr(speed, "_train", train)
    monkeypatch.setattr(speed, "precisions", lambda: ["float32", "bf16"])
    speed.on_one(bench)
    assert bench.failures == []
    assert bench.figures["bf16, graph"]["busy_share"] == 0.5
    eight = Bench(bench.scratch)
    speed.on_eight(eight)
    assert eight.failures[0] == "float32, eager: 900 images/s on 8 GPUs, and 1,000 on one"
    assert len(eight.failures) == 4
