"""From defaults, a YAML file and `key=value` arguments to one checked Config: defaults < YAML < arguments.

All mistakes are reported at once, each with its line and with what to write instead. Nothing here imports torch, so
this takes a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.errors import ConfigError
from pipeline.foreign_text import printable
from pipeline.option_fields import KeyPath, default_kind, fields
from pipeline.option_mistakes import describe_mistakes, path_in, shown
from pipeline.option_plugins import config_type
from pipeline.option_rules import contradictions
from pipeline.options import Config
from pipeline.presets import find_config
from pipeline.regular_files import read_regular
from pipeline.wording import counted
from pipeline.yaml_text import MOST_BYTES, MOST_LEVELS, dump_yaml, parse_yaml

MOST_MISTAKES = 20
NAMES: frozenset[KeyPath] = frozenset({("data", "classes")})
"""Lists of names, which may look like numbers, dates or booleans."""


def load_config(path: Path, overrides: Sequence[str] = (), is_trusted: bool = True) -> Config:
    """Read `path`, apply `overrides` (each "section.option=value"), check the result.

    `path` is a YAML file, a preset's name or a run directory, which gives the options of that run. An override whose
    value is a section, such as `schedule.bursts={every: 100}`, sets the options in it and leaves the others of that
    section as they are. One that changes a section's `name` removes the file's other options of that section, because
    they belong to another kind. If an option is given twice, the last one counts. Plug-ins that are named are imported
    if `is_trusted`, which a file found in a run directory is not. Raises ConfigError with all mistakes.
    """
    return override_config(path, map(_parse_override, overrides), "command line", is_trusted)


def override_config(
    source: Path | Mapping[str, Any],
    overrides: Iterable[tuple[KeyPath, Any]],
    origin: str,
    is_trusted: bool = True,
) -> Config:
    """The options of a file or of a nested mapping with these overrides, checked as `load_config` checks them.

    `origin` says in messages where the overrides come from.
    """
    places: dict[KeyPath, str] = {}
    if not isinstance(source, Path):
        content = deepcopy(dict(source))
    elif _is_run(source):
        content, places = _read_yaml(source / "config.yaml")
        content |= _place_of(source)
        places |= {("name",): "name of the directory", ("run_root",): "place of the directory"}
        is_trusted = False
    else:
        content, places = _read_yaml(find_config(source))
    single = {path: option for key, value in overrides for path, option in _options_in(key, value)}
    # In any order of the overrides: the kinds of sections come before their other options.
    for key in sorted(single, key=lambda key: (len(key), key[-1] != "name")):
        for changed in _override(content, key, single[key]):
            places[tuple(map(str, changed))] = origin
    return parse_config(content, str(source) if isinstance(source, Path) else "config", places, is_trusted)


def parse_config(
    content: dict[str, Any],
    origin: str,
    places: Mapping[KeyPath, str] | None = None,
    is_trusted: bool = True,
) -> Config:
    """Check a plain mapping. `places` says where each key was written, for the messages. Raises ConfigError."""
    places = places or {}
    content = _completed(content)
    kind = config_type(content, is_trusted)
    try:
        config = kind.model_validate(content)
        mistakes = []
    except ValidationError as error:
        found = error.errors(include_url=False)
        mistakes = describe_mistakes(found[:MOST_MISTAKES], content, places, kind)
        mistakes += [f"and {len(found) - MOST_MISTAKES:,} more"] if len(found) > MOST_MISTAKES else []
        config = _repaired(content, error, kind)
    mistakes += contradictions(config)
    if mistakes:
        raise ConfigError(
            f"{origin}: {counted(len(mistakes), 'mistake')}", *(f"  {mistake}" for mistake in mistakes)
        )
    return config


def dump_config(config: Config) -> str:
    """The resolved options as YAML, which load_config reads back to an equal Config."""
    return dump_yaml(config.model_dump(mode="json"))


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        path = f"{prefix}{key}"
        flat |= flatten(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return flat


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested mappings: the inverse of `flatten`. Raises ValueError if a key is a value and a section."""
    content: dict[str, Any] = {}
    for path, value in flat.items():
        *sections, option = path.split(".")
        section = content
        for name in sections:
            section = section.setdefault(name, {})
            if not isinstance(section, dict):
                raise ValueError(f"{printable(path)} is below an option, which has a value")
        section[option] = value
    return content


