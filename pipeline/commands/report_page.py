"""A run as one HTML page that needs no network."""

from __future__ import annotations

import base64
import hashlib
import shlex
import statistics
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from pipeline.commands.report_charts import draw_charts, read_grids
from pipeline.commands.report_tables import (
    Quality,
    format_number,
    newest_of_equal,
    summarise_quality,
    tabulate,
)
from pipeline.config import flatten, load_config
from pipeline.errors import CheckpointError, ConfigError
from pipeline.foreign_text import printable_lines, without_credentials
from pipeline.monitor.grids import MOST_CLASSES_SHOWN, class_columns
from pipeline.monitor.own_metrics import read_own_metrics
from pipeline.monitor.records import (
    AlarmRecord,
    EvaluationLine,
    Line,
    Record,
    points_of,
    read_alarms,
    read_lines,
)
from pipeline.option_data import is_pattern
from pipeline.options import Config
from pipeline.run.checkpoint import Checkpoint, list_checkpoints
from pipeline.run.directory import Environment as RunEnvironment
from pipeline.run.directory import RunDirectory, open_directory
from pipeline.wording import duration


class Ending(NamedTuple):
    """How a run stopped: DONE, PREEMPTED, FAILED, or RUNNING if it has left no note."""

    word: str
    reason: str
    time: str


class Fact(NamedTuple):
    """A line of the summary."""

    name: str
    value: str
    note: str = ""


class Saved(NamedTuple):
    """A checkpoint on disk. `bytes` counts all its files."""

    step: int
    bytes: int
    time: str


def render(run: Path) -> str:
    """The page of a run, also of one that still trains: HTML with its pictures, styles and script inside.

    Raises ConfigError if `run` is not a run directory, or its training never began.
    """
    ending = read_ending(RunDirectory(run))
    if ending.word == "FAILED" and not RunDirectory(run).config.is_file():
        raise ConfigError(
            f"{run} has nothing to report: the run failed before its training began, and logged nothing. Remove the "
            f"cause and train again. The cause: {ending.reason}"
        )
    directory = open_directory(run)
    records, alarms, own = _lines(directory.metrics), read_alarms(run), read_own_metrics(run)
    quality = summarise_quality(records, own)
    checkpoints = list_checkpoints(directory.checkpoints)
    config, config_mistake = _read_config(directory)
    environment, environment_mistake = directory.read_environment()
    return _template().render(
        name=run.resolve().name,
        ending=ending,
        made=time.strftime("%F %T %z"),
        summary=summarise(records, alarms, checkpoints, config, environment, quality),
        charts=draw_charts(records, alarms, own),
        grids=read_grids(directory.samples),
        quality=quality,
        quality_samples=config.quality.samples if config else None,
        alarms=alarms,
        evaluations=tabulate(newest_of_equal(_lines(directory.evaluations, EvaluationLine))),
        config=directory.config.read_text(encoding="utf-8", errors="replace") if config else "",
        config_mistake=config_mistake,
        environment=[
            (name, "none" if value is None else str(value))
            for name, value in flatten(
                environment.model_dump(exclude_unset=True) if environment else {}
            ).items()
        ],
        environment_mistake=environment_mistake,
        data=describe_data(config, checkpoints),
        commands=commands_again(run, config, environment),
        checkpoints=[saved for checkpoint in checkpoints if (saved := _saved(checkpoint)) is not None],
    )


def read_ending(directory: RunDirectory) -> Ending:
    """How the run stopped, from the note that it left."""
    if (noted := directory.ending()) is not None:
        word, note = noted
        return Ending(word, note.reason, note.time)
    written = directory.metrics if directory.metrics.is_file() else directory.config
    since = _time_of(written) if written.is_file() else ""
    return Ending("RUNNING", "It has left no note of its end: it is still training, or was killed.", since)


def summarise(
    records: Sequence[Record],
    alarms: Sequence[AlarmRecord],
    checkpoints: Sequence[Checkpoint],
    config: Config | None,
    environment: RunEnvironment | None,
    quality: Sequence[Quality],
) -> list[Fact]:
    """The most important figures of a run; those that it has not measured are left out."""
    steps = [record["step"] for record in records] + [checkpoint.step for checkpoint in checkpoints]
    planned = f"of {config.schedule.steps:,}" if config else ""
    facts = [Fact("Steps", f"{max(steps, default=0):,}", planned)]
    if speeds := points_of(records, "speed/images_per_second"):
        facts.append(
            Fact("Images per second", f"{statistics.median(v for _, v in speeds):,.0f}", "real ones, median")
        )
    if seconds := training_seconds(records):
        facts.append(Fact("Training time", duration(seconds), "h:mm:ss in steps"))
    if estimates := points_of(records, "wasserstein/estimate_smooth"):
        facts.append(Fact("Wasserstein estimate", format_number(estimates[-1][1]), "smoothed, last"))
    if normalized := points_of(records, "wasserstein/normalized"):
        facts.append(Fact("Estimate / slope", format_number(normalized[-1][1]), "of the critic, last"))
    wanted = (config and config.quality.keep_best) or "fid"
    bests = [(figure, figure.best) for figure in quality if figure.best]
    for figure, (step, value) in sorted(bests, key=lambda found: found[0].metric != wanted)[:1]:
        facts.append(Fact(f"Best {figure.name}", format_number(value), f"step {step:,}"))
    if alarms:
        facts.append(Fact("Alarms", f"{len(alarms):,}", f"the first at step {alarms[0].step:,}"))
    if environment is not None:
        setup = environment.setup
        facts.append(Fact("Ranks", f"{setup.world_size} x {setup.device_name}", setup.precision))
    return facts


