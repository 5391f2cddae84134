"""`wgan export`: write a run's generator as one file."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.commands.arguments import Commands, add_command, add_generator
from pipeline.commands.targets import check_file
from pipeline.durable import make_directory_of
from pipeline.errors import ConfigError
from pipeline.stdout import say

EXAMPLES = """\
examples:
  wgan export runs/digits --out digits.safetensors
  wgan export runs/digits --out digits.onnx            needs the extra `onnx`
  wgan export runs/digits --out digits.pt2

safetensors  (.safetensors) the weights, and a card that says how to build the network. `wgan sample` and
             pipeline.load_generator(FILE) read it. Reading it never runs code.
onnx         (.onnx) a network from `latents` (batch, latent) to `images` in [-1, 1], for onnxruntime and
             other runtimes. A generator with classes also takes int64 `labels` (batch,): places of classes.
program      (.pt2) the same network for torch.export.load, without this package. torch unpickles parts of
             such a file, which can run code: load only files that you trust. No command here reads one.

The last two are compared with PyTorch before they are written: no pixel may differ by more than 1e-4.
The card is also written next to each file, as FILE.json; its `classes` are the names, in the order of labels.
"""
ENDINGS = {".safetensors": "safetensors", ".onnx": "onnx", ".pt2": "program"}
"""The format that the ending of a file's name means."""


def add_parser(commands: Commands) -> None:
    """Add the command, its flags and its help."""
    export = add_command(commands, "export", "write a run's generator as one file", EXAMPLES)
    add_generator(export)
    export.add_argument(
        "--format", choices=tuple(ENDINGS.values()), help="default: by the ending of FILE, as listed below"
    )
    export.add_argument("--out", type=Path, required=True, metavar="FILE")
    export.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Write a generator to one file, if it makes the same images as in PyTorch."""
    from pipeline.run.export_formats import WRITERS, check_onnx_packages
    from pipeline.run.generator import read_generator

    target: Path = arguments.out
    check_file("--out", target, "a generator")
    chosen = choose_format(arguments.format, target)
    if chosen == "onnx":
        check_onnx_packages()
    generator = read_generator(arguments.run, arguments.checkpoint, arguments.ema).cpu()
    make_directory_of(target)
    WRITERS[chosen](generator, target)
    card = generator.card
    size = target.stat().st_size
    say(f"generator of {card.run}, step {card.step} ({card.weights}), {size:,} bytes: {target}")
    return 0


def choose_format(wanted: str | None, target: Path) -> str:
    """The wanted format, or else that of the file's ending. Raises ConfigError if there is none, or both differ."""
    meant = ENDINGS.get(target.suffix.lower())
    if wanted is None and meant is None:
        found = f"ends in {target.suffix}" if target.suffix else "has no ending"
        raise ConfigError(
            f"--out {target}: the ending says in which format the generator is written, and this name {found}. Name a "
            f"file that ends in {', '.join(ENDINGS)}, or add --format."
        )
    if wanted is not None and meant not in (None, wanted):
        ending = next(ending for ending, name in ENDINGS.items() if name == wanted)
        raise ConfigError(
            f"--format {wanted} contradicts --out {target}, which is named like the format {meant}. Leave --format "
            f"out, or name a file that ends in {ending}."
        )
    return wanted or str(meant)
