"""What is wrong with an option, and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from pipeline import foreign_text
from pipeline.errors import ConfigError
from pipeline.foreign_text import printable
from pipeline.option_fields import KeyPath, default_kind, fields
from pipeline.option_hints import hint_for
from pipeline.option_types import Options
from pipeline.options import Config
from pipeline.yaml_text import how_to_write

MOST_SHOWN = 80
Section = TypeVar("Section", bound=Options)

EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text (put it in quotes)",
    "string_unicode": "text in UTF-8",
    "string_too_short": "text that is not empty",
    "string_too_long": "text of at most {max_length} characters",
    "string_pattern_mismatch": "text that matches {pattern}",
    "greater_than": "a value greater than {gt}",
    "greater_than_equal": "a value of at least {ge}",
    "less_than": "a value less than {lt}",
    "multiple_of": "a multiple of {multiple_of}",
    "less_than_equal": "a value of at most {le}",
}
"""What an option wants, by the type of pydantic's error, with the values of its context."""


def validated(section: type[Section], values: Mapping[str, Any], prefix: str = "") -> Section:
    """The options of a section whose values come from elsewhere than a config, such as the arguments of a command.

    Raises ConfigError that names the first wrong one, with `prefix` before its name.
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        mistake = error.errors()[0]
        raise ConfigError(f"{prefix}{mistake['loc'][0]}: {invalid_value(mistake)}.") from None


def describe_mistakes(
    items: Iterable[Any],
    content: Mapping[str, Any],
    places: Mapping[KeyPath, str],
    kind: type[Config] = Config,
) -> list[str]:
    """Pydantic's errors, one line for each option: "place: section.option: message".

    `content` was checked as a config of this `kind`. `places` says where each key was written, such as "line 3".
    """
    by_option: dict[KeyPath, list[Any]] = {}
    for item in items:
        by_option.setdefault(path_in(content, item["loc"]), []).append(item)
    return [_describe(path, found, places, kind) for path, found in by_option.items()]


def _describe(
    path: KeyPath, items: Sequence[Any], places: Mapping[KeyPath, str], kind: type[Config] = Config
) -> str:
    """What is wrong with one option. There are several errors if it takes several kinds of values."""
    item = items[0]
    name, found = printable(".".join(path)) or "options", shown(item["input"])
    where = next((places[path[:n]] for n in range(len(path), 0, -1) if path[:n] in places), "")
    match item["type"]:
        case "extra_forbidden":
            text = f"unknown option; {_nearest_option(path, kind)}"
        case "missing":
            text, where = "is required", ""
        case "union_tag_invalid":
            where = places.get((*path, "name"), where)
            text = f"invalid value {shown(item['input']['name'])}: expected one of {item['ctx']['expected_tags']}"
            name = f"{name}.name"
        case "list_type":
            plain = printable(item["input"], MOST_SHOWN) if isinstance(item["input"], str) else found
            text = f"invalid value {found}: expected a list, as in {name}=[{plain}]"
        case "too_short":
            text = "an empty list is not allowed: name at least one, or leave the option out"
        case "invalid_key":
            text = f"{found} cannot be the name of an option; names are words, like seed"
        case "model_type" | "model_attributes_type":
            text = f"invalid value {found}: {_section_usage(path, item['input'])}"
        case _:
            text = invalid_value(*items)
    return f"{where}: {name}: {text}" if where else f"{name}: {text}"


def invalid_value(*items: Any) -> str:
    """Pydantic's errors about a value, one for each kind that it may have: "invalid value 0: expected at least 1"."""
    item = items[0]
    is_odd = item["type"] in ("int_type", "float_type", "bool_type") and isinstance(item["input"], str)
    advice = how_to_write(item["input"]) if is_odd else ""
    expected = " or ".join(map(_expected, items))
    return f"invalid value {shown(item['input'])}: expected {expected}{advice and f'; {advice}'}"


def _expected(item: Any) -> str:
    context = item.get("ctx", {})
    if item["type"] in EXPECTED:
        return EXPECTED[item["type"]].format(**context)
    if item["type"] == "literal_error":
        choices = ", ".join(context["expected"].split(" or "))
        return f"one of {choices}" if ", " in choices else choices
    return str(item["msg"]).removeprefix("Input should ").removeprefix("be ")


def shown(value: object) -> str:
    """A value as Python writes it, on one line and shortened: it may be long, or nested without end."""
    return foreign_text.shown(value, MOST_SHOWN)


def path_in(content: Any, location: Sequence[int | str]) -> KeyPath:
    """The key path of a pydantic location, without the union tags that pydantic puts between the keys."""
    path: list[str] = []
    for index, part in enumerate(location):
        if isinstance(content, Mapping):
            is_tag = part not in content and index < len(location) - 1
        else:
            is_tag = isinstance(part, str)
        if is_tag:
            continue
        path.append(str(part))
        if isinstance(content, Mapping):
            content = content.get(part)
        else:
            content = content[part] if isinstance(content, list) and isinstance(part, int) else None
    return tuple(path)


def _section_usage(path: KeyPath, found: object) -> str:
    """How the options of a section are written, for a value in its place."""
    name = ".".join(path)
    if isinstance(found, str) and default_kind(name) is not None:
        return f"{name} is a section; choose its kind with {name}.name={found}"
    example = ".".join(next(known for known, _ in fields(Config) if known[: len(path)] == path))
    return f"{name} is a section; set its options one by one, as in {example}=..."


def _nearest_option(path: KeyPath, kind: type[Config]) -> str:
    """What may have been meant by an option that does not exist."""
    known = [known_path for known_path, _ in fields(kind)]
    if path in known:
        return f"another kind of {path[-2]} has it, see {'.'.join(path[:-1])}.name"
    siblings = {known_path[-1]: known_path for known_path in known if known_path[:-1] == path[:-1]}
    sections = {known_path[0]: known_path[:1] for known_path in known} if len(path) == 1 else {}
    near = difflib.get_close_matches(path[-1], [*siblings, *sections], n=1)
    elsewhere = _called(path[-1], known)
    if hint := None if elsewhere else hint_for(path[-1]):
        return f"here it is {hint}"
    if near:
        return f"did you mean {'.'.join((siblings | sections)[near[0]])}?"
    return f"did you mean {' or '.join(elsewhere)}?" if elsewhere else f"known here: {', '.join(siblings)}"


def _called(name: str, known: Iterable[KeyPath]) -> list[str]:
    """The options of this name in any section."""
    return sorted(".".join(path) for path in known if path[-1] == name)


def describe_flags(words: Sequence[str]) -> str:
    """What to write instead of arguments that the training command does not know, such as --epochs."""
    known = [path for path, _ in fields(Config)]
    remedies = []
    for word in words:
        if not word.startswith("-"):
            continue
        name = word.lstrip("-").partition("=")[0]
        if named := _called(name.replace("-", "_"), known):
            remedies.append(f"{word}: write {' and '.join(f'{option}=...' for option in named)}")
        elif hint := hint_for(name):
            remedies.append(f"{word}: here it is {hint}")
    usual = "options of a config are arguments like schedule.steps=500"
    return "\n  ".join([f"unrecognized arguments: {' '.join(words)}", *(remedies or [usual])])
