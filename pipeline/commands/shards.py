"""`wgan shards`: the commands around shards. Errors are raised for `wgan` to print."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, DataError, StorageError

if TYPE_CHECKING:
    from pipeline.data.format.manifest import Manifest

MAKE_EXAMPLES = """\
sources:
{sources}

examples:
  wgan shards make digits data/digits                       1,797 digits of 16 x 16, no download
  wgan shards make mnist data/mnist --root ~/datasets       MNIST from ~/datasets/MNIST/raw
  wgan shards make photos data/photos --resolution 64       a folder of images, cut square
  wgan shards make photos.zip data/wide --resolution 90x160 --fit pad --encoding jpeg
  wgan shards make photos data/train --resolution 64 --validation 0.1
  wgan shards make photos data/validation --resolution 64 --validation 0.1 --only-validation
  wgan shards make photos data/big --resolution 256 --part 3/8     the third of eight machines

The same command gives the same bytes, whatever the number of workers. After an interruption it goes on from
the shards that are finished; where all are, it changes nothing. New images need --overwrite.
"""

MERGE_EXAMPLES = """\
examples:
  wgan shards merge data/big                          all parts were made in data/big
  wgan shards merge data/big /disk2/big /disk3/big    or in directories of their own
"""

INDEX_EXAMPLES = """\
examples:
  wgan shards index data/webdataset

Takes in the tar files of a webdataset as they are: writes an index beside each, and the manifest. Their images
must all be PNG, or all be JPEG, of one size; `wgan shards make` rewrites any others.
"""

STATS_EXAMPLES = """\
examples:
  wgan shards stats data/mnist
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
    _add_merge(_command(commands, "merge", "make one set of the parts of several machines", MERGE_EXAMPLES))
    _add_directory(
        _command(commands, "index", "take in webdataset shards as they are", INDEX_EXAMPLES), index
    )
    _add_directory(
        _command(commands, "check", "find every defect of a shard directory", CHECK_EXAMPLES), check
    )
    _add_show(_command(commands, "show", "draw a sheet of samples", SHOW_EXAMPLES))
    _add_directory(_command(commands, "stats", "measure the pixels of a set", STATS_EXAMPLES), stats)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def add_text(self, text: str | None) -> None:
        if text and "{sources}" in text:
            # Only where help is really shown: what is listed imports NumPy.
            from pipeline.data.sources import describe_sources

            text = text.replace("{sources}", describe_sources())
        super().add_text(text)


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


def _add_make(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="a name or a path, as listed below")
    parser.add_argument("out", metavar="OUT", type=Path, help="the directory for the shards")
    _add_conversion(parser.add_argument_group("what becomes of an image"))
    _add_selection(parser.add_argument_group("which images"))
    _add_work(parser.add_argument_group("how the work is done"))
    parser.set_defaults(func=make)


def _add_conversion(images: argparse._ArgumentGroup) -> None:
    images.add_argument(
        "--resolution", type=_resolution, metavar="N|HxW", help="in pixels (default: the source's)"
    )
    images.add_argument(
        "--channels", type=int, choices=(1, 3), help="1 grey, 3 colour (default: the source's)"
    )
    images.add_argument(
        "--fit",
        choices=("crop", "fit", "pad"),
        default="crop",
        help="for other proportions: cut about the centre, squeeze, or lay whole on black (default: crop)",
    )
    images.add_argument(
        "--encoding",
        choices=("png", "jpeg", "raw"),
        default="png",
        help="png keeps every pixel; jpeg is smaller; raw is read fastest. Files that are so already are kept "
        "byte for byte (default: png)",
    )
    images.add_argument(
        "--quality", type=int, default=95, metavar="Q", help="of JPEG, 1 to 100 (default: 95)"
    )


def _add_selection(which: argparse._ArgumentGroup) -> None:
    which.add_argument(
        "--split", default="train", metavar="NAME", help="the source's own split (default: train)"
    )
    which.add_argument(
        "--root", type=Path, metavar="DIR", help="where the source's files are; never downloads"
    )
    which.add_argument(
        "--classes", type=_names, metavar="A,B", help="only these classes, labelled in this order"
    )
    which.add_argument(
        "--validation",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="leave out this share, chosen by a hash of each image's name: always the same ones",
    )
    which.add_argument("--only-validation", action="store_true", help="take just the share that is left out")
    which.add_argument("--limit", type=int, metavar="N", help="at most N images, spread over the set")
    which.add_argument(
        "--skip-bad",
        type=int,
        default=0,
        metavar="N",
        help="leave out up to N images that cannot be used, and list them in bad-images.txt (default: 0)",
    )


def _add_work(work: argparse._ArgumentGroup) -> None:
    work.add_argument("--samples-per-shard", type=int, default=4096, metavar="N", help="default: 4096")
    work.add_argument("--workers", type=int, metavar="N", help="processes (default: one for each core)")
    work.add_argument(
        "--part",
        type=_part,
        default="1/1",
        metavar="I/N",
        help="make the I-th of N parts; merge them in the end",
    )
    work.add_argument("--overwrite", action="store_true", help="replace the shards in OUT")


