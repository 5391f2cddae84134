"""What ranks send each other in a step, counted in a real run, and how long such exchanges take between idle ranks."""

from __future__ import annotations

import json
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from timing import open_trainer, train_bare
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from pipeline.config import load_config
from pipeline.durable import write_text
from pipeline.ranks.averaging import Exchange
from pipeline.ranks.runtime import join

EXCHANGES = 300
RANKS_COUNTED = 2
STEPS_COUNTED = 2


@dataclass(frozen=True)
class Traffic:
    """What every rank sends to the others in one step."""

    gradient_bytes: int
    gradient_calls: int
    """Buckets of DDP"""
    other_bytes: int
    other_calls: int
    """All-gathers of batch norm's statistics, which the forward and backward passes wait for"""
    bytes_by_parameters: int
    """The expected size of the gradients: 4 bytes for each parameter and optimizer step"""
    idle_gradient_seconds: float
    """The median time for a bucket of mean size between ranks that do nothing else, on this machine"""
    idle_other_seconds: float


def be_rank(rank: int, ranks: int, port: int, words: Sequence[str], place: str) -> None:
    """Run one of several ranks as torchrun would start it, and count its traffic."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    count_as_rank(words, place)


def count_as_rank(words: Sequence[str], place: str) -> None:
    """Train a few steps with the bare loop. The first rank writes what it sent per step."""
    config = load_config(Path(words[0]), words[1:])
    runtime = join(config)
    gradients, others = list[int](), list[int]()
    mean, gather = Exchange.mean, Exchange.gather

    def count_and_average(exchange: Exchange, values: Tensor) -> Any:
        gradients.append(values.nbytes)
        return mean(exchange, values)

    def count_and_gather(exchange: Exchange, values: Tensor) -> Tensor:
        others.append(values.nbytes)
        return gather(exchange, values)

    with (
        patch.object(Exchange, "mean", count_and_average),
        patch.object(Exchange, "gather", count_and_gather),
        open_trainer(config, runtime, Path(place) / "counted") as trainer,
    ):
        del gradients[:], others[:]
        train_bare(trainer, STEPS_COUNTED)
    exchange = runtime.exchange
    idle = [
        idle_seconds(lambda values: exchange.mean(values).wait(), gradients),
        idle_seconds(exchange.gather, others),
    ]
    if runtime.is_main:
        totals = [sum(gradients), len(gradients), sum(others), len(others)]
        counts = [total // STEPS_COUNTED for total in totals]
        generator, critic = (
            parameter_bytes(player.module) for player in (trainer.state.generator, trainer.state.critic)
        )
        by_parameters = critic * (config.schedule.optimizer_steps - 1) + generator
        write_text(Path(place) / "counts", json.dumps([*counts, by_parameters, *idle]))
    del trainer
    runtime.close()


def idle_seconds(exchange: Callable[[Tensor], object], sizes: Sequence[int]) -> float:
    """The median seconds of an exchange of the mean of these sizes, in bytes, while the ranks do nothing else."""
    if not sizes:
        return 0.0
    values, seconds = torch.zeros(sum(sizes) // len(sizes) // 4), []
    for _ in range(EXCHANGES):
        started = time.perf_counter()
        exchange(values)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def count_traffic(ranks: int, words: Sequence[str]) -> Traffic:
    """What DDP and batch norm send in a step with this number of ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as place:
        spawn(be_rank, (ranks, port, list(words), place), nprocs=ranks)
        return Traffic(*json.loads((Path(place) / "counts").read_text()))


def parameter_bytes(module: nn.Module) -> int:
    """Bytes of the gradients of all parameters that are trained."""
    return sum(parameter.numel() * 4 for parameter in module.parameters() if parameter.requires_grad)
