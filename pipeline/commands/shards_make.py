"""`wgan shards make`: shards from images of any source. Errors are raised and printed by `wgan`."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.arguments import add_whole, parse_size, parse_step
from pipeline.errors import ConfigError
from pipeline.stdout import say
from pipeline.wording import counted

if TYPE_CHECKING:
    from pipeline.data.format.manifest import Manifest
    from pipeline.data.making.convert import Conversion
    from pipeline.data.sources import Remarks, Source, Spec

EXAMPLES = """\
sources:
{sources}

labels:
  They come from KEY.cls next to KEY.jpg, from dataset.json (as StyleGAN's tools write it), or from the folders.
  --labels none               all images, without classes
  --labels folders            from the folders, whatever else there is
  --labels cls, txt           from KEY.cls or KEY.txt, which may hold words
  --labels json:KEY           from a key of KEY.json, for example json:label
  --labels column:NAME        a column of a Hugging Face set, an array of an .npz file
  --labels FILE.csv[:COLUMN]  a table with the names of the images and their labels; also .tsv, dataset.json

examples:
  wgan shards make photos data/photos --resolution 64       a folder of images, cropped to squares
  wgan shards make digits data/digits                       1,797 digits of 16 x 16, no download
  wgan shards make mnist data/mnist --root ~/datasets       MNIST from ~/datasets/MNIST/raw
  wgan shards make photos.zip data/wide --resolution 90x160 --fit pad --encoding jpeg
  wgan shards make sprites data/sprites --resolution 64 --channels 4    transparent sprites, with their alpha
  wgan shards make photos data/train --resolution 64 --validation 0.1
  wgan shards make photos data/validation --resolution 64 --validation 0.1 --only-validation
  wgan shards make photos data/big --resolution 256 --part 3/8     on the third of eight machines

The same command always gives the same bytes, with any number of workers. After an interruption, run it again:
finished shards are kept. If the set is complete, it changes nothing. If images were added, use --overwrite.
"""


MOST_IMAGES, MOST_WORKERS = 10**9, 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `wgan shards make`."""
    # Several sources are refused with an answer that fits, for example if a shell expanded *.tar.
    parser.add_argument("source", metavar="SOURCE", nargs="+", help="a name or a path, as listed below")
    parser.add_argument("out", metavar="OUT", type=Path, help="the directory for the shards")
    _add_conversion(parser.add_argument_group("form of the images"))
    _add_labels(parser.add_argument_group("labels"))
    _add_selection(parser.add_argument_group("choice of images"))
    _add_work(parser.add_argument_group("output and processes"))
    parser.set_defaults(func=make)


def _add_conversion(images: argparse._ArgumentGroup) -> None:
    images.add_argument(
        "--resolution",
        type=parse_size,
        metavar="N|HxW",
        help="side, or height x width, in pixels (default: the source's, or that of all images if they have one size)",
    )
    images.add_argument(
        "--channels",
        type=int,
        choices=(1, 3, 4),
        help="1 for grey, 3 for colour, 4 for colour with alpha (default: the source's)",
    )
    images.add_argument(
        "--fit",
        choices=("crop", "fit", "pad"),
        default="crop",
        help="images of another aspect ratio: crop at the centre, stretch to fit, or pad (default: crop)",
    )
    images.add_argument(
        "--background",
        metavar="COLOUR",
        help="behind transparent images and around padded ones: a name or #rrggbb "
        "(default: white behind transparent ones, black around padded ones; with --channels 4 none)",
    )
    images.add_argument(
        "--encoding",
        choices=("png", "jpeg", "raw"),
        default="png",
        help="png keeps every pixel; jpeg is smaller; raw is read fastest. Files that already have the wanted form "
        "are kept byte for byte (default: png)",
    )
    add_whole(images, "--quality", 1, 100, 95, metavar="Q", help="JPEG quality, 1 to 100 (default: 95)")


def _add_labels(labels: argparse._ArgumentGroup) -> None:
    labels.add_argument("--labels", metavar="FROM", help="where the labels come from, as listed below")
    labels.add_argument(
        "--class-names",
        type=Path,
        metavar="FILE",
        help="the names of numbered classes, one per line, from class 0 on",
    )
    labels.add_argument(
        "--images",
        metavar="ENDING",
        help="only images that end like this: jpg, if each KEY.jpg has a KEY.mask.png next to it; all: both of them",
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
    add_whole(
        which, "--limit", 1, MOST_IMAGES, metavar="N", help="at most N images, spread over the whole set"
    )
    which.add_argument(
        "--skip-bad",
        default="0",
        metavar="N|P%|all",
        help="leave out up to N images, P percent, or all that cannot be used, and list them in bad-images.txt "
        "(default: 0)",
    )
    which.add_argument(
        "--drop-duplicates",
        action="store_true",
        help="of images with equal pixels, keep the first; without it, duplicates.txt only lists them",
    )


def _add_work(work: argparse._ArgumentGroup) -> None:
    per_shard = "images per shard (default: 4096)"
    add_whole(work, "--samples-per-shard", 1, MOST_IMAGES, 4096, metavar="N", help=per_shard)
    add_whole(work, "--workers", 1, MOST_WORKERS, metavar="N", help="processes (default: one per core)")
    work.add_argument(
        "--part",
        type=_part,
        default="1/1",
        metavar="I/N",
        help="make only part I of N; then combine the parts with `wgan shards merge`",
    )
    work.add_argument("--overwrite", action="store_true", help="replace the shards in OUT")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _part(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not slash or None in (parse_step(number), parse_step(count)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a part: give for example 3/8 for the third of eight"
        )
    return int(number), int(count)


def make(arguments: argparse.Namespace) -> int:
    """Make shards of `arguments.source` in `arguments.out`, unless they already exist."""
    from pipeline.cores import available_cores
    from pipeline.data.making.plan import Part, plan_shards
    from pipeline.data.making.selection import Selection
    from pipeline.data.making.writer import find_finished, make_shards
    from pipeline.data.sources import open_source, remarks_of
    from pipeline.data.sources.bad_images import parse_limit

    part, out = Part(*arguments.part), arguments.out
    selection = Selection(arguments.classes, arguments.validation, arguments.only_validation, arguments.limit)
    limit = parse_limit(arguments.skip_bad)
    with tempfile.TemporaryDirectory(prefix="wgan-unpacked-") as scratch:
        source = open_source(_spec(arguments, Path(scratch)))
        plan = plan_shards(
            source,
            _conversion(arguments, source),
            selection,
            arguments.samples_per_shard,
            drops_duplicates=arguments.drop_duplicates,
        )
        remarks = remarks_of(source)
        if not arguments.overwrite and (finished := find_finished(out, plan)):
            say(f"{out} is already complete: nothing to do (--overwrite makes it again)")
            print_remarks(out, finished, remarks)
            return 0
        manifest = make_shards(
            plan,
            out,
            workers=arguments.workers or available_cores(),
            part=part,
            skip_bad=limit.of(plan.count),
            overwrite=arguments.overwrite,
        )
    if manifest is None:
        say(
            f"made part {part.number}/{part.count} in {out}; when all parts are made, run: wgan shards merge {out}"
        )
    else:
        say(f"made {out}: {describe(manifest)}")
        say(f"next: wgan shards show {out}")
    print_remarks(out, manifest, remarks)
    return 0


def _spec(arguments: argparse.Namespace, scratch: Path) -> Spec:
    """What is asked of the source. Raises ConfigError for several sources, and for one that could be overwritten."""
    from pipeline.data.sources import Spec
    from pipeline.data.sources.labels import AUTO, parse_label_choice
    from pipeline.data.sources.source_mistakes import explain_several

    if len(arguments.source) > 1:
        raise explain_several(arguments.source)
    name = arguments.source[0]
    place, target = Path(name).resolve(), arguments.out.resolve()
    if place.exists() and (place.is_relative_to(target) or target.is_relative_to(place)):
        raise ConfigError(
            f"One of {arguments.out} and the source {name} is inside the other, so shards could overwrite the source. "
            "Give another directory."
        )
    labels = AUTO if arguments.labels is None else parse_label_choice(arguments.labels)
    return Spec(
        name, arguments.root, arguments.split, labels, arguments.class_names, arguments.images, scratch
    )


def _conversion(arguments: argparse.Namespace, source: Source) -> Conversion:
    from pipeline.data.making.convert import Conversion, parse_colour
    from pipeline.data.making.resolution import choose_resolution

    size = choose_resolution(source, arguments.resolution)
    return Conversion(
        size.resolution,
        arguments.channels or source.native_channels,
        arguments.fit,
        None if arguments.background is None else parse_colour(arguments.background),
        arguments.encoding,
        arguments.quality,
        resizes=size.resizes,
    )


def print_remarks(out: Path, manifest: Manifest | None, remarks: Remarks) -> None:
    """Where the labels come from and, as the last line, all that was left out."""
    from pipeline.data.making.shard_directory import DUPLICATES_NAME, FRAMES_NAME, count_lines
    from pipeline.data.sources.bad_images import BAD_NAME
    from pipeline.data.sources.leftovers import describe_frames

    left_out = list(remarks.left_out)
    if manifest is not None:
        if bad := count_lines(out / BAD_NAME):
            left_out.insert(0, f"{counted(bad, 'image')} that cannot be used (see {out / BAD_NAME})")
        if several := count_lines(out / FRAMES_NAME):
            left_out.append(describe_frames(several, f"see {out / FRAMES_NAME}"))
        if copies := count_lines(out / DUPLICATES_NAME):
            if manifest.plan.get("drop_duplicates"):
                left_out.append(f"{counted(copies, 'copy')} of other images (see {out / DUPLICATES_NAME})")
            else:
                say(
                    f"duplicates: {counted(copies, 'image')} equal to others, see {out / DUPLICATES_NAME} "
                    "(--drop-duplicates leaves them out)"
                )
        if remarks.labels_from and manifest.classes:
            say(f"labels: from {remarks.labels_from}")
    if last := str(replace(remarks, left_out=tuple(left_out))):
        say(last)


def describe(manifest: Manifest) -> str:
    """The counts and sizes of a set in one line."""
    from pipeline.data.format.codecs import COLOURS

    images = f"{counted(manifest.count, 'image')} of any size"
    if not manifest.is_of_originals:
        (height, width), channels, _ = manifest.stored
        images = f"{counted(manifest.count, 'image')} of {height} x {width} in {COLOURS[channels]}"
    classes = counted(len(manifest.classes), "class") if manifest.classes else "no labels"
    missing = f" ({manifest.unlabelled:,} without a label)" if manifest.unlabelled else ""
    return f"{images}, {classes}{missing}, {counted(len(manifest.shards), 'shard')}, {manifest.bytes / 1e6:.1f} MB"
