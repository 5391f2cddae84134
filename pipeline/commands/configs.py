"""`wgan configs`: lists the presets, or prints one as YAML."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline.commands.arguments import Commands, add_command
from pipeline.presets import Preset, find_config, list_presets
from pipeline.stdout import say

EXAMPLES = """\
examples:
  wgan configs                                         describes each preset, with its commands and duration
  wgan configs digits                                  prints the preset
  wgan configs digits > mine.yaml                      a copy to edit, for `wgan train mine.yaml`

Every command that takes a CONFIG accepts the name of a preset.
"""


def add_parser(commands: Commands) -> None:
    """Add the command, its flags and its help."""
    configs = add_command(commands, "configs", "list the presets, or print one", EXAMPLES)
    configs.add_argument("name", nargs="?", metavar="NAME", help="a preset to print as YAML")
    configs.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Describe all presets, or print one."""
    if arguments.name is None:
        say(*[line for preset in list_presets() for line in (*describe(preset), "")][:-1])
    else:
        sys.stdout.write(find_config(Path(arguments.name)).read_text(encoding="utf-8"))
    return 0


def describe(preset: Preset) -> list[str]:
    """Lines that say what the preset is, the commands that train it, and how long they take."""
    commands = (f"  {command}" for command in preset.commands)
    return [f"{preset.name}: {preset.summary}", *commands, f"  duration: {preset.duration}"]
