"""Alarms: warnings about what the curves show, each given once and with what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

Values = Mapping[str, float]


class Raised(NamedTuple):
    """An alarm that has gone off."""

    name: str
    text: str


@dataclass(frozen=True)
class AlarmRule:
    """A condition on the figures of a log point. The alarm goes off when it has held several times in a row."""

    name: str
    needs: tuple[str, ...]
    """The tags it is computed from: the first must be new at this log point, others logged at least once before."""
    is_wrong: Callable[[Values, Values, int], bool]
    """Of the figures now, the highest so far, and how many log points there have been."""
    text: Callable[[Values], str]
    times: int = 5
    is_of_machine: bool = False
    """Whether it depends on the machine: a run that is resumed on another one may give it again."""


ESTIMATE, VALIDATION = "wasserstein/estimate_smooth", "wasserstein/validation"
NORMALIZED = "wasserstein/normalized"
CLIPPED, SIGNAL = "critic/clipped_fraction", "critic/input_grad_norm"
DIVERSITY, WAITING = "generator/diversity", "speed/data_wait_fraction"

MOST_CLIPPED, STUCK, STUCK_NORMALIZED = 0.5, 1 / 2, 1 / 3
LEAST_SIGNAL, LEAST_SIGNAL_OF_HIGHEST = 1e-6, 1e-3
MOST_APART = 0.5
LEAST_DIVERSITY, SOUND_DIVERSITY, LEARNING_LOG_POINTS = 0.25, 0.5, 50
MOST_WAITING = 0.2

ALARM_RULES = (
    AlarmRule(
        "clip_saturation",
        (CLIPPED, ESTIMATE, NORMALIZED),
        # The best weights of a clipped critic are at the edges of the box, so their share alone says nothing: it is 80%
        # in the paper's own settings, which train well. The critic suffers if, besides, what it sees stays as it was:
        # where it helps the generator, both estimates fall early. One alone may not: the critic's scale can grow while
        # the images improve. The normalized one is of one batch, so it varies more.
        lambda now, highest, count: (
            now[CLIPPED] > MOST_CLIPPED
            and now[ESTIMATE] > STUCK * highest[ESTIMATE] > 0
            and now[NORMALIZED] > STUCK_NORMALIZED * highest[NORMALIZED] > 0
        ),
        lambda now: (
            f"{now[CLIPPED]:.0%} of the critic's weights are at -clip or clip, and the estimate ({now[ESTIMATE]:.3g}) "
            "does not fall: the critic learns little, and the generator nothing from it. Lower critic_optimizer.lr or "
            "raise objective.clip; or use objective.name: gradient_penalty, which does not clip. If "
            "generator_optimizer.lr is low, raise it first."
        ),
        # At the start many weights are clipped, before they settle, and the estimate has yet to fall.
        times=50,
    ),
    AlarmRule(
        "vanishing_gradient",
        (SIGNAL,),
        lambda now, highest, count: (
            now[SIGNAL] < max(LEAST_SIGNAL, LEAST_SIGNAL_OF_HIGHEST * highest[SIGNAL])
        ),
        lambda now: (
            f"The critic's gradient at generated images has nearly vanished (mean norm {now[SIGNAL]:.2g}), and the "
            "generator learns from nothing else. Raise objective.clip, or use objective.name: gradient_penalty; with "
            "cross_entropy use generator: non_saturating."
        ),
    ),
    AlarmRule(
        "critic_overfits",
        (VALIDATION, ESTIMATE),
        lambda now, highest, count: (
            abs(now[VALIDATION] - now[ESTIMATE]) > MOST_APART * max(abs(now[VALIDATION]), abs(now[ESTIMATE]))
        ),
        lambda now: (
            f"The estimate is {now[ESTIMATE]:.3g} on training images and {now[VALIDATION]:.3g} on held-out ones: the "
            "critic has memorised its training images, and neither figure is the distance. Use more images, "
            "augment.kinds: [colour, shift, cutout], data.flip: true, a smaller critic or a lower "
            "critic_optimizer.lr."
        ),
        times=3,
    ),
    AlarmRule(
        "critic_behind",
        (ESTIMATE,),
        lambda now, highest, count: now[ESTIMATE] < 0,
        lambda now: (
            f"The estimate is {now[ESTIMATE]:.3g}: the critic scores generated images above real ones, so it is far "
            "from its optimum and misleads the generator. Raise schedule.critic_updates or critic_optimizer.lr, or "
            "lower generator_optimizer.lr."
        ),
    ),
    AlarmRule(
        "collapse",
        (DIVERSITY,),
        lambda now, highest, count: (
            now[DIVERSITY] < LEAST_DIVERSITY
            # At the start a generator draws nearly the same image for every latent.
            and (highest[DIVERSITY] > SOUND_DIVERSITY or count > LEARNING_LOG_POINTS)
        ),
        lambda now: (
            f"The generator's images differ only {now[DIVERSITY]:.0%} as much as real ones: it has collapsed to a "
            "few images, or to one. Go back to an earlier checkpoint (init_from) with lower learning rates or more "
            "schedule.critic_updates; a larger schedule.global_batch helps the critic to see it."
        ),
    ),
    AlarmRule(
        "input_bound",
        (WAITING,),
        lambda now, highest, count: now[WAITING] > MOST_WAITING,
        lambda now: (
            f"The loop waits for images {now[WAITING]:.0%} of the time. Let data.cache hold them in memory (auto, "
            "host or device), raise data.workers, or make shards at the size that the networks take."
        ),
        is_of_machine=True,
    ),
)


class Alarms:
    """Watches a run's figures and gives each alarm once."""

    def __init__(self) -> None:
        self._log_points = 0
        self._highest: dict[str, float] = {}
        self._in_a_row: dict[str, int] = {}
        self._told: list[str] = []
        self._last: dict[str, float] = {}

    def check(self, values: Values) -> list[Raised]:
        """Take the figures of a step; return the alarms that go off now for the first time."""
        if SIGNAL in values:
            self._log_points += 1
        for tag in (SIGNAL, DIVERSITY, ESTIMATE, NORMALIZED):
            if tag in values:
                self._highest[tag] = max(values[tag], self._highest.get(tag, values[tag]))
        if ESTIMATE in values:
            # The validation estimate may be logged at other steps than the estimate it is compared with.
            self._last = {ESTIMATE: values[ESTIMATE]}
        known = {**self._last, **values}
        found = [rule for rule in ALARM_RULES if rule.needs[0] in values and self._goes_off(rule, known)]
        self._told += [rule.name for rule in found]
        return [Raised(rule.name, rule.text(known)) for rule in found]

    def _goes_off(self, rule: AlarmRule, known: Values) -> bool:
        if rule.name in self._told or not all(tag in known for tag in rule.needs):
            return False
        is_wrong = rule.is_wrong(known, self._highest, self._log_points)
        self._in_a_row[rule.name] = self._in_a_row.get(rule.name, 0) + 1 if is_wrong else 0
        return self._in_a_row[rule.name] >= rule.times

    def facts(self) -> dict[str, Any]:
        """The plain values that a resumed run needs: equal runs have equal ones on any machine."""
        of_machine = {rule.name for rule in ALARM_RULES if rule.is_of_machine}
        return {
            "log_points": self._log_points,
            "highest": self._highest,
            "last": self._last,
            "in_a_row": {name: times for name, times in self._in_a_row.items() if name not in of_machine},
            "told": [name for name in self._told if name not in of_machine],
        }

    def restore(self, facts: Mapping[str, Any]) -> None:
        self._log_points, self._told = facts["log_points"], list(facts["told"])
        self._highest, self._in_a_row = dict(facts["highest"]), dict(facts["in_a_row"])
        self._last = dict(facts.get("last", {}))  # checkpoints of earlier versions have none
