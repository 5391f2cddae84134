"""Parts of your own by import path, `model.name: package.module:Name`: networks, objectives, metrics, sinks, sources.

Importing a module runs its code, so a plug-in is imported only if the user asked for it: in the config or the
arguments of the command, or by its top-level package in the environment variable WGAN_PLUGINS. A run directory or
an exported generator that names a plug-in may come from somebody else, and that is not enough.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import Field, create_model

from pipeline.errors import ConfigError
from pipeline.options import Config, ModelOptions, ObjectiveOptions, Options, OwnNetworkOptions

IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
ALLOWED = "WGAN_PLUGINS"

_asked_for: set[str] = set()
"""Top-level packages that the user has asked for in this process."""


class Section(NamedTuple):
    """A section of a config whose `name` may be an import path."""

    built_in: Any
    """The annotation of the built-in kinds, told apart by `name`."""
    base: type[Options]
    """What the options of a plug-in must be a subclass of."""


SECTIONS = {
    "model": Section(ModelOptions, OwnNetworkOptions),
    "objective": Section(ObjectiveOptions, Options),
}


def is_import_path(name: object) -> bool:
    """Whether this is the name of a plug-in, such as "package.module:Name"."""
    return isinstance(name, str) and IMPORT_PATH.fullmatch(name) is not None


def load_plugin(option: str, name: str, is_trusted: bool = False) -> Any:
    """The object that the import path `name` leads to. `option` is where it was named, for the messages.

    `is_trusted` says that the user named it in this command. The working directory is searched last, so that no
    file there can replace an installed module. Raises ConfigError.
    """
    module, _, attribute = name.partition(":")
    package = module.partition(".")[0]
    if is_trusted:
        _asked_for.add(package)
    if package not in _asked_for | set(re.split(r"[,\s]+", os.environ.get(ALLOWED, ""))):
        raise ConfigError(
            f"{option}: {name} is a plug-in. Importing it runs its code, and the file that names it may come from "
            f"somebody else. If you trust the package {package}, set {ALLOWED}={package} in the environment and run "
            "the command again."
        )
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        found = import_module(module)
    except Exception as error:  # the module's own code may raise anything
        raise ConfigError(
            f"{option}: the module {module} of {name} cannot be imported ({type(error).__name__}: {error}). Install "
            "it, or run the command in the directory that contains it."
        ) from error
    if not hasattr(found, attribute):
        own = [key for key, value in vars(found).items() if getattr(value, "__module__", None) == module]
        raise ConfigError(
            f"{option}: {module} defines no {attribute}; it defines {', '.join(own) or 'nothing'}."
        )
    return getattr(found, attribute)


def options_type(section: str, name: str, is_trusted: bool) -> type[Options]:
    """The options of a plug-in: its class `Options` with the import path as `name`. Raises ConfigError."""
    base = SECTIONS[section].base
    plugin = load_plugin(f"{section}.name", name, is_trusted)
    options = getattr(plugin, "Options", base)
    if not (isinstance(options, type) and issubclass(options, base)):
        raise ConfigError(
            f"{section}.name: the Options of {name} must be a subclass of pipeline.options.{base.__name__}, and "
            f"{options!r} is not."
        )
    fields: Any = {"name": (Literal[name], ...)}
    return create_model(options.__name__, __base__=options, __module__=options.__module__, **fields)


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
        values = content.get(section)
        name = values.get("name") if isinstance(values, Mapping) else None
        if is_import_path(name):
            annotation = section_type(section, name, is_trusted)
            fields[section] = (annotation, Config.model_fields[section].default)
    return create_model("Config", __base__=Config, **fields) if fields else Config


def versions(config: Config) -> dict[str, str]:
    """The `version` of each plug-in that has one, as "model.version": part of a run's identity."""
    found: dict[str, str] = {}
    for section in SECTIONS:
        name = getattr(config, section).name
        if is_import_path(name):
            version = getattr(load_plugin(f"{section}.name", name), "version", None)
            found |= {} if version is None else {f"{section}.version": str(version)}
    return found
