"""From defaults, a YAML file and `key=value` arguments to one checked Config: defaults < YAML < arguments.

Every mistake is reported at once, with the line that holds it and the nearest option that exists.
Nothing here imports torch: a mistake costs a fraction of a second.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from pipeline.errors import ConfigError
from pipeline.options import Config
from pipeline.presets import find_config

MOST_BYTES = 1 << 20

KeyPath = tuple[str, ...]


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read `path` (a YAML file, or a preset's name), apply `overrides` (each "section.option=value"), check the result.

    An override that makes a section's `name` another one drops what the file says of that section, since its
    options belong to another kind. Of two overrides of one option the last counts. Raises ConfigError that
    lists every mistake.
    """
    return override_config(path, dict(_parse_override(text) for text in overrides), "command line")


def override_config(
    source: Path | Mapping[str, Any], overrides: Mapping[KeyPath, Any], origin: str
) -> Config:
    """The options of a file or of a nested mapping with these overrides, checked as `load_config` checks them.

    `origin` says in messages where the overrides come from.
    """
    content, places = (
        _read_yaml(find_config(source)) if isinstance(source, Path) else (deepcopy(dict(source)), {})
    )
    # Whole sections first, then the kinds of sections, then single options, whatever order they came in.
    for key in sorted(overrides, key=lambda key: (len(key), key[-1] != "name")):
        for changed in _override(content, key, overrides[key]):
            places[changed] = origin
    return parse_config(content, str(source) if isinstance(source, Path) else "config", places)


def parse_config(content: dict[str, Any], origin: str, places: Mapping[KeyPath, str] | None = None) -> Config:
    """Check a plain mapping; `places` says where each key was written, for the error message."""
    places = places or {}
    content = _completed(content)
    try:
        config = Config.model_validate(content)
        mistakes = []
    except ValidationError as error:
        mistakes = [_describe(item, content, places) for item in error.errors()]
        config = _repaired(content, error)
    mistakes += contradictions(config)
    if mistakes:
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        raise ConfigError("\n  ".join([f"{origin}: {count}", *mistakes]))
    return config


