"""Which options of several runs differ, and which of their curves are therefore on different scales."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.config import flatten, load_config
from pipeline.errors import ConfigError
from pipeline.foreign_text import printable
from pipeline.options import Config
from pipeline.run.directory import RunDirectory
from pipeline.wording import listed

IMAGES = ("data.shards", "data.mix", "data.balance", "data.classes", "data.flip")
SCALED = frozenset({"wasserstein/estimate_smooth", "wasserstein/validation", "critic/loss", "generator/loss"})
"""Curves that are compared between runs and have the scale of the critic's scores."""
ABSENT = "none"


def read_configs(names: Sequence[str], runs: Sequence[Path]) -> dict[str, Config]:
    """The options of each run by its name, without runs whose config is of another version."""
    found = {}
    for name, run in zip(names, runs, strict=True):
        with suppress(ConfigError):
            found[name] = load_config(RunDirectory(run).config, is_trusted=False)
    return found


def compared_options(config: Config) -> dict[str, Any]:
    """The options by which runs are compared, by their dotted names."""
    parts = config.model_dump(
        mode="json", exclude={"name", "run_root", "monitor", "checkpoint", "runtime", "profile"}
    )
    return {name: value for name, value in flatten(parts).items() if not name.startswith("data.remote.")}


def differing_options(configs: Mapping[str, Config]) -> dict[str, dict[str, Any]]:
    """The options that are not equal in all runs: for each, its value by run; None in a run that has no such option."""
    options = {run: compared_options(config) for run, config in configs.items()}
    names = dict.fromkeys(name for found in options.values() for name in found)
    values = {name: {run: found.get(name) for run, found in options.items()} for name in names}
    return {
        name: found
        for name, found in values.items()
        if any(v != next(iter(found.values())) for v in found.values())
    }


def scale_options(configs: Mapping[str, Config]) -> list[str]:
    """The differing options on which the scale of the critic's scores depends.

    These are the objective and its constraint. A clipped critic's scale depends on its layers too.
    """
    is_clipped = any(config.objective.name == "wasserstein" for config in configs.values())
    sections = ("objective.", "model.") if is_clipped else ("objective.",)
    return [name for name in differing_options(configs) if name.startswith(sections)]


def warnings_of_comparison(configs: Mapping[str, Config]) -> Iterator[str]:
    """What a reader must know before comparing the heights of curves."""
    if scaled := scale_options(configs):
        yield (
            f"{_differ(scaled)}, so the critics have different scales: do not compare the heights of scores, losses "
            "and Wasserstein estimates. Compare wasserstein/normalized or figures of quality"
        )
    if images := [name for name in differing_options(configs) if name in IMAGES]:
        yield (
            f"{_differ(images)}, so the runs may have learned different images: then figures of quality do not compare "
            "either"
        )


def table_of_differences(configs: Mapping[str, Config]) -> Iterator[str]:
    """A line for each differing option, with its value in each run."""
    found = differing_options(configs)
    width = max(map(len, found), default=0)
    for name, values in found.items():
        shown = ", ".join(f"{printable(run)} {_value(value)}" for run, value in values.items())
        yield f"  {name:{width}}  {shown}"


def _differ(names: Sequence[str]) -> str:
    return f"{listed(names)} {'differs' if len(names) == 1 else 'differ'}"


def _value(value: object) -> str:
    return (
        ABSENT if value is None else printable(str(value).lower() if isinstance(value, bool) else str(value))
    )
