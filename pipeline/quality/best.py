"""Which evaluation of a run was the best by one metric, and when to stop waiting for a better one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pipeline.options import HIGHER_IS_BETTER, Metric, QualityOptions


def is_better(metric: Metric, value: float, than: float) -> bool:
    """Whether one value of a metric speaks for better samples than another."""
    return value > than if metric in HIGHER_IS_BETTER else value < than


@dataclass
class Best:
    """The best value so far, its step, and how many evaluations have passed since."""

    metric: Metric
    patience: int | None
    value: float | None = None
    step: int | None = None
    evaluations_since: int = 0

    @classmethod
    def of(cls, options: QualityOptions) -> Self | None:
        """What the options ask to keep, or None."""
        return None if options.keep_best is None else cls(options.keep_best, options.patience)

    def update(self, step: int, value: float) -> bool:
        """Take a new evaluation; return whether it is the best."""
        if self.value is not None and not is_better(self.metric, value, self.value):
            self.evaluations_since += 1
            return False
        self.value, self.step, self.evaluations_since = value, step, 0
        return True

    @property
    def is_exhausted(self) -> bool:
        """Whether there was no new best for as many evaluations as the patience lasts."""
        return self.patience is not None and self.evaluations_since >= self.patience

    def facts(self) -> dict[str, Any]:
        """The plain values that a resumed run needs."""
        return {
            "metric": self.metric,
            "value": self.value,
            "step": self.step,
            "evaluations_since": self.evaluations_since,
        }

    def restore(self, facts: Mapping[str, Any] | None) -> None:
        """Take saved values, unless they are of another metric: the search starts anew then."""
        if facts is not None and facts["metric"] == self.metric:
            self.value, self.step = facts["value"], facts["step"]
            self.evaluations_since = facts["evaluations_since"]