def training_seconds(records: Sequence[Record]) -> float:
    """The time of all steps together, in seconds, from the times at the logged ones."""
    before, total = 0, 0.0
    for step, seconds in points_of(records, "speed/step_seconds"):
        total += (step - before) * seconds
        before = step
    return total


def describe_data(config: Config | None, checkpoints: Sequence[Checkpoint]) -> list[Fact]:
    """Where the shards were, and the SHA-256 of their manifest, from the newest checkpoint."""
    facts = [Fact("Shards", config.data.place)] if config else []
    if not checkpoints:
        return [*facts, Fact("Manifest", "not known: there is no checkpoint yet")]
    try:
        identity = checkpoints[-1].facts().identity
    except CheckpointError as error:
        return [*facts, Fact("Manifest", f"not known: {error}")]
    images = " x ".join(map(str, identity.images))
    return [
        *facts,
        Fact("Manifest", identity.manifest, "SHA-256"),
        Fact("Images", images, "channels, height, width"),
        *_classes(identity.classes),
    ]


def _classes(names: Sequence[str]) -> list[Fact]:
    """The classes that the networks know, as they are in the sample grids; nothing without classes."""
    if not names:
        return []
    shown = ", ".join(names[place] for place in class_columns(len(names)))
    some = "" if len(names) <= MOST_CLASSES_SHOWN else f"some of {len(names):,}: "
    return [Fact("Classes", shown, f"{some}columns of the samples, from the left")]


def commands_again(run: Path, config: Config | None, environment: RunEnvironment | None) -> list[str]:
    """The commands that repeat the run under another name."""
    if config is None:
        return []
    revision = environment.revision if environment else None
    ranks = environment.setup.world_size if environment else 1
    words = ["wgan", "train", str(run / "config.yaml"), f"name={config.name}-again"]
    if ranks != 1:
        words += ["--processes", str(ranks)]
    commands = [] if revision is None else [shlex.join(["git", "checkout", revision])]
    places = [source.shards for source in config.data.sources]
    if local := [
        place for place in places if isinstance(place, str) and not is_pattern(place) and "://" not in place
    ]:
        commands.append(shlex.join(["sha256sum", *(str(Path(place) / "manifest.json") for place in local)]))
    return [*commands, shlex.join(words)]


def _read_config(directory: RunDirectory) -> tuple[Config | None, str]:
    """The options of the run, or why they cannot be read: the config may be of another version."""
    try:
        return load_config(directory.config, is_trusted=False), ""
    except ConfigError as error:
        return None, str(error)


def _lines(path: Path, kind: type[Line] = Line) -> list[Record]:
    """Records of a file that the run may not have written yet. Raises ConfigError if it cannot be read."""
    try:
        return read_lines(path, kind)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}), so the run cannot be reported. Make it readable, or name "
            "another run directory."
        ) from None


def _saved(checkpoint: Checkpoint) -> Saved | None:
    """Size and time of a checkpoint; None if a run that still trains has deleted it meanwhile."""
    try:
        sizes = [path.stat().st_size for path in checkpoint.path.iterdir()]
        return Saved(checkpoint.step, sum(sizes), _time_of(checkpoint.path))
    except FileNotFoundError:
        return None


def _time_of(path: Path) -> str:
    return time.strftime("%F %T %z", time.localtime(path.stat().st_mtime))


def format_size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def _template() -> Template:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters.update(number=format_number, size=format_size, csp_hash=_csp_hash)
    return environment.from_string(
        files("pipeline.commands").joinpath("report.html").read_text(encoding="utf-8")
    )


def _shown(value: object) -> object:
    """What the page shows of a value: names and texts of the run may hold anything, and the page is passed on."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return printable_lines(without_credentials(value))


def _csp_hash(script: str) -> str:
    """The hash that allows one inline script in a Content-Security-Policy, and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
