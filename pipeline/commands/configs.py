"""`wgan configs`: the presets, and the YAML of one of them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline.commands.arguments import Commands, add_command
from pipeline.presets import Preset, find_config, list_presets

EXAMPLES = """\
examples:
  wgan configs                                         what each preset is, its commands and how long it takes
  wgan configs digits                                  the preset itself
  wgan configs digits > mine.yaml                      a copy to change; train it with `wgan train mine.yaml`

A preset's name can be given wherever a command takes a CONFIG.
"""


def add_parser(commands: Commands) -> None:
    """Add the command, its flags and its help."""
    configs = add_command(commands, "configs", "list the presets, or print one", EXAMPLES)
    configs.add_argument("name", nargs="?", metavar="NAME", help="of a preset whose YAML is to be printed")
    configs.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Print all presets, or the file of one."""
    if arguments.name is None:
        print("\n\n".join(describe(preset) for preset in list_presets()))
    else:
        sys.stdout.write(find_config(Path(arguments.name)).read_text(encoding="utf-8"))
    return 0


def describe(preset: Preset) -> str:
    """What the preset is, the commands that train it, and how long they take."""
    commands = "\n".join(f"  {command}" for command in preset.commands)
    return f"{preset.name}: {preset.summary}\n{commands}\n  duration: {preset.duration}"