def _resolution(text: str) -> tuple[int, int]:
    """64 or 90x160 to (height, width)."""
    sides = text.lower().split("x")
    if not 1 <= len(sides) <= 2 or not all(side.isdigit() for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: give a side, 64, or height and width, 90x160")
    return int(sides[0]), int(sides[-1])


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _part(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not (slash and number.isdigit() and count.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no part: give 3/8 for the third of eight")
    return int(number), int(count)


def _add_merge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", metavar="OUT", type=Path, help="the directory for the whole set")
    parser.add_argument(
        "parts", metavar="DIR", type=Path, nargs="*", help="other directories with parts of it"
    )
    parser.set_defaults(func=merge)


def _add_directory(parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], int]) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="a directory of shards")
    parser.set_defaults(func=command)


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="a directory of shards")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a PNG file (default: DIR's name, here)")
    parser.add_argument("--rows", type=int, default=8, metavar="N", help="default: 8")
    parser.add_argument("--columns", type=int, default=8, metavar="N", help="default: 8")
    parser.set_defaults(func=show)


def make(arguments: argparse.Namespace) -> int:
    """Make shards of `arguments.source` in `arguments.out`, unless they are there already."""
    from pipeline.data.making.convert import Conversion
    from pipeline.data.making.plan import Part, plan_shards
    from pipeline.data.making.selection import Selection
    from pipeline.data.making.shard_directory import BAD_NAME
    from pipeline.data.making.writer import find_finished, make_shards
    from pipeline.data.sources import Spec, open_source
    from pipeline.data.threads import available_cores

    part, out = Part(*arguments.part), arguments.out
    if arguments.workers is not None and arguments.workers < 1:
        raise ConfigError(f"--workers {arguments.workers}: at least 1 process does the work.")
    selection = Selection(arguments.classes, arguments.validation, arguments.only_validation, arguments.limit)
    place, target = Path(arguments.source).resolve(), out.resolve()
    if place.exists() and (place.is_relative_to(target) or target.is_relative_to(place)):
        raise ConfigError(
            f"{out} and the source {arguments.source} lie in one another. Give another directory."
        )
    source = open_source(Spec(arguments.source, arguments.root, arguments.split))
    resolution = arguments.resolution or source.native_resolution
    if resolution is None:
        raise ConfigError(f"{arguments.source} has no resolution of its own. Give one: --resolution 64.")
    conversion = Conversion(
        resolution,
        arguments.channels or source.native_channels,
        arguments.fit,
        arguments.encoding,
        arguments.quality,
    )
    plan = plan_shards(source, conversion, selection, arguments.samples_per_shard)
    if not arguments.overwrite and find_finished(out, plan):
        print(f"{out} is complete already: nothing to do (--overwrite makes it again)")
        return 0
    manifest = make_shards(
        plan,
        out,
        workers=arguments.workers or available_cores(),
        part=part,
        skip_bad=arguments.skip_bad,
        overwrite=arguments.overwrite,
    )
    if manifest is None:
        print(f"made part {part.number}/{part.count} in {out}; when all are made: wgan shards merge {out}")
        return 0
    print(f"made {out}: {describe(manifest)}")
    if manifest.count < plan.count:
        print(
            f"left out {plan.count - manifest.count} images that cannot be used: {out / BAD_NAME} lists them"
        )
    print(f"next: wgan shards show {out}")
    return 0


def merge(arguments: argparse.Namespace) -> int:
    """Make `arguments.out` a finished set of parts."""
    from pipeline.data.making.writer import merge_parts

    manifest = merge_parts(arguments.out, arguments.parts)
    print(f"merged {arguments.out}: {describe(manifest)}")
    return 0


def index(arguments: argparse.Namespace) -> int:
    """Take in the tar files of `arguments.directory`."""
    from pipeline.data.inspecting.index_in_place import index_in_place

    manifest = index_in_place(arguments.directory)
    print(f"indexed {arguments.directory}: {describe(manifest)}")
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Print every defect of `arguments.directory`; 3 if there is one, else 0."""
    from pipeline.data.inspecting.check import check_shards

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
    for remark in report.remarks:
        print(remark)
    print(f"{arguments.directory} is {report.verdict}: {describe(report.manifest)}")
    return 0


def stats(arguments: argparse.Namespace) -> int:
    """Print what the images of `arguments.directory` are like."""
    from pipeline.data.inspecting.statistics import measure

    print(measure(arguments.directory))
    return 0


def show(arguments: argparse.Namespace) -> int:
    """Draw samples of `arguments.directory` into a PNG file."""
    from pipeline.data.inspecting.sheet import contact_sheet

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
        f"{manifest.count:,} images of {height} x {width} {kind}, {classes}, "
        f"{shards}, {manifest.bytes / 1e6:.1f} MB"
    )
