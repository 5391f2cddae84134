"""Parts of your own by import path, `model.name: package.module:Name`: networks, objectives, metrics, sinks, sources.

Importing a module runs its code, so a plug-in is imported only if the user asked for it: in the config or the
arguments of the command, or by its top-level package in the environment variable WGAN_PLUGINS. A run directory or
an exported generator that names a plug-in may come from somebody else, and that is not enough.
"""

from __future__ import annotations

import os
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import ConfigError

IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
ALLOWED = "WGAN_PLUGINS"


class Kind(NamedTuple):
    """What a plug-in is used as."""

    option: str
    """Where it is named."""
    attributes: tuple[str, ...]
    """What it must have."""
    description: str


NETWORK = Kind("model.name", ("Generator", "Critic"), "a class with a Generator and a Critic")
OBJECTIVE = Kind(
    "objective.name", ("critic_loss", "generator_loss"), "a subclass of pipeline.objectives.Objective"
)
METRIC = Kind("quality.metrics", ("metric", "measure"), "a class with a `metric` and a function `measure`")
SINK = Kind("monitor.sinks", ("scalars", "flush", "close"), "a subclass of pipeline.monitor.sinks.Sink")
SOURCE = Kind("SOURCE", ("__call__",), "a function from a pipeline.data.sources.Spec to a source")

_asked_for: set[str] = set()
"""Top-level packages that the user has asked for in this process."""


def is_import_path(name: object) -> bool:
    """Whether this is the name of a plug-in, such as "package.module:Name"."""
    return isinstance(name, str) and IMPORT_PATH.fullmatch(name) is not None


def load_plugin(kind: Kind, name: str, is_trusted: bool = False) -> Any:
    """The object of this kind that the import path `name` leads to.

    `is_trusted` says that the user named it in this command. The working directory is searched last, so that no
    file there can replace an installed module. Raises ConfigError.
    """
    option = kind.option
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
    plugin = getattr(found, attribute)
    if missing := [needed for needed in kind.attributes if not hasattr(plugin, needed)]:
        raise ConfigError(
            f"{option}: {name} must be {kind.description}, and it has no {' and no '.join(missing)}. docs/extending.md "
            "shows an example."
        )
    return plugin
