"""`wgan shards`: makes, checks and shows shards. Errors are raised and printed by `wgan`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from pipeline.commands import shards_index, shards_make
from pipeline.commands.arguments import add_whole
from pipeline.commands.shards_make import describe, print_remarks
from pipeline.durable import replacing
from pipeline.errors import DataError
from pipeline.stderr import say_line
from pipeline.stdout import say
from pipeline.wording import counted

MOST_CELLS, MAX_SIDE = 10_000, 4096
MERGE_EXAMPLES = """\
examples:
  wgan shards merge data/big                          if all parts were made in data/big
  wgan shards merge data/big /disk2/big /disk3/big    if they were made in several directories
"""

STATS_EXAMPLES = """\
examples:
  wgan shards stats data/mnist
  wgan shards stats data/index --resolution 128         tar files of others, as a run at 128 pixels sees them
"""

CHECK_EXAMPLES = """\
examples:
  wgan shards check data/mnist

Compares sizes, hashes and indexes, and decodes every image. Prints one line for each defect, and exits with 3 if
there is any.
"""

SHOW_EXAMPLES = """\
examples:
  wgan shards show data/mnist
  wgan shards show data/photos --out photos.png --rows 4 --columns 12
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `shards` and its commands. Each sets `func`, which takes the parsed arguments and returns an exit code."""
    shards = subparsers.add_parser("shards", help="make, check and show image shards")
    commands = shards.add_subparsers(title="commands", required=True, metavar="COMMAND")
    shards_make.add_arguments(_command(commands, "make", "make shards from images", shards_make.EXAMPLES))
    _add_merge(_command(commands, "merge", "combine the parts that several machines made", MERGE_EXAMPLES))
    shards_index.add_arguments(
        _command(commands, "index", "use existing webdataset shards where they lie", shards_index.EXAMPLES)
    )
    _add_directory(_command(commands, "check", "find all defects of a set of shards", CHECK_EXAMPLES), check)
    _add_show(_command(commands, "show", "draw some of the images into a PNG file", SHOW_EXAMPLES))
    _add_looked_at(
        _command(commands, "stats", "print pixel statistics and class sizes", STATS_EXAMPLES), stats
    )


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def add_text(self, text: str | None) -> None:
        if text and "{sources}" in text:
            # Only when the help is shown, because listing the sources imports NumPy.
            from pipeline.data.sources import describe_sources

            text = text.replace("{sources}", describe_sources())
        super().add_text(text)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        # Several sources are taken only to be answered: the usage shows one.
        return "SOURCE" if action.dest == "source" else super()._format_args(action, default_metavar)


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str, examples: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=summary.capitalize() + ".",
        epilog=examples,
        formatter_class=_HelpFormatter,
    )


def _add_merge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", metavar="OUT", type=Path, help="the directory for the whole set")
    parser.add_argument(
        "parts", metavar="DIR", type=Path, nargs="*", help="other directories that hold parts of it"
    )
    parser.set_defaults(func=merge)


def _add_directory(parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], int]) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="a directory of shards")
    parser.set_defaults(func=command)


def _add_looked_at(parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], int]) -> None:
    _add_directory(parser, command)
    add_whole(
        parser,
        "--resolution",
        1,
        MAX_SIDE,
        metavar="N",
        help="look at images cropped and resized to N x N (default: as they are stored; 64 if they have any size)",
    )


def _add_show(parser: argparse.ArgumentParser) -> None:
    _add_looked_at(parser, show)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="PNG file (default: the name of DIR with .png, in this directory)",
    )
    for what in ("rows", "columns"):
        add_whole(parser, f"--{what}", 1, MOST_CELLS, 8, metavar="N", help=f"{what} of images (default: 8)")


def merge(arguments: argparse.Namespace) -> int:
    """Combine parts to a finished set in `arguments.out`."""
    from pipeline.data.making.writer import merge_parts
    from pipeline.data.sources import NOTHING_TO_SAY

    manifest = merge_parts(arguments.out, arguments.parts)
    say(f"merged {arguments.out}: {describe(manifest)}")
    # What each source holds besides images was said when its part was made.
    print_remarks(arguments.out, manifest, NOTHING_TO_SAY)
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Print every defect of `arguments.directory`; return 3 if there is any, else 0."""
    from pipeline.data.inspecting.check import check_shards

    report = check_shards(arguments.directory)
    for finding in report.findings:
        say(finding)
    if report.findings:
        remedy = (
            "index what has changed with `wgan shards index`"
            if report.manifest.is_of_originals
            else "make them again with `wgan shards make ... --overwrite`"
        )
        say_line(
            f"{arguments.directory}: {counted(len(report.findings), 'defect')} found. Copy the files again, or "
            f"{remedy}."
        )
        return DataError.exit_code
    for remark in report.remarks:
        say(remark)
    say(f"{arguments.directory} is {report.verdict}: {describe(report.manifest)}")
    if report.left_out:
        say(f"left out: {'; '.join(report.left_out)}")
    return 0


def stats(arguments: argparse.Namespace) -> int:
    """Print the statistics of the images of `arguments.directory`."""
    from pipeline.data.inspecting.statistics import measure

    say(*measure(arguments.directory, arguments.resolution).lines())
    return 0


def show(arguments: argparse.Namespace) -> int:
    """Draw images of `arguments.directory` into a PNG file."""
    from pipeline.data.inspecting.sheet import contact_sheet

    out = arguments.out or Path(f"{arguments.directory.resolve().name}.png")
    sheet = contact_sheet(arguments.directory, arguments.rows, arguments.columns, arguments.resolution)
    with replacing(out) as file:
        sheet.save(file, format="PNG")
    say(f"drew {out}: {sheet.width} x {sheet.height} pixels")
    return 0
