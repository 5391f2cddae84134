"""The configs that come with this package, and how a CONFIG argument becomes a file: a path, or a preset's name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigError

FIELDS = ("command", "duration", "expect")


@dataclass(frozen=True)
class Preset:
    """A config that comes with the package, and what the comment at its head says."""

    name: str
    path: Path
    summary: str
    commands: tuple[str, ...]
    """Shell commands in their order, with their remarks: first those that make its shards, then training."""
    duration: str
    expect: str


def list_presets() -> list[Preset]:
    """All presets in the order of their names, with those of published systems last."""
    paths = sorted(_directory().rglob("*.yaml"), key=lambda path: (len(path.parts), path.stem))
    return [_read_preset(path) for path in paths]


def find_config(name: Path) -> Path:
    """The file that a CONFIG argument means: the path itself if there is one, else the preset of that name.

    Raises ConfigError that names the presets and what is most like the argument.
    """
    try:
        is_file = name.exists() and not name.is_dir()
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror}. Name a YAML file or a preset.") from None
    if is_file:
        return name
    presets = {preset.name: preset for preset in list_presets()}
    if str(name) in presets:
        return presets[str(name)].path
    raise ConfigError(_describe_missing(name, list(presets)))


def shards_command(directory: str) -> str | None:
    """The `wgan shards make` command by which a preset makes the shards in `directory`, or None."""
    for preset in list_presets():
        for command in preset.commands:
            bare = command.partition("  #")[0].rstrip()
            if bare.startswith("wgan shards make ") and directory in bare.split():
                return bare
    return None


def _directory() -> Path:
    """configs/ of the checkout; in an installed package its copy, which setup.py puts into the wheel."""
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def _read_preset(path: Path) -> Preset:
    head = re.match(r"(#.*\n)*", path.read_text(encoding="utf-8"))
    lines = [line.removeprefix("#").removeprefix(" ") for line in head.group().splitlines()] if head else []
    fields: dict[str, list[str]] = {field: [] for field in FIELDS}
    current: list[str] | None = None
    for line in lines[1:]:
        field, colon, text = line.partition(":")
        if colon and field in fields:
            current = fields[field]
            current.append(text.strip())
        elif current is not None:
            current.append(line.strip())
    return Preset(
        name=path.stem,
        path=path,
        summary=lines[0] if lines else "",
        commands=tuple(fields["command"]),
        duration=" ".join(fields["duration"]),
        expect=" ".join(fields["expect"]),
    )


def _describe_missing(name: Path, presets: Sequence[str]) -> str:
    if (name / "config.yaml").is_file():
        return f"{name} is a directory, not a config. Did you mean {name / 'config.yaml'}?"
    found = f"{name} is a directory, not a config" if name.is_dir() else f"There is no config {name}"
    near = _nearest(name, presets)
    question = f"Did you mean {' or '.join(near)}? " if near else ""
    return f"{found}. {question}Name a YAML file or a preset: {', '.join(presets)} (`wgan configs` describes them)."


def _nearest(name: Path, presets: Sequence[str]) -> list[str]:
    """What is most like the argument: files below configs/ here, else presets."""
    files = sorted(str(file) for file in Path("configs").rglob("*.yaml"))
    if near := difflib.get_close_matches(str(name), files, n=1):
        return near
    return [name.stem] if name.stem in presets else difflib.get_close_matches(name.stem, presets, n=2)
