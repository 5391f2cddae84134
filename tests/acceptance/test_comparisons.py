"""What the stages compare: each comparison finds what is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline import stopping
from pipeline.acceptance import alone, exchange, faults, updates
from pipeline.acceptance.bench import Bench
from pipeline.acceptance.runs import RATE, STEPS, check_same_bits, distance
from pipeline.errors import Interrupted
from pipeline.ranks.averaging import Exchange
from pipeline.ranks.process import settings_given_back
from pipeline.ranks.runtime import Runtime


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def program(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code])


def test_a_single_bit_is_found_and_named(bench: Bench) -> None:
    ours = {"critic/weight": torch.ones(3), "critic/bias": torch.zeros(2)}
    check_same_bits(bench, ours, {name: value.clone() for name, value in ours.items()}, "twice")
    assert bench.failures == []
    ours["critic/bias"][1] = -0.0
    check_same_bits(bench, ours, {**ours, "critic/bias": torch.zeros(2)}, "twice")
    check_same_bits(bench, ours, {}, "twice")
    assert bench.failures == [
        "twice: 1 of 2 tensors differ, critic/bias for example",
        "twice: 2 tensors are in one of two states only",
    ]


def test_a_distance_is_a_share_of_the_way_of_a_weight() -> None:
    start = {"critic/layers.weight": torch.ones(4), "critic/running_mean": torch.ones(4)}
    moved = {
        name: value + (RATE * STEPS if name.endswith("weight") else 9.0) for name, value in start.items()
    }
    assert distance(moved, start) == pytest.approx(1.0, rel=1e-3)
    assert distance(start, start) == 0.0


@pytest.mark.parametrize(
    ("code", "noted", "failures"),
    [
        (6, {"exit_code": 6}, []),
        (1, {"exit_code": 6}, ["it ended with exit code 1, not 6"]),
        (6, {"exit_code": 1}, ["FAILED in the run's directory says 1, not 6"]),
        (6, None, ["FAILED in the run's directory says nothing, not 6"]),
    ],
)
def test_a_run_must_end_with_the_code_of_its_fault_and_note_it(
    code: int, noted: Any, failures: list[str], bench: Bench
) -> None:
    (bench.scratch / "run").mkdir()
    if noted is not None:
        (bench.scratch / "run" / "FAILED").write_text(json.dumps(noted))
    run = program(f"raise SystemExit({code})")
    faults._expect(bench, run, "run", 6, "FAILED", 60)
    assert bench.failures == failures


def test_a_run_that_goes_on_after_its_fault_is_a_failure(bench: Bench) -> None:
    run = program("import time; time.sleep(600)")
    try:
        faults._expect(bench, run, "run", 6, "FAILED", 0.1)
    finally:
        run.kill()
        run.wait()
    assert bench.failures == ["it had not ended after 0 s"]


def test_settings_of_the_allocator_do_not_give_a_large_network_its_memory(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the names that torch reads, the old ones come before the new one."""
    start, given = subprocess.Popen, []

    def run(words: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
        given.append({name: value for name, value in env.items() if name.startswith("PYTORCH_")})
        return start([sys.executable, "-c", "raise SystemExit(8)"])

    for name in faults.ALLOCATORS:
        monkeypatch.setenv(name, "max_split_size_mb:128")
    monkeypatch.setattr(faults, "config_file", lambda bench: bench.scratch)
    monkeypatch.setattr(subprocess, "Popen", run)
    faults.run_out_of_memory(bench)
    assert bench.failures == []
    assert [list(names.values()) for names in given] == [[faults.LITTLE_OF_A_GPU]]


@pytest.mark.slow
def test_a_gradient_that_is_a_tenth_too_large_is_found(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    cases, backward = updates.cases, Runtime.backward
    monkeypatch.setattr(updates, "cases", lambda config: cases(config)[5:7])
    monkeypatch.setattr(updates, "precisions", lambda: ["float32"])
    assert "2 pairs" in updates.run(bench)
    assert bench.failures == []

    factors = [1.0]

    @contextmanager
    def step_arithmetic(runtime: Runtime) -> Iterator[None]:
        factors.append(1.1)
        yield
        factors.pop()

    def scaled(runtime: Runtime, loss: Tensor, weights: Any) -> None:
        backward(runtime, loss * factors[-1], weights)

    # The arithmetic of training steps is what is tested: TF32 is used nowhere else.
    monkeypatch.setattr(Runtime, "step_arithmetic", step_arithmetic)
    monkeypatch.setattr(Runtime, "backward", scaled)
    updates.run(bench)
    found = [failure for failure in bench.failures if failure.startswith("float32, mlp, wasserstein, critic")]
    assert found == ["float32, mlp, wasserstein, critic: the gradient is off by 10.0% of its norm"]


@pytest.mark.slow
def test_a_sum_that_is_wrong_on_one_rank_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In this process, as a single rank, whose mean must be its own values."""
    found = tmp_path / "found.json"
    with settings_given_back():
        assert exchange.main([str(found)]) == 0
    assert json.loads(found.read_text())["wrong"] == []
    monkeypatch.setattr(Runtime, "mean", lambda runtime, values: values.add_(1))
    with settings_given_back():
        assert exchange.main([str(found)]) == 0
    assert json.loads(found.read_text())["wrong"] == list(exchange.SIZES)


@pytest.mark.parametrize(
    ("backend", "remedy"), [("nccl", "NCCL_P2P_DISABLE=1"), ("gloo", "Check the memory")]
)
def test_wrong_sums_are_told_with_what_to_do(
    backend: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(ranks: int, module: str, words: list[str]) -> int:
        Path(words[0]).write_text(json.dumps({"backend": backend, "wrong": [1, 1000]}))
        return 0

    monkeypatch.setattr(exchange, "launch", launch)
    problem = exchange.exchange(2)[1]
    assert problem is not None
    assert problem.startswith("sums of tensors with 1 and 1,000 numbers are wrong over 2 ranks")
    assert remedy in problem


def test_ctrl_c_during_an_exchange_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(*words: Any) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        return 130

    monkeypatch.setattr(exchange, "launch", launch)
    with stopping.listening(saves=False), pytest.raises(Interrupted):
        exchange.exchange(2)


def test_exchanges_of_a_single_rank_that_change_numbers_are_found(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alone, "capture_cuda_graph", lambda run: run)
    alone.run(bench, "gloo")
    assert bench.failures == []
    monkeypatch.setattr(alone, "SIZES", (2,))
    monkeypatch.setattr(alone, "REPLAYS", 1)
    monkeypatch.setattr(Exchange, "average", lambda exchange, tensors: tensors[0].add_(1))
    alone.run(bench, "gloo")
    assert bench.failures == [f"{how}: the mean of 2 numbers is wrong" for how in ("eager", "as a graph")]
