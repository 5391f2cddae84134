"""`wgan shards make | check | show`: the commands around shards. Errors are raised for `wgan` to print."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, DataError, StorageError

if TYPE_CHECKING:
    from pipeline.data.manifest import Manifest

MAKE_EXAMPLES = """\
examples:
  wgan shards make digits data/digits                     1,797 digits of 16 x 16, no download
  wgan shards make mnist data/mnist --root ~/datasets     MNIST from ~/datasets/MNIST/raw
  wgan shards make mnist data/mnist-test --split test     downloaded where --root is not given
  wgan shards make photos data/photos --resolution 64     a folder of images, cut square

A folder's sub-folders are its classes; images directly in it have no labels. Running the same command
again changes nothing; after an interruption it starts over. New images need --overwrite.
"""

CHECK_EXAMPLES = """\
examples:
  wgan shards check data/mnist

Sizes, hashes and indexes are compared, and every image is decoded. Prints one line for each defect and
exits with 3 if there is one.
"""

SHOW_EXAMPLES = """\
examples:
  wgan shards show data/mnist
  wgan shards show data/photos --out photos.png --rows 4 --columns 12
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `shards` and its commands; each sets `func`, from parsed arguments to an exit code."""
    shards = subparsers.add_parser("shards", help="make, check and look at image shards")
    commands = shards.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_make(_command(commands, "make", "write a set of images as shards", MAKE_EXAMPLES))
    _add_check(_command(commands, "check", "find every defect of a shard directory", CHECK_EXAMPLES))
    _add_show(_command(commands, "show", "draw a sheet of samples", SHOW_EXAMPLES))


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str, examples: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=summary.capitalize() + ".",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_make(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="digits, mnist, or a folder of images")
    parser.add_argument("out", metavar="OUT", type=Path, help="the directory for the shards")
    parser.add_argument("--resolution", type=int, metavar="N", help="side in pixels (default: the source's)")
    parser.add_argument(
        "--channels", type=int, choices=(1, 3), help="1 grey, 3 colour (default: the source's)"
    )
    parser.add_argument("--split", choices=("train", "test"), default="train", help="default: train")
    parser.add_argument(
        "--root", type=Path, metavar="DIR", help="where the source's files are; never downloads"
    )
    parser.add_argument("--samples-per-shard", type=int, default=4096, metavar="N", help="default: 4096")
    parser.add_argument("--overwrite", action="store_true", help="replace the shards in OUT")
    parser.set_defaults(func=make)


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="a directory of shards")
    parser.set_defaults(func=check)


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="a directory of shards")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a PNG file (default: DIR's name, here)")
    parser.add_argument("--rows", type=int, default=8, metavar="N", help="default: 8")
    parser.add_argument("--columns", type=int, default=8, metavar="N", help="default: 8")
    parser.set_defaults(func=show)


def make(arguments: argparse.Namespace) -> int:
    """Make shards of `arguments.source` in `arguments.out`, unless they are there already."""
    from pipeline.data.sources import open_source
    from pipeline.data.writer import find_finished, make_shards, plan_shards

    source = open_source(arguments.source, root=arguments.root, split=arguments.split)
    resolution = source.native_resolution if arguments.resolution is None else arguments.resolution
    if resolution is None:
        raise ConfigError(f"{arguments.source} has no resolution of its own. Give one: --resolution 64.")
    channels = arguments.channels or source.native_channels
    plan = plan_shards(
        source, resolution=resolution, channels=channels, samples_per_shard=arguments.samples_per_shard
    )
    finished = None if arguments.overwrite else find_finished(arguments.out, plan)
    if finished:
        print(f"{arguments.out} is complete already: nothing to do (--overwrite makes it again)")
        return 0
    manifest = make_shards(
        source,
        arguments.out,
        resolution=resolution,
        channels=channels,
        samples_per_shard=arguments.samples_per_shard,
        overwrite=arguments.overwrite,
    )
    print(f"made {arguments.out}: {describe(manifest)}")
    print(f"next: wgan shards show {arguments.out}")
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Print every defect of `arguments.directory`; 3 if there is one, else 0."""
    from pipeline.data.inspect import check_shards

    report = check_shards(arguments.directory)
    for finding in report.findings:
        print(finding)
    if report.findings:
        count = "1 defect" if len(report.findings) == 1 else f"{len(report.findings):,} defects"
        print(
            f"{arguments.directory}: {count} found. Copy the files again, or make "
            "them again with `wgan shards make ... --overwrite`.",
            file=sys.stderr,
        )
        return DataError.exit_code
    print(f"{arguments.directory} is sound: {describe(report.manifest)}")
    return 0


def show(arguments: argparse.Namespace) -> int:
    """Draw samples of `arguments.directory` into a PNG file."""
    from pipeline.data.inspect import contact_sheet

    out = arguments.out or Path(f"{arguments.directory.resolve().name}.png")
    sheet = contact_sheet(arguments.directory, arguments.rows, arguments.columns)
    try:
        sheet.save(out, format="PNG")
    except OSError as error:
        raise StorageError(f"{out} cannot be written: {error.strerror}. Give another --out.") from None
    print(f"drew {out}: {sheet.width} x {sheet.height}")
    return 0


def describe(manifest: Manifest) -> str:
    """Counts and sizes in one line."""
    height, width = manifest.resolution
    kind = "grey" if manifest.channels == 1 else "colour"
    classes = f"{len(manifest.classes)} classes" if manifest.classes else "no labels"
    shards = f"{len(manifest.shards)} shard{'s' if len(manifest.shards) > 1 else ''}"
    return (
        f"{manifest.count:,} images of {width} x {height} {kind}, {classes}, "
        f"{shards}, {manifest.bytes / 1e6:.1f} MB"
    )
