"""The options as a tree: every option by the path of its keys, of all kinds of a section."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipeline.options import Config

KeyPath = tuple[str, ...]
"""("model", "width") for model.width."""


def default_kind(section: str) -> str | None:
    """The `name` of a section that gives none; None for a section of only one kind, and for other options."""
    field = Config.model_fields.get(section)
    return getattr(field.default, "name", None) if field else None


def fields(options: type[BaseModel], prefix: KeyPath = ()) -> Iterator[tuple[KeyPath, FieldInfo]]:
    """Every option below `options`, including those of all kinds of a section, once each."""
    seen = set()
    for path, _, field in fields_of_kinds(options, prefix):
        if path not in seen:
            seen.add(path)
            yield path, field


def fields_of_kinds(
    options: type[BaseModel], prefix: KeyPath = (), kind: str = ""
) -> Iterator[tuple[KeyPath, str, FieldInfo]]:
    """Every option below `options` for each kind of its section, with the kind's `name` ("" if there is one kind)."""
    for name, field in options.model_fields.items():
        kinds = [part for part in _kinds(field.annotation) if issubclass(part, BaseModel)]
        for part in kinds:
            yield from fields_of_kinds(part, (*prefix, name), _name_of(part))
        if not kinds:
            yield (*prefix, name), kind, field


def default_values(options: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The defaults of these options, by dotted name, for the kinds that `options` names; none for required ones."""
    found = {}
    for path, kind, field in fields_of_kinds(Config):
        name = ".".join(path)
        is_chosen = not kind or kind == options.get(f"{path[0]}.name")
        if name in names and is_chosen and not field.is_required():
            found[name] = field.get_default(call_default_factory=True)
    return found


def _name_of(kind: type[BaseModel]) -> str:
    """The `name` by which a section is of this kind; "" for sections of one kind."""
    field = kind.model_fields.get("name")
    is_literal = field is not None and get_origin(field.annotation) is Literal
    return get_args(field.annotation)[0] if field is not None and is_literal else ""


def _kinds(annotation: Any) -> list[type]:
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return [kind for part in get_args(annotation) for kind in _kinds(part)]
    return [annotation] if isinstance(annotation, type) and annotation is not NoneType else []
