"""Means of what each step reports, over the steps since the last log point, kept on the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class Window:
    """Sums of named 0-d tensors. Nothing waits for the device until `means` is asked for."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._sums: Tensor | None = None
        self._count = 0
        self._own: Tensor | None = None

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Add one step's metrics: the same names each time."""
        values, names = torch.stack(list(metrics.values())), list(metrics)
        if names != self._names:
            # The first step, or one after a checkpoint of a version that had other metrics.
            self._names, self._sums, self._count = names, None, 0
        self._sums = values if self._sums is None else self._sums.add_(values)
        self._count += 1

    def means(self, over_ranks: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The means over steps and ranks; then the window is empty. The one point that waits for the device."""
        if self._sums is None:
            return {}
        self._own = self._sums / self._count
        means = over_ranks(self._own.clone()).tolist()
        self._sums, self._count = None, 0
        return dict(zip(self._names, means, strict=True))

    def own_means(self) -> dict[str, float]:
        """This rank's part in the last means."""
        return {} if self._own is None else dict(zip(self._names, self._own.tolist(), strict=True))

    def save(self, gather: Callable[[Tensor], Tensor]) -> tuple[dict[str, Tensor], dict[str, object]]:
        """Its tensors, with every rank's sums, and its plain values."""
        if self._sums is None:
            return {}, {"names": [], "count": 0}
        return {"sums": gather(self._sums)}, {"names": self._names, "count": self._count}

    def restore(
        self,
        tensors: Mapping[str, Tensor],
        facts: Mapping[str, object],
        rank: int,
        world_size: int,
        device: torch.device,
    ) -> None:
        """Take this rank's sums; with another number of ranks, the mean of all that were saved."""
        self._names, self._count = list(facts["names"]), int(facts["count"])  # type: ignore[call-overload]
        if "sums" in tensors:
            saved = tensors["sums"]
            self._sums = (saved[rank] if len(saved) == world_size else saved.mean(0)).to(device)
