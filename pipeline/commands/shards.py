"""`wgan shards`: makes, checks and shows shards. Errors are raised and printed by `wgan`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, DataError, StorageError
from pipeline.wording import counted

if TYPE_CHECKING:
    from pipeline.data.format.manifest import Manifest

MAKE_EXAMPLES = """\
sources:
{sources}

examples:
  wgan shards make photos data/photos --resolution 64       a folder of images, cropped to squares
  wgan shards make digits data/digits                       1,797 digits of 16 x 16, no download
  wgan shards make mnist data/mnist --root ~/datasets       MNIST from ~/datasets/MNIST/raw
  wgan shards make photos.zip data/wide --resolution 90x160 --fit pad --encoding jpeg
  wgan shards make photos data/train --resolution 64 --validation 0.1
  wgan shards make photos data/validation --resolution 64 --validation 0.1 --only-validation
  wgan shards make photos data/big --resolution 256 --part 3/8     on the third of eight machines

The same command always gives the same bytes, with any number of workers. After an interruption, run it again:
finished shards are kept. If the set is complete, it changes nothing. If images were added, use --overwrite.
"""

MERGE_EXAMPLES = """\
examples:
  wgan shards merge data/big                          if all parts were made in data/big
  wgan shards merge data/big /disk2/big /disk3/big    if they were made in several directories
"""

INDEX_EXAMPLES = """\
examples:
  wgan shards index data/webdataset

Makes existing webdataset tar files usable without a copy: writes an index next to each, and a manifest. The images
must be all PNG or all JPEG, and of one size. For all other tar files, use `wgan shards make`.
"""

STATS_EXAMPLES = """\
examples:
  wgan shards stats data/mnist
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
    _add_make(_command(commands, "make", "make shards from images", MAKE_EXAMPLES))
    _add_merge(_command(commands, "merge", "combine the parts that several machines made", MERGE_EXAMPLES))
    _add_directory(
        _command(commands, "index", "use existing webdataset shards without a copy", INDEX_EXAMPLES), index
    )
    _add_directory(_command(commands, "check", "find all defects of a set of shards", CHECK_EXAMPLES), check)
    _add_show(_command(commands, "show", "draw some of the images into a PNG file", SHOW_EXAMPLES))
    _add_directory(
        _command(commands, "stats", "print pixel statistics and class sizes", STATS_EXAMPLES), stats
    )


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def add_text(self, text: str | None) -> None:
        if text and "{sources}" in text:
            # Only when the help is shown, because listing the sources imports NumPy.
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
    _add_conversion(parser.add_argument_group("form of the images"))
    _add_selection(parser.add_argument_group("choice of images"))
    _add_work(parser.add_argument_group("output and processes"))
    parser.set_defaults(func=make)


def _add_conversion(images: argparse._ArgumentGroup) -> None:
    images.add_argument(
        "--resolution",
        type=_resolution,
        metavar="N|HxW",
        help="side, or height x width, in pixels (default: the source's, if it has one)",
    )
    images.add_argument(
        "--channels", type=int, choices=(1, 3), help="1 for grey, 3 for colour (default: the source's)"
    )
    images.add_argument(
        "--fit",
        choices=("crop", "fit", "pad"),
        default="crop",
        help="images of another aspect ratio: crop at the centre, stretch to fit, or pad with black (default: crop)",
    )
    images.add_argument(
        "--encoding",
        choices=("png", "jpeg", "raw"),
        default="png",
        help="png keeps every pixel; jpeg is smaller; raw is read fastest. Files that already have the wanted form "
        "are kept byte for byte (default: png)",
    )
    images.add_argument(
        "--quality", type=int, default=95, metavar="Q", help="JPEG quality, 1 to 100 (default: 95)"
    )


