"""The options of plug-ins. A section whose `name` is an import path is checked by the plug-in's own class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import Field, PlainSerializer, ValidatorFunctionWrapHandler, WrapValidator, create_model

from pipeline.errors import ConfigError
from pipeline.option_objective import ObjectiveOptions
from pipeline.option_types import Options
from pipeline.options import Config, ModelOptions, MonitorOptions, OwnNetworkOptions, SinkOptions
from pipeline.plugins import METRIC, NETWORK, OBJECTIVE, SINK, Kind, is_import_path, load_plugin


class Section(NamedTuple):
    """A section of a config whose `name` may be an import path."""

    built_in: Any
    """The annotation of the built-in kinds, whose discriminator is `name`."""
    kind: Kind
    base: type[Options]
    """What the options of a plug-in must be a subclass of."""


SECTIONS = {
    "model": Section(ModelOptions, NETWORK, OwnNetworkOptions),
    "objective": Section(ObjectiveOptions, OBJECTIVE, Options),
}


def options_type(section: str, name: str, is_trusted: bool) -> type[Options]:
    """The options of a plug-in: its class `Options` with the import path as `name`. Raises ConfigError."""
    return _options_of(SECTIONS[section].kind, name, SECTIONS[section].base, is_trusted)


def _saved_model(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    name = _get(value, "name") if isinstance(value, Mapping) else getattr(value, "name", None)
    if not is_import_path(name):
        return validate(value)
    if isinstance(value, OwnNetworkOptions):
        return value
    return options_type("model", str(name), is_trusted=False).model_validate(value)


SavedModelOptions = Annotated[
    ModelOptions,
    WrapValidator(_saved_model),
    PlainSerializer(lambda options: options.model_dump(mode="json")),
]
"""The options of networks as a file holds them, which may have been written by somebody else."""


def section_type(section: str, name: object, is_trusted: bool) -> Any:
    """The annotation of this section of a config: the built-in kinds, and the plug-in if `name` is one."""
    built_in = SECTIONS[section].built_in
    if not is_import_path(name):
        return built_in
    kinds, *_ = get_args(built_in)
    return Annotated[kinds | options_type(section, str(name), is_trusted), Field(discriminator="name")]


def config_type(content: Mapping[str, Any], is_trusted: bool) -> type[Config]:
    """Config, with the options of the plug-ins that `content` names. Raises ConfigError."""
    fields: dict[str, Any] = {}
    for section in SECTIONS:
        name = _get(content, section, "name")
        if is_import_path(name):
            annotation = section_type(section, name, is_trusted)
            fields[section] = (annotation, Config.model_fields[section].default)
    if sinks := _sink_types(_get(content, "monitor", "sinks"), is_trusted):
        kinds: Any = sinks[0]
        for kind in sinks[1:]:
            kinds |= kind
        annotation = list[Annotated[kinds, Field(discriminator="name")]] if len(sinks) > 1 else list[kinds]
        fields["monitor"] = (
            create_model("MonitorOptions", __base__=MonitorOptions, sinks=(annotation, ...)),
            MonitorOptions(),
        )
    metrics = _get(content, "quality", "metrics")
    for name in metrics if isinstance(metrics, list) else ():
        if is_import_path(name):
            load_plugin(METRIC, name, is_trusted)
    return create_model("Config", __base__=Config, **fields) if fields else Config


def versions(config: Config) -> dict[str, str]:
    """The `version` of each plug-in that has one, as "plugins.model": part of a run's identity."""
    found: dict[str, str] = {}
    for section in SECTIONS:
        name = getattr(config, section).name
        if is_import_path(name):
            version = getattr(load_plugin(SECTIONS[section].kind, name), "version", None)
            found |= {} if version is None else {f"plugins.{section}": str(version)}
    return found


def _sink_types(sinks: Any, is_trusted: bool) -> list[type[Options]]:
    """The options of each sink that is named by its import path, once each."""
    names = [_get(sink, "name") for sink in sinks] if isinstance(sinks, list) else []
    return [
        _options_of(SINK, name, SinkOptions, is_trusted)
        for name in dict.fromkeys(name for name in names if is_import_path(name))
    ]


def _options_of(kind: Kind, name: str, base: type[Options], is_trusted: bool) -> type[Options]:
    plugin = load_plugin(kind, name, is_trusted)
    options = getattr(plugin, "Options", base)
    if not (isinstance(options, type) and issubclass(options, base)):
        raise ConfigError(
            f"{kind.option}: the Options of {name} must be a subclass of {base.__module__}.{base.__name__}, and "
            f"{options!r} is not."
        )
    fields: Any = {"name": (Literal[name], ...)}
    return create_model(options.__name__, __base__=options, __module__=options.__module__, **fields)


def _get(content: Any, *keys: str) -> Any:
    """What is at this path of nested mappings; None if there is nothing."""
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content
