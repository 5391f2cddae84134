"""Every option with its default and its meaning, for --help."""

from __future__ import annotations

from typing import Any, NamedTuple

import yaml

from pipeline.option_fields import default_kind, fields_of_kinds
from pipeline.options import Config


class Line(NamedTuple):
    """What --help says about an option."""

    name: str
    default: str
    description: str


def describe_options() -> str:
    """One line for each option: its name, default and meaning.

    If kinds of a section share an option but not its default or meaning, it has a line for each of them.
    """
    kinds_of: dict[str, list[str]] = {}
    holders: dict[Line, list[str]] = {}
    for path, kind, field in fields_of_kinds(Config):
        section = ".".join(path[:-1])
        kinds = kinds_of.setdefault(section, [])
        if kind and path[-1] == "name":
            kinds.append(kind)
            continue
        default = "required" if field.is_required() else f"default {_as_text(field.default)}"
        line = Line(".".join(path), default, field.description or "")
        holders.setdefault(line, []).append(kind)
    names = [
        Line(f"{section}.name", f"default {default_kind(section)}", f"one of {', '.join(kinds)}")
        for section, kinds in kinds_of.items()
        if kinds
    ]
    others = [_with_kinds(line, kinds, kinds_of) for line, kinds in holders.items()]
    # Sections in the order of Config, each with its name first. Sorting keeps the order of the rest.
    order = list(Config.model_fields)
    lines = sorted([*names, *others], key=lambda line: order.index(line.name.partition(".")[0]))
    return "\n".join(f"  {line.name:36} {line.default:24} {line.description}".rstrip() for line in lines)


def _with_kinds(line: Line, kinds: list[str], kinds_of: dict[str, list[str]]) -> Line:
    """The line of an option, with the kinds of its section that have it unless all have."""
    section = line.name.rpartition(".")[0]
    is_of_all = kinds in ([""], kinds_of[section])
    return line if is_of_all else line._replace(description=f"({', '.join(kinds)}) {line.description}")


def _as_text(default: Any) -> str:
    return yaml.safe_dump(default, default_flow_style=True).removesuffix("\n...\n").strip()
