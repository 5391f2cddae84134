"""What state.json of a checkpoint holds besides its tensors: the fields, their types and their bounds."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from pipeline.documents import Document, Many

Channels = Annotated[int, Field(ge=1, le=4)]
Side = Annotated[int, Field(ge=1, le=4096)]
ImageShape = tuple[Channels, Side, Side]
"""Channels, height, width."""
Step = Annotated[int, Field(ge=0, lt=2**53)]
Whole = Annotated[int, Field(ge=0, lt=2**62)]


class Facts(Document):
    """The base of what follows. Figures may be infinite or NaN, as those of a metric are now and then."""

    model_config = ConfigDict(allow_inf_nan=True)


class Identity(Facts):
    """What must be equal for a checkpoint to be resumed: these, and the run's options by their dotted names."""

    model_config = ConfigDict(extra="allow")

    images: ImageShape
    manifest: str = Field(alias="data.manifest")
    """SHA-256 of the manifest of the shards"""
    classes: Many[str] = Field(default=[])
    """The names of the classes that the networks know"""

    def values(self) -> dict[str, Any]:
        """All of it as JSON values, by dotted name."""
        values = self.model_dump(mode="json", by_alias=True)
        if not self.classes:
            del values["classes"]
        return values


class BestFacts(Facts):
    """Which evaluation was the best. Earlier versions did not note the `former` ones."""

    metric: str | None
    basis: dict[str, Any]
    value: float | None
    step: Step | None
    evaluations_since: Whole
    former: Many[Step] = Field(default=[])


class SavedState(Facts):
    """What everything that reads a checkpoint needs. Checkpoints of earlier versions have no `best`."""

    identity: Identity
    best: BestFacts | None = None


class SavedCounters(Facts):
    """How far the run had come."""

    step: Step
    position: Whole


class WindowFacts(Facts):
    """The metrics that are summed up since the last log point, and over how many steps."""

    names: Many[str]
    count: Whole


class AlarmFacts(Facts):
    """What the alarms have seen. Earlier versions did not note the `last` figures."""

    log_points: Whole
    highest: dict[str, float]
    in_a_row: dict[str, Whole]
    told: Many[str]
    last: dict[str, float] = Field(default={})


class RecorderFacts(Facts):
    """The smoothed estimate and the alarms, which earlier versions did not have.

    It is of as many log points as `smoothed` says. Earlier versions noted the sum of their weights instead.
    """

    smooth: float
    smoothed: Whole | None = None
    smooth_weight: float | None = None
    health: AlarmFacts | None = None


class UnwatchedFacts(Facts):
    """Which images in unwatched.safetensors were in channels-last memory format, on which rounding depends."""

    channels_last: Many[str]


class ResumableState(SavedState):
    """What a run needs besides to go on from a checkpoint.

    Most have no `unwatched`: it means that a signal stopped the run before the step of the checkpoint was recorded.
    """

    counters: SavedCounters
    scaler: dict[str, int | float]
    window: WindowFacts
    recorder: RecorderFacts
    unwatched: UnwatchedFacts | None = None
