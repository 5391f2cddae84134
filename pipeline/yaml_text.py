"""The one way to read YAML: plain values, each key once, within limits of size and depth, and the line of each key.

PyYAML follows YAML 1.1, in which 010 is 8, 1:30 is 90, 0x1f is 31, `no` is false, 2020-01-01 a date, and 5e-5 text.
Here whole numbers are decimal and without leading zeros, 5e-5 is a number, only true and false are booleans, and
everything else is text.
"""

from __future__ import annotations

import re
from collections.abc import Set
from typing import Any, NamedTuple, NoReturn

import yaml

from pipeline.foreign_text import printable

MOST_BYTES, MOST_VALUES, MOST_LEVELS = 1 << 16, 5_000, 16
"""Limits for a text, so that none takes longer than about a second. A config has 3 kB with 100 values on 3 levels."""


MOST_DIGITS, MOST_SHOWN = 100, 300
TAG = "tag:yaml.org,2002:"
DECIMAL = r"(?:0|[1-9][0-9]*)"
SCALARS = {
    "int": re.compile(rf"[-+]?{DECIMAL}\Z"),
    "float": re.compile(
        rf"(?:[-+]?(?:\.[0-9]+|{DECIMAL}(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"),
    "null": re.compile(r"(?:null|Null|NULL|~)?\Z"),
}
"""What plain text must look like to be more than text. The first that fits counts."""

BOOLEANS = {"yes": "true", "y": "true", "on": "true", "no": "false", "n": "false", "off": "false"}
BASES = {"0x": 16, "0o": 8, "0b": 2}

KeyPath = tuple[str, ...]


class Yaml(NamedTuple):
    """What a YAML text holds, and where."""

    content: Any
    places: dict[KeyPath, str]
    """The line of each key of nested mappings, such as "line 3"."""


def parse_yaml(text: str, place: KeyPath = (), names: Set[KeyPath] = frozenset()) -> Yaml:
    """Read one YAML document; None for an empty one.

    `place` says where the document belongs in a larger one. The items of lists at the places `names` are taken as they
    are written: 010, no and 2020-01-01 are names there. Raises ValueError with a short text for anything else, and for
    aliases, tags, keys that are given twice, and documents that are too large or too deeply nested.
    """
    if len(text) > MOST_BYTES:
        raise ValueError(f"it has {len(text):,} characters, and at most {MOST_BYTES:,} are allowed")
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return Yaml(None, {})
        places: dict[KeyPath, str] = {}
        _walk(node, place, names, places)
        return Yaml(loader.construct_document(node), places)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(printable(_describe(error), MOST_SHOWN)) from None
    finally:
        if loader is not None:
            loader.dispose()


class _Loader(yaml.SafeLoader):
    """Plain YAML without aliases and tags."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values = self._level = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            _refuse("aliases (*name) are not supported", event)
        if event.tag is not None:
            tag = event.tag.replace(TAG, "!!")
            _refuse(f"tags such as {tag} are not supported: write the plain value", event)
        self._values += 1
        self._level += 1
        if self._values > MOST_VALUES:
            _refuse(f"there are more than {MOST_VALUES:,} keys and values", event)
        if self._level > MOST_LEVELS:
            _refuse(f"values are nested on more than {MOST_LEVELS} levels", event)
        node = super().compose_node(parent, index)
        self._level -= 1
        if isinstance(node, yaml.ScalarNode) and node.tag == f"{TAG}int" and len(node.value) > MOST_DIGITS:
            _refuse(f"a number has {len(node.value):,} digits", event)
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes text that `parse_yaml` or readers of YAML 1.1 would take for more than text."""


_Loader.yaml_implicit_resolvers = {}
for _kind, _pattern in SCALARS.items():
    _Loader.add_implicit_resolver(f"{TAG}{_kind}", _pattern, None)
    _Dumper.add_implicit_resolver(f"{TAG}{_kind}", _pattern, None)


def dump_yaml(content: Any) -> str:
    """Plain values as YAML, which `parse_yaml` and readers of YAML 1.1 read back alike."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False)


def how_to_write(text: str) -> str:
    """What to write instead of a number or boolean of YAML 1.1 that is text here; "" if it is neither."""
    if (word := text.lower()) in BOOLEANS:
        return f"write {BOOLEANS[word]}"
    if len(text) > MOST_DIGITS:
        return ""
    digits = text.replace("_", "").removeprefix("+")
    sign, digits = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
    if base := BASES.get(digits[:2].lower()):
        return _in_base(digits, base, sign)
    if re.fullmatch(r"[0-9]+(:[0-5]?[0-9])+", digits):
        total = 0
        for part in digits.split(":"):
            total = 60 * total + int(part)
        return f"numbers to base 60 are not read, write {sign}{total}"
    without_zeros = re.sub(r"^0+(?=[0-9])", "", digits)
    if not SCALARS["float"].match(without_zeros):
        return ""
    if without_zeros == digits:
        return "" if "_" not in text else f"underscores are not read, write {sign}{digits}"
    octal = f", or {sign}{int(digits, 8)} if it is octal" if re.fullmatch("[0-7]+", digits) else ""
    return f"leading zeros are not read, write {sign}{without_zeros}{octal}"


def _in_base(digits: str, base: int, sign: str) -> str:
    """The advice for a number such as 0x1f, if it is one."""
    try:
        return f"only decimal numbers are read, write {sign}{int(digits, base)}"
    except ValueError:
        return ""


def _describe(error: Exception) -> str:
    """What PyYAML says, on one line, without the text around it."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        found = ", ".join(filter(None, (error.context, error.problem)))
        return f"{found} (line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1})"
    return " ".join(str(error).split())


def _refuse(problem: str, event: Any) -> NoReturn:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def _walk(node: yaml.Node, path: KeyPath, names: Set[KeyPath], places: dict[KeyPath, str]) -> None:
    """Note the line of each key, and make text of all names."""
    if path in names and isinstance(node, yaml.SequenceNode):
        for item in node.value:
            # Only plain text has no style. An empty item is none that was forgotten.
            if isinstance(item, yaml.ScalarNode) and item.style is None and item.value:
                item.tag = f"{TAG}str"
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        here = (*path, str(key.value))
        if here in places:
            raise yaml.MarkedYAMLError(
                problem=f"{'.'.join(here)} is given twice, first on {places[here]}",
                problem_mark=key.start_mark,
            )
        places[here] = f"line {key.start_mark.line + 1}"
        _walk(value, here, names, places)
