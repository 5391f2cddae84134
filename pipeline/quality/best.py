"""Which evaluation of a run was the best by one metric, and when to stop waiting for a better one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from pipeline.metric_table import find_metric, name_of_features
from pipeline.options import QualityOptions


def is_better(metric: str, value: float, than: float) -> bool:
    """Whether `value` of a metric is better than `than`. Raises ConfigError for an unknown metric."""
    return value > than if find_metric(metric).better == "higher" else value < than


@dataclass
class Best:
    """The best value so far, its step, and the number of evaluations since. Without a metric there is no best."""

    metric: str | None
    patience: int | None
    basis: dict[str, Any] = field(default_factory=dict)
    """What its values depend on besides the samples: values with another basis cannot be compared."""
    value: float | None = None
    step: int | None = None
    evaluations_since: int = 0
    former: list[int] = field(default_factory=list)
    """Steps that were the best by another metric or basis, before the options changed. Their checkpoints are kept."""
    _before: dict[str, Any] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, options: QualityOptions, flip: bool = False) -> Self:
        """What the options ask to keep. With `flip` (data.flip), half of the real images are mirrored."""
        basis = options.model_dump(include={"features", "classifier", "inception", "samples"})
        basis["features"] = name_of_features(options.features)
        if flip:
            basis["data.flip"] = True
        return cls(options.keep_best, options.patience, basis)

    def update(self, step: int, figures: Mapping[str, float]) -> bool:
        """Take a new evaluation; return whether it is the best."""
        if self.metric is None:
            return False
        value = figures[self.metric]
        self._before = self.facts()
        if self.value is not None and not is_better(self.metric, value, self.value):
            self.evaluations_since += 1
            return False
        self.value, self.step, self.evaluations_since = value, step, 0
        return True

    def take_back(self) -> None:
        """Undo the last update, because its checkpoint could not be saved."""
        self.restore(self._before)

    @property
    def is_exhausted(self) -> bool:
        """Whether there was no new best for `patience` evaluations."""
        return self.patience is not None and self.evaluations_since >= self.patience

    @property
    def kept_steps(self) -> set[int]:
        """The steps whose checkpoints are never pruned."""
        return {*self.former, *([] if self.step is None else [self.step])}

    def facts(self) -> dict[str, Any]:
        """The plain values that a resumed run needs."""
        return {
            "metric": self.metric,
            "basis": self.basis,
            "value": self.value,
            "step": self.step,
            "evaluations_since": self.evaluations_since,
            "former": list(self.former),
        }

    def changes(self, facts: Mapping[str, Any]) -> str:
        """How saved values were measured in another way, for a reader: "features: pixels before, pixels 2 now"."""
        before = {"keep_best": facts["metric"], **facts["basis"]}
        now = {"keep_best": self.metric, **self.basis}
        return "; ".join(
            f"{name}: {_shown(before.get(name))} before, {_shown(now.get(name))} now"
            for name in {**before, **now}
            if before.get(name) != now.get(name)
        )

    def restore(self, facts: Mapping[str, Any] | None) -> bool:
        """Take saved values if new ones can be compared with them. Returns False if the search starts over."""
        if facts is None:
            return True
        self.former = list(facts.get("former", []))  # earlier versions forgot them
        if (facts["metric"], facts["basis"]) == (self.metric, self.basis):
            self.value, self.step = facts["value"], facts["step"]
            self.evaluations_since = facts["evaluations_since"]
        elif facts["step"] is not None:
            self.former.append(facts["step"])
            return False
        return True


def _shown(value: object) -> str:
    return "not used" if value is None else str(value)