def dump_config(config: Config) -> str:
    """The resolved options as YAML, which load_config reads back to an equal Config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        path = f"{prefix}{key}"
        flat |= flatten(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return flat


def contradictions(config: Config) -> list[str]:
    """Options that are each allowed but cannot work together."""
    model, objective, schedule = config.model, config.objective, config.schedule
    checkpoint, processes, start = config.checkpoint, config.runtime.processes, config.init_from
    rules = [
        (
            objective.name == "gradient_penalty" and model.critic_norm == "batch",
            "model.critic_norm: batch cannot go with objective.name: gradient_penalty, which penalises the "
            "gradient of each sample alone; batch norm mixes samples. Use none, layer or instance",
        ),
        (
            model.name == "dcgan" and model.max_width < model.width,
            f"model.max_width: {getattr(model, 'max_width', 0)} is below model.width "
            f"{getattr(model, 'width', 0)}; raise it",
        ),
        (
            objective.name == "wasserstein" and model.spectral_norm,
            "model.spectral_norm: cannot go with objective.name: wasserstein, whose clipped weights spectral norm "
            "scales up again. Use hinge, gradient_penalty or another objective, or set it to false",
        ),
        (
            objective.name == "wasserstein" and objective.scope == "convolutions" and model.name == "mlp",
            "objective.scope: convolutions clips nothing with model.name: mlp, which has none. Use all or weights",
        ),
        (
            objective.name == "least_squares" and not objective.a < objective.c <= objective.b,
            "objective.a, b, c: scores of real images must be pulled above those of generated ones, and the "
            "generator must aim from the latter to the former: a < c <= b. Published are pearson (-1, 1, 0) and "
            "binary (0, 1, 1)",
        ),
        (
            objective.name == "gradient_penalty" and schedule.critic_rounds == "alternating",
            "schedule.critic_rounds: alternating cannot go with objective.name: gradient_penalty, which needs "
            "real and generated images at once. Use joint",
        ),
        *(
            (
                getattr(start, f"freeze_{network}") > 0 and getattr(start, network) is None,
                f"init_from.freeze_{network}: would keep layers as random as they start. Name the weights to keep in "
                f"init_from.{network}, or set it to 0",
            )
            for network in ("generator", "critic")
        ),
        (
            schedule.reuse_fakes and schedule.real_images != schedule.global_batch,
            f"schedule.reuse_fakes: a critic update has {schedule.real_images} generated images "
            f"(schedule.critic_batch), the generator's {schedule.global_batch}. Make both equal",
        ),
        (
            bool(config.data.workers) and config.data.cache in ("device", "host"),
            f"data.workers: {config.data.workers} workers have nothing to decode with data.cache: "
            f"{config.data.cache}; set data.workers: 0, or data.cache: none",
        ),
        *(
            (
                batch % config.data.streams != 0,
                f"data.streams: a batch of {batch} does not draw equally from {config.data.streams} streams. Make "
                "their number divide schedule.global_batch (and critic_batch)",
            )
            for batch in sorted({schedule.global_batch, schedule.real_images})
        ),
        (
            config.precision == "fp16" and config.runtime.device == "cpu",
            "precision: fp16 needs a GPU; with runtime.device: cpu use bf16 or float32",
        ),
        (
            processes is not None and schedule.global_batch % processes != 0,
            f"schedule.global_batch: {schedule.global_batch} is no multiple of runtime.processes {processes}; "
            "every rank takes an equal part of each batch",
        ),
        (
            processes is not None
            and schedule.real_images % processes != 0
            and schedule.critic_batch is not None,
            f"schedule.critic_batch: {schedule.critic_batch} is no multiple of runtime.processes {processes}; "
            "every rank takes an equal part of each batch",
        ),
        (
            checkpoint.keep_every is not None and checkpoint.keep_every % checkpoint.every != 0,
            f"checkpoint.keep_every: {checkpoint.keep_every} is no multiple of checkpoint.every "
            f"{checkpoint.every}, so the checkpoints to keep would never be written",
        ),
        *_quality_rules(config),
    ]
    return [message for broken, message in rules if broken]


def _quality_rules(config: Config) -> list[tuple[bool, str]]:
    """Of evaluations: whether each rule is broken, and what to say then."""
    quality = config.quality
    by_class = [metric for metric in ("modes", "class_distance") if metric in quality.metrics]
    return [
        (
            quality.classifier is None and quality.features == "classifier",
            "quality.features: classifier needs a trained one. Make it with `wgan features train SHARDS --out FILE`, "
            "and name it in quality.classifier",
        ),
        (
            quality.classifier is None and bool(by_class),
            f"quality.metrics: {', '.join(by_class)} needs a classifier. Make one with `wgan features train SHARDS "
            "--out FILE`, and name it in quality.classifier",
        ),
        (
            quality.every is not None and "copied" in quality.metrics and config.data.validation == 0,
            "quality.metrics: copied compares samples with held-out images, and data.validation is 0. Set it to "
            "0.05, for example",
        ),
        (
            quality.keep_best is not None and quality.keep_best not in quality.metrics,
            f"quality.keep_best: {quality.keep_best} is not among quality.metrics; add it there",
        ),
        (
            quality.keep_best is not None and quality.every is None,
            "quality.keep_best: without evaluations no checkpoint is the best. Set quality.every",
        ),
        (
            quality.keep_best == "copied",
            "quality.keep_best: copied has no better end: 0.01 is natural, and noise scores 0. Name another metric",
        ),
        (
            quality.patience is not None and quality.keep_best is None,
            "quality.patience: says how long to wait for a new best. Name the metric in quality.keep_best",
        ),
    ]


def describe_options() -> str:
    """One line for each option: its name, default and meaning, for --help.

    Where kinds of a section share an option but not its default or meaning, it has a line for each of them.
    """
    known: dict[KeyPath, list[str]] = {}
    holders: dict[tuple[str, str, str], list[str]] = {}
    for path, kind, field in _fields_of_kinds(Config):
        kinds = known.setdefault(path[:-1], [])
        if kind and path[-1] == "name":
            kinds.append(kind)
            continue
        default = "required" if field.is_required() else f"default {_as_text(field.default)}"
        holders.setdefault((".".join(path), default, field.description or ""), []).append(kind)
    lines = {
        (
            ".".join((*section, "name")),
            f"default {_default_kind(section[0])}",
            f"one of {', '.join(kinds)}",
        ): ""
        for section, kinds in known.items()
        if kinds
    }
    for line, kinds in holders.items():
        is_of_all = kinds in ([""], known[tuple(line[0].split(".")[:-1])])
        lines[line] = "" if is_of_all else f"({', '.join(kinds)}) "
    # Sections stand in the order of Config, each with its name first: sorting keeps the order of the rest.
    order = list(Config.model_fields)
    return "\n".join(
        f"  {name:36} {default:24} {of_kinds}{description}".rstrip()
        for (name, default, description), of_kinds in sorted(
            lines.items(), key=lambda item: order.index(item[0][0].partition(".")[0])
        )
    )


class _Loader(yaml.SafeLoader):
    """Plain YAML without aliases, in which 5e-5 is a number (YAML 1.1 takes it for text)."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not supported", problem_mark=mark)
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    """The file's mapping, and the line of each key."""
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise ConfigError(f"{path} has {size} bytes; a config has a few hundred. Is this the right file?")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as text: {error}.") from None
    places: dict[KeyPath, str] = {}
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return {}, places
        _note_places(node, (), places)
        content = loader.construct_document(node)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds {type(content).__name__}; a config is a mapping of options.")
    return content, places