def _add_selection(which: argparse._ArgumentGroup) -> None:
    which.add_argument(
        "--split",
        default="train",
        metavar="NAME",
        help="split of a named set, for example test (default: train)",
    )
    which.add_argument(
        "--root", type=Path, metavar="DIR", help="directory of a named set's files; nothing is downloaded"
    )
    which.add_argument(
        "--classes",
        type=_names,
        metavar="A,B",
        help="only these classes, with the labels 0, 1, ... in this order",
    )
    which.add_argument(
        "--validation",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="leave out this share of the images, chosen by a hash of their names: always the same ones",
    )
    which.add_argument(
        "--only-validation", action="store_true", help="take only the images that --validation leaves out"
    )
    which.add_argument("--limit", type=int, metavar="N", help="at most N images, spread over the whole set")
    which.add_argument(
        "--skip-bad",
        type=int,
        default=0,
        metavar="N",
        help="leave out up to N images that cannot be used, and list them in bad-images.txt (default: 0)",
    )


def _add_work(work: argparse._ArgumentGroup) -> None:
    work.add_argument(
        "--samples-per-shard", type=int, default=4096, metavar="N", help="images per shard (default: 4096)"
    )
    work.add_argument("--workers", type=int, metavar="N", help="processes (default: one per core)")
    work.add_argument(
        "--part",
        type=_part,
        default="1/1",
        metavar="I/N",
        help="make only part I of N; then combine the parts with `wgan shards merge`",
    )
    work.add_argument("--overwrite", action="store_true", help="replace the shards in OUT")


def _resolution(text: str) -> tuple[int, int]:
    """64 or 90x160 to (height, width)."""
    sides = text.lower().split("x")
    if not 1 <= len(sides) <= 2 or not all(side.isdigit() for side in sides):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size: give a side, for example 64, or height and width, for example 90x160"
        )
    return int(sides[0]), int(sides[-1])


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _part(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not (slash and number.isdigit() and count.isdigit()):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a part: give for example 3/8 for the third of eight"
        )
    return int(number), int(count)


def _add_merge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", metavar="OUT", type=Path, help="the directory for the whole set")
    parser.add_argument(
        "parts", metavar="DIR", type=Path, nargs="*", help="other directories that hold parts of it"
    )
    parser.set_defaults(func=merge)


def _add_directory(parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], int]) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="a directory of shards")
    parser.set_defaults(func=command)


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", type=Path, help="a directory of shards")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="PNG file (default: the name of DIR with .png, in this directory)",
    )
    parser.add_argument("--rows", type=int, default=8, metavar="N", help="rows of images (default: 8)")
    parser.add_argument("--columns", type=int, default=8, metavar="N", help="columns of images (default: 8)")
    parser.set_defaults(func=show)


def make(arguments: argparse.Namespace) -> int:
    """Make shards of `arguments.source` in `arguments.out`, unless they already exist."""
    from pipeline.data.making.convert import Conversion
    from pipeline.data.making.plan import Part, plan_shards
    from pipeline.data.making.resolution import choose_resolution
    from pipeline.data.making.selection import Selection
    from pipeline.data.making.shard_directory import BAD_NAME
    from pipeline.data.making.writer import find_finished, make_shards
    from pipeline.data.sources import Spec, open_source
    from pipeline.data.threads import available_cores

    part, out = Part(*arguments.part), arguments.out
    if arguments.workers is not None and arguments.workers < 1:
        raise ConfigError(f"--workers {arguments.workers} leaves no process to do the work. Give 1 or more.")
    selection = Selection(arguments.classes, arguments.validation, arguments.only_validation, arguments.limit)
    place, target = Path(arguments.source).resolve(), out.resolve()
    if place.exists() and (place.is_relative_to(target) or target.is_relative_to(place)):
        raise ConfigError(
            f"One of {out} and the source {arguments.source} is inside the other, so shards could overwrite the "
            "source. "
            "Give another directory."
        )
    source = open_source(Spec(arguments.source, arguments.root, arguments.split))
    conversion = Conversion(
        choose_resolution(source, arguments.resolution),
        arguments.channels or source.native_channels,
        arguments.fit,
        arguments.encoding,
        arguments.quality,
    )
    plan = plan_shards(source, conversion, selection, arguments.samples_per_shard)
    if not arguments.overwrite and find_finished(out, plan):
        print(f"{out} is already complete: nothing to do (--overwrite makes it again)")
        return 0
    if remark := remark_on_rectangles(conversion.resolution, arguments.words):
        print(remark, flush=True)
    manifest = make_shards(
        plan,
        out,
        workers=arguments.workers or available_cores(),
        part=part,
        skip_bad=arguments.skip_bad,
        overwrite=arguments.overwrite,
    )
    if manifest is None:
        print(
            f"made part {part.number}/{part.count} in {out}; when all parts are made, run: wgan shards merge {out}"
        )
        return 0
    print(f"made {out}: {describe(manifest)}")
    if manifest.count < plan.count:
        print(
            f"left out {counted(plan.count - manifest.count, 'image')} that cannot be used, see {out / BAD_NAME}"
        )
    print(f"next: wgan shards show {out}")
    return 0


