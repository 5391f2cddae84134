"""A captured step reads everything that changes from step to step from tensors that keep their address.

There is no CUDA graph here: instead, the captured function is called again on the same tensors. The graph itself is
tested in test_gpu.py.
"""

from __future__ import annotations

import weakref
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.noise import Noise
from pipeline.options import OptimizerOptions
from pipeline.training import build
from pipeline.training import step as training_step
from pipeline.training.graphed_step import GraphedStep, Replay
from pipeline.training.state import build_optimizer
from pipeline.training.step import Result, TrainingStep
from tests.ranks import Ranks, assert_same_bits, newest, read_metrics, read_tensors


class Addresses(TorchDispatchMode):
    """Where the tensors lie that the operations within take from outside: a graph reads there again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.outside, self._made = set[int](), set[int]()

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        # Constants for step counts on the host, which optimizers of captured steps do not have.
        if operation is not torch.ops.aten.lift_fresh.default:
            self.outside |= self._of((arguments, named)) - self._made
        result = operation(*arguments, **(named or {}))
        self._made |= self._of(result) - self.outside
        return result

    @staticmethod
    def _of(values: Any) -> set[int]:
        tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]
        return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}


LAZY = "objective.r_every=3"
"""Of 2 critic updates in a step, so that there are three kinds of steps."""


def train_as_if_captured(arguments: list[str]) -> int:
    """Train with steps captured once and replayed. In a replay nothing may call what a graph would not call again."""
    from pipeline.train import main

    graphs: list[weakref.ref[Replay]] = []
    read: dict[Replay, list[set[int]]] = {}
    leave = dist.destroy_process_group

    def leave_without_graph() -> None:
        assert all(graph() is None for graph in graphs), (
            "NCCL would wait for a graph that holds its exchanges"
        )
        leave()

    def capture(run: Replay) -> Replay:

        def replay() -> Result:
            with (
                patch.object(Noise, "seeded", side_effect=AssertionError),
                patch.object(training_step, "ema_weight", side_effect=AssertionError),
                patch.object(training_step, "learning_rate", side_effect=AssertionError),
                patch.object(training_step, "critic_updates_at", side_effect=AssertionError),
                Addresses() as addresses,
            ):
                result = run()
            read.setdefault(run, []).append(addresses.outside)
            return result

        graphs.append(weakref.ref(replay))
        return replay

    # Optimizers of captured steps exist on GPUs only.
    def eager_optimizer(network: nn.Module, options: OptimizerOptions, _is_captured: bool) -> Any:
        return build_optimizer(network, options, False)

    with (
        patch.object(build, "captures_steps", lambda *_: True),
        patch.object(build, "build_optimizer", eager_optimizer),
        patch.object(build, "GraphedStep", partial(GraphedStep, capture=capture)),
        patch.object(dist, "destroy_process_group", leave_without_graph),
    ):
        code = main(arguments)
    assert len(graphs) == (3 if LAZY in arguments else 1)
    for first, *others in read.values():
        assert all(addresses == first for addresses in others), "a graph would read where nothing is any more"
    return code


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["model.generator_norm=none", "data.flip=true"],
        ["data.cache=none", "ema_decay=0.999", "ema_half_life=200", "generator_optimizer.warm_up_images=300"],
        ["model.generator_norm=batch", "schedule.reuse_fakes=true"],
        ["schedule.bursts={first_steps: 2, every: 6, critic_updates: 5}", "critic_optimizer.decay=linear"],
        ["objective.name=gradient_penalty", "schedule.micro_batch=5", "model.conditional=true"],
        [
            "objective.name=relativistic",
            "model.conditional=true",
            LAZY,
            "schedule.critic_updates=2",
            "augment={kinds: [shift], target: 0.8}",
        ],
    ],
)
def test_a_captured_step_trains_the_same_weights(
    options: list[str], ranks: Ranks, config: str, tmp_path: Path
) -> None:
    ranks.run(1, [config, *options, "name=eager"])
    ranks.run(1, [config, *options, "name=captured"], target=train_as_if_captured)
    eager, captured = (newest(tmp_path / name) for name in ("eager", "captured"))
    assert_same_bits(read_tensors(eager), read_tensors(captured))
    ours, theirs = (read_metrics(tmp_path / name) for name in ("eager", "captured"))
    for one, other in zip(ours, theirs, strict=True):
        assert one["critic/loss"] == other["critic/loss"]
        assert one.get("critic/slope") == other.get("critic/slope")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["model.generator_norm=batch", "schedule.micro_batch=10", "model.sync_batch_norm=false"],
        ["model.generator_norm=batch", "model.critic_norm=batch", "schedule.critic_rounds=alternating"],
        ["objective.name=gradient_penalty", "model.generator_norm=none", "schedule.micro_batch=10"],
        ["schedule.bursts={first_steps: 2, every: 6, critic_updates: 5}", "critic_grad_clip=0.01"],
    ],
)
def test_ranks_whose_steps_are_captured_average_without_ddp_as_ddp_does(
    options: list[str], ranks: Ranks, config: str, tmp_path: Path
) -> None:
    common = [config, "schedule.global_batch=40", "runtime.digest_every=1", *options]
    ranks.run(2, [*common, "name=ddp", "schedule.steps=8"])
    ranks.run(2, [*common, "name=captured", "schedule.steps=5"], target=train_as_if_captured)
    ranks.run(2, [*common, "name=captured", "schedule.steps=8"], target=train_as_if_captured)
    ranks.run(2, [*common, "name=whole", "schedule.steps=8"], target=train_as_if_captured)
    ddp, captured, whole = (read_tensors(newest(tmp_path / name)) for name in ("ddp", "captured", "whole"))
    assert_same_bits(captured, whole)
    for name, values in ddp.items():
        np.testing.assert_allclose(captured[name], values, rtol=1e-3, atol=1e-5, err_msg=name)


def train_with_tensor_rates(arguments: list[str]) -> int:
    """Train with learning rates in tensors on the device, as captured optimizers have them."""
    from pipeline.train import main

    def build_step(*parts: Any) -> TrainingStep:
        step = TrainingStep(*parts)
        for player in (step.state.generator, step.state.critic):
            for group in player.optimizer.param_groups:
                group["lr"] = torch.tensor(group["lr"])
        return step

    build.TrainingStep = build_step  # type: ignore[attr-defined, assignment]
    return main(arguments)


def test_learning_rates_on_the_device_change_and_are_logged(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    options = [config, "critic_optimizer.decay=linear", "monitor.log_every=5"]
    ranks.run(1, options, target=train_with_tensor_rates)
    rates = [line["optimizer/critic_lr"] for line in read_metrics(tmp_path / "run")]
    assert len(rates) == 4
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < rates[0] / 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "runtime.cuda_graph needs a GPU, and this run is on the CPU. Leave runtime.cuda_graph out."),
        (["precision=bf16"], "runtime.cuda_graph needs a GPU"),
    ],
)
def test_what_cannot_be_captured_is_refused(
    options: list[str], message: str, ranks: Ranks, config: str
) -> None:
    run = ranks.start(1, [config, "runtime.cuda_graph=true", "runtime.device=cpu", *options])
    assert run.wait() == [2]
    assert message in run.output
