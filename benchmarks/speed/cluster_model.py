"""A model, not a measurement: the time of a step on many GPUs, from what it computes and what ranks exchange."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from traffic import Traffic


@dataclass(frozen=True)
class Cluster:
    """The input of the model: bytes per second, seconds, and a share in [0, 1]."""

    gpus_per_node: int
    intra: float
    inter: float
    latency: float
    overlap: float

    def all_reduce_seconds(self, content: float, ranks: int) -> float:
        """The time of one all-reduce of `content` bytes, with a ring or a tree: the faster of the two."""
        bandwidth = self.intra if ranks <= self.gpus_per_node else self.inter
        ring = 2 * (ranks - 1) / ranks * content / bandwidth + 2 * (ranks - 1) * self.latency
        tree = 2 * content / bandwidth + 2 * math.ceil(math.log2(ranks)) * self.latency
        return min(ring, tree)

    def all_gather_seconds(self, content: float, ranks: int) -> float:
        """The time until each rank has `content` bytes of every other rank, by recursive doubling."""
        bandwidth = self.intra if ranks <= self.gpus_per_node else self.inter
        return (ranks - 1) * content / bandwidth + math.ceil(math.log2(ranks)) * self.latency

    def exposed_seconds(self, traffic: Traffic, ranks: int) -> float:
        """The part of a step's communication that computation does not hide."""

        def seconds(content: int, calls: int, one: Callable[[float, int], float]) -> float:
            return calls * one(content / calls, ranks) if calls else 0.0

        gradients = seconds(traffic.gradient_bytes, traffic.gradient_calls, self.all_reduce_seconds)
        others = seconds(traffic.other_bytes, traffic.other_calls, self.all_gather_seconds)
        return (1 - self.overlap) * gradients + others


@dataclass(frozen=True)
class Prediction:
    """The model's step on a number of GPUs; strong is None if the global batch cannot be divided among them."""

    ranks: int
    exposed_seconds: float
    weak_efficiency: float
    strong_efficiency: float | None


def predict(
    traffic: Traffic, cluster: Cluster, step_seconds: float, global_batch: int, ranks: int
) -> Prediction:
    """The model: the computation of a step, divided among the ranks for strong scaling, plus the communication."""
    exposed = cluster.exposed_seconds(traffic, ranks)
    strong = step_seconds / (step_seconds + ranks * exposed) if global_batch % ranks == 0 else None
    return Prediction(ranks, exposed, step_seconds / (step_seconds + exposed), strong)