def remark_on_rectangles(resolution: tuple[int, int], words: Sequence[str]) -> str | None:
    """That no network can be trained on images of this (height, width), and the command that makes squares instead.

    None if they are squares. `words` are those of this command.
    """
    height, width = resolution
    if height == width:
        return None
    kept = [
        word for at, word in enumerate(words) if "--resolution" not in (word.partition("=")[0], words[at - 1])
    ]
    squares = shlex.join(["wgan", *kept, "--resolution", str(min(height, width))])
    return (
        f"no network takes rectangles yet: shards of {height} x {width} (height x width) can be looked at and read, "
        f"but not trained on. For squares: {squares}"
    )


def merge(arguments: argparse.Namespace) -> int:
    """Combine parts to a finished set in `arguments.out`."""
    from pipeline.data.making.writer import merge_parts

    manifest = merge_parts(arguments.out, arguments.parts)
    print(f"merged {arguments.out}: {describe(manifest)}")
    return 0


def index(arguments: argparse.Namespace) -> int:
    """Index the tar files of `arguments.directory` in place."""
    from pipeline.data.inspecting.index_in_place import index_in_place

    manifest = index_in_place(arguments.directory)
    print(f"indexed {arguments.directory}: {describe(manifest)}")
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Print every defect of `arguments.directory`; return 3 if there is any, else 0."""
    from pipeline.data.inspecting.check import check_shards

    report = check_shards(arguments.directory)
    for finding in report.findings:
        print(finding)
    if report.findings:
        print(
            f"{arguments.directory}: {counted(len(report.findings), 'defect')} found. Copy the files again, or make "
            "them again with `wgan shards make ... --overwrite`.",
            file=sys.stderr,
        )
        return DataError.exit_code
    for remark in report.remarks:
        print(remark)
    print(f"{arguments.directory} is {report.verdict}: {describe(report.manifest)}")
    return 0


def stats(arguments: argparse.Namespace) -> int:
    """Print the statistics of the images of `arguments.directory`."""
    from pipeline.data.inspecting.statistics import measure

    print(measure(arguments.directory))
    return 0


def show(arguments: argparse.Namespace) -> int:
    """Draw images of `arguments.directory` into a PNG file."""
    from pipeline.data.inspecting.sheet import contact_sheet

    out = arguments.out or Path(f"{arguments.directory.resolve().name}.png")
    sheet = contact_sheet(arguments.directory, arguments.rows, arguments.columns)
    try:
        sheet.save(out, format="PNG")
    except OSError as error:
        raise StorageError(f"{out} cannot be written: {error.strerror}. Give another --out.") from None
    print(f"drew {out}: {sheet.width} x {sheet.height} pixels")
    return 0


def describe(manifest: Manifest) -> str:
    """The counts and sizes of a set in one line."""
    height, width = manifest.resolution
    kind = "grey" if manifest.channels == 1 else "colour"
    classes = counted(len(manifest.classes), "class") if manifest.classes else "no labels"
    return (
        f"{counted(manifest.count, 'image')} of {height} x {width} in {kind}, {classes}, "
        f"{counted(len(manifest.shards), 'shard')}, {manifest.bytes / 1e6:.1f} MB"
    )