def _note_places(node: yaml.Node, path: KeyPath, places: dict[KeyPath, str]) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        here = (*path, str(key.value))
        if here in places:
            raise yaml.MarkedYAMLError(
                problem=f"{'.'.join(here)} stands twice, first on {places[here]}", problem_mark=key.start_mark
            )
        places[here] = f"line {key.start_mark.line + 1}"
        _note_places(value, here, places)


def _parse_override(text: str) -> tuple[KeyPath, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{text!r} is no override; write section.option=value, like schedule.steps=500.")
    try:
        return tuple(key.split(".")), yaml.load(value, Loader=_Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{text!r}: the value is not valid YAML: {' '.join(str(error).split())}") from None


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
    kind = _default_kind(path[0])
    if path[1:] == ("name",) and kind is not None and section.get("name", kind) != value:
        section.clear()
    section[option] = value
    return [*made, path]


def _completed(content: dict[str, Any]) -> dict[str, Any]:
    """Sections with nothing below them are empty, and those without a `name` are of their default kind."""
    completed = dict(content)
    for key in content.keys() & {path[0] for path, _ in _fields(Config) if len(path) > 1}:
        section, kind = {} if content[key] is None else content[key], _default_kind(key)
        is_unnamed = isinstance(section, dict) and kind is not None
        completed[key] = {"name": kind, **section} if is_unnamed else section
    return completed


def _default_kind(section: str) -> str | None:
    """The `name` that a section has where it says none; None for sections of one kind and other options."""
    field = Config.model_fields.get(section)
    return getattr(field.default, "name", None) if field else None


def _describe(item: Any, content: Mapping[str, Any], places: Mapping[KeyPath, str]) -> str:
    path = _path_in(content, item["loc"])
    name, found, context = ".".join(path), item["input"], item.get("ctx", {})
    where = next((places[path[:n]] for n in range(len(path), 0, -1) if path[:n] in places), "")
    match item["type"]:
        case "extra_forbidden":
            text = f"unknown option{_nearest_option(path)}"
        case "missing":
            text, where = "is required", ""
        case "union_tag_invalid":
            where = places.get((*path, "name"), where)
            name, found = f"{name}.name", found["name"]
            text = f"{found!r} is not known; known are {context['expected_tags']}"
        case "list_type":
            text = f"{found!r} will not do: it must be a list, as in {name}=[{found}]"
        case "too_short":
            text = "an empty list will not do: name at least one, or leave it out"
        case "invalid_key":
            text = f"{found!r} cannot be the name of an option; names are words, like seed"
        case "model_type" | "model_attributes_type":
            example = ".".join(next(known for known, _ in _fields(Config) if known[: len(path)] == path))
            text = f"{found!r} will not do: {name} is a section of options; set them, as in {example}=..."
            if isinstance(found, str) and _default_kind(name) is not None:
                text = f"{found!r} will not do: {name} is a section; its kind is {name}.name={found}"
        case _:
            requirement = item["msg"].removeprefix("Input should ").removeprefix("be ")
            text = f"{found!r} will not do: it must be {requirement}"
    return f"{where}: {name}: {text}" if where else f"{name}: {text}"


def _path_in(content: Any, location: Sequence[int | str]) -> KeyPath:
    """The key path of a pydantic location, without the union tags that pydantic puts between the keys."""
    path: list[str] = []
    for index, part in enumerate(location):
        is_tag = isinstance(content, Mapping) and part not in content and index < len(location) - 1
        if is_tag:
            continue
        path.append(str(part))
        content = content.get(part) if isinstance(content, Mapping) else None
    return tuple(path)


def _nearest_option(path: KeyPath) -> str:
    known = [known_path for known_path, _ in _fields(Config)]
    if path in known:
        return f"; another kind of {path[-2]} has it, see {'.'.join(path[:-1])}.name"
    siblings = {known_path[-1]: known_path for known_path in known if known_path[:-1] == path[:-1]}
    sections = {known_path[0]: known_path[:1] for known_path in known} if len(path) == 1 else {}
    near = difflib.get_close_matches(path[-1], [*siblings, *sections], n=1)
    if near:
        return f"; did you mean {'.'.join((siblings | sections)[near[0]])}?"
    elsewhere = sorted(".".join(known_path) for known_path in known if known_path[-1] == path[-1])
    return (
        f"; did you mean {' or '.join(elsewhere)}?" if elsewhere else f"; known here: {', '.join(siblings)}"
    )


def _fields(options: type[BaseModel], prefix: KeyPath = ()) -> Iterator[tuple[KeyPath, FieldInfo]]:
    """Every option below `options`, those of all kinds of a section included, once each."""
    seen = set()
    for path, _, field in _fields_of_kinds(options, prefix):
        if path not in seen:
            seen.add(path)
            yield path, field


def _fields_of_kinds(
    options: type[BaseModel], prefix: KeyPath = (), kind: str = ""
) -> Iterator[tuple[KeyPath, str, FieldInfo]]:
    """Every option below `options` for each kind of its section, whose `name` comes with it ("" for none)."""
    for name, field in options.model_fields.items():
        kinds = [part for part in _kinds(field.annotation) if issubclass(part, BaseModel)]
        for part in kinds:
            yield from _fields_of_kinds(part, (*prefix, name), _name_of(part))
        if not kinds:
            yield (*prefix, name), kind, field


def _name_of(kind: type[BaseModel]) -> str:
    """What a section's `name` must be to get this kind; "" for sections of one kind."""
    field = kind.model_fields.get("name")
    return (
        get_args(field.annotation)[0] if field is not None and get_origin(field.annotation) is Literal else ""
    )


def _kinds(annotation: Any) -> list[type]:
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return [kind for part in get_args(annotation) for kind in _kinds(part)]
    return [annotation] if isinstance(annotation, type) and annotation is not NoneType else []


def _as_text(default: Any) -> str:
    return yaml.safe_dump(default, default_flow_style=True).removesuffix("\n...\n").strip()


def _repaired(content: Mapping[str, Any], error: ValidationError) -> Config:
    """The config with every mistaken option left at its default, so that the rest can be checked too."""
    repaired = {key: dict(value) if isinstance(value, dict) else value for key, value in content.items()}
    for item in error.errors():
        *sections, option = _path_in(content, item["loc"])
        section: Any = repaired
        for name in sections:
            section = section.get(name) if isinstance(section, dict) else None
        if isinstance(section, dict):
            section.pop(option, None)
    required = {"name": "x", "data": {"shards": "x"}, "schedule": {"steps": 1}}
    for key, value in required.items():
        given = repaired.get(key)
        repaired[key] = (
            {**value, **given} if isinstance(value, dict) and isinstance(given, dict) else given or value
        )
    try:
        return Config.model_validate(_completed(repaired))
    except ValidationError:
        return Config.model_validate(required)