def _is_run(path: Path) -> bool:
    try:
        return (path / "config.yaml").exists() and (path / "checkpoints").is_dir()
    except OSError:
        return False  # a name that no directory can have is no run; it may be reported as a config


def _place_of(run: Path) -> dict[str, str]:
    """The options by which a run is written to this directory. It may have been moved since its config was written."""
    place = run if run.name not in ("", "..") else run.resolve()
    return {"name": place.name, "run_root": str(place.parent)}


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """The content of a file, and the line of each key. Raises ConfigError."""
    try:
        content, places = parse_yaml(read_regular(path, MOST_BYTES).decode(), names=NAMES)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path} cannot be read as text: {why}. Name a YAML file or a preset.") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if content is None:
        return {}, places
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} contains a {type(content).__name__}, and a config is a mapping of options, like seed: 1."
        )
    return content, places


def _parse_override(text: str) -> tuple[KeyPath, Any]:
    key, equals, value = text.partition("=")
    path = tuple(key.split("."))
    if not equals or not key or len(path) > MOST_LEVELS:
        raise ConfigError(
            f"{shown(text)} does not set an option. Write section.option=value, like schedule.steps=500."
        )
    try:
        return path, parse_yaml(value, path, NAMES).content
    except ValueError as error:
        raise ConfigError(f"{shown(text)}: the value is not valid YAML: {error}") from None


def _options_in(path: KeyPath, value: Any) -> Iterator[tuple[KeyPath, Any]]:
    """The single options that an override sets: those of a section by their own paths, unless it names none."""
    if isinstance(value, Mapping) and value:
        for name, option in value.items():
            yield from _options_in((*path, name), option)
    else:
        yield path, value


def _override(content: dict[str, Any], path: KeyPath, value: Any) -> list[KeyPath]:
    """Set one option. Returns its path, and those of the sections that had to be made for it."""
    *sections, option = path
    section = content
    made: list[KeyPath] = []
    for depth, name in enumerate(sections, 1):
        if not isinstance(section.get(name), dict):
            section[name] = {}
            made.append(path[:depth])
        section = section[name]
    if value == {} and isinstance(section.get(option), dict):
        return made
    kind = default_kind(path[0])
    if path[1:] == ("name",) and kind is not None and section.get("name", kind) != value:
        section.clear()
    section[option] = value
    return [*made, path]


def _completed(content: dict[str, Any]) -> dict[str, Any]:
    """A section with nothing below it has no options, and one without a `name` is of its default kind."""
    completed = dict(content)
    for key in content.keys() & {path[0] for path, _ in fields(Config) if len(path) > 1}:
        section, kind = {} if content[key] is None else content[key], default_kind(key)
        is_unnamed = isinstance(section, dict) and kind is not None
        completed[key] = {"name": kind, **section} if is_unnamed else section
    return completed


def _repaired(content: Mapping[str, Any], error: ValidationError, kind: type[Config]) -> Config:
    """The config with the default of every wrong option, so that the rest can be checked too."""
    repaired = {key: dict(value) if isinstance(value, dict) else value for key, value in content.items()}
    for item in error.errors():
        # The name of an option that is no text in UTF-8 has no place.
        *sections, option = path_in(content, item["loc"]) or ("",)
        section: Any = repaired
        for name in sections:
            section = section.get(name) if isinstance(section, dict) else None
        if isinstance(section, dict):
            section.pop(option, None)
    required = {"name": "x", "data": {"shards": "x"}, "schedule": {"steps": 1}}
    data = content.get("data")
    if isinstance(data, dict) and data.keys().isdisjoint({"shards", "mix"}):
        required["data"] = {}  # that these are missing is found by a rule
    for key, value in required.items():
        given = repaired.get(key)
        repaired[key] = (
            {**value, **given} if isinstance(value, dict) and isinstance(given, dict) else given or value
        )
    try:
        return kind.model_validate(_completed(repaired))
    except ValidationError:
        return Config.model_validate(required)
