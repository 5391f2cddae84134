"""`wgan shards index`: makes tar files that somebody else wrote usable where they lie."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.shards_make import describe
from pipeline.errors import ConfigError
from pipeline.foreign_text import printable
from pipeline.stdout import say

if TYPE_CHECKING:
    from pipeline.data.sources import Remarks
    from pipeline.option_data import RemoteOptions

EXAMPLES = """\
examples:
  wgan shards index '/data/train/*.tar' data/train
  wgan shards index 's3://bucket/train-{0000..1281}.tar' data/train --labels json:label
  wgan shards index 'hf://datasets/OWNER/NAME/*.tar' data/set --labels txt --skip-bad 1%
  wgan shards index 'https://host/a-{00..15}.tar' b.tar data/both --remote directory=/scratch/shards

Reads each tar file once, and writes to OUT where its images lie, with their labels and checksums: 16 bytes an image.
The tar files stay where they are, and images may have any size, as JPEG, PNG or WebP. If the command is stopped, the
same one goes on; if there are more tar files by then, only these are read. `data.shards=OUT` trains on them.

  wgan shards index data/webdataset

With a directory alone, its tar files become shards in place: their images must be all PNG or all JPEG, and of one size.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments, and `func`, which takes them and returns the exit code."""
    parser.add_argument(
        "places",
        metavar="PATTERN",
        nargs="+",
        help="tar files: paths or URLs with {0000..1281} or *, and last the directory OUT for their index; or one "
        "directory of tar files",
    )
    parser.add_argument(
        "--labels",
        metavar="FROM",
        help="cls or txt (KEY.cls, KEY.txt), json:KEY (a key of KEY.json), or none (default: the numbers in KEY.cls)",
    )
    parser.add_argument(
        "--class-names", type=Path, metavar="FILE", help="the names of numbered classes, one per line"
    )
    parser.add_argument(
        "--images",
        metavar="ENDING",
        help="which image of a sample: jpg, if KEY.jpg has a KEY.mask.png next to it",
    )
    parser.add_argument(
        "--skip-bad",
        default="0",
        metavar="N|P%|all",
        help="leave out up to so many images that cannot be used (default: 0)",
    )
    parser.add_argument(
        "--remote",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="an option of data.remote, for tar files at URLs, such as parallel=8",
    )
    parser.set_defaults(func=index)


def index(arguments: argparse.Namespace) -> int:
    """Index the tar files."""
    if len(arguments.places) == 1:
        return _in_place(arguments)
    from pipeline.data.originals.index_set import Wanted, index_originals
    from pipeline.data.originals.tar_index import Asked
    from pipeline.data.sources.bad_images import parse_limit
    from pipeline.data.sources.labels import AUTO, parse_label_choice

    *patterns, out = arguments.places
    labels = AUTO if arguments.labels is None else parse_label_choice(arguments.labels)
    image = None if arguments.images is None else arguments.images.lower().removeprefix(".")
    wanted = Wanted(
        Asked(labels, image),
        arguments.class_names,
        parse_limit(arguments.skip_bad),
        _remote_options(arguments.remote),
    )
    manifest, changes, remarks = index_originals(patterns, Path(out), wanted)
    if changes:
        say(f"changed: {changes}. Runs on the set as it was cannot be resumed on this one")
    say(f"indexed {out}: {describe(manifest)}")
    if remarks.labels_from:
        say(f"labels: from {remarks.labels_from}")
    _say_remarks(remarks)
    return 0


def _in_place(arguments: argparse.Namespace) -> int:
    """Index the tar files of a directory in place."""
    from pipeline.data.inspecting.index_in_place import index_in_place
    from pipeline.data.sources.labels import AUTO, LabelChoice
    from pipeline.option_data import is_pattern

    place = arguments.places[0]
    if is_pattern(place):
        raise ConfigError(
            f"{printable(place)} names tar files, so a directory for their index is needed, too: wgan shards index "
            f"'{printable(place)}' OUT"
        )
    others = (arguments.class_names, arguments.images, *arguments.remote)
    if arguments.labels not in (None, "none") or any(others) or arguments.skip_bad != "0":
        raise ConfigError(
            f"Without OUT, {printable(place)} is indexed in place, where only --labels none is possible. For the other "
            f"options, name a directory for the index: wgan shards index '{printable(place)}/*.tar' OUT"
        )
    labels = AUTO if arguments.labels is None else LabelChoice("none")
    manifest, remarks = index_in_place(Path(place), labels)
    say(f"indexed {place}: {describe(manifest)}")
    if remarks.unused_labels and labels is AUTO:
        say(
            "An index takes labels only from KEY.cls; `wgan shards make` uses others with the options named below."
        )
    _say_remarks(remarks)
    return 0


def _say_remarks(remarks: Remarks) -> None:
    if last := str(remarks):
        say(last)


def _remote_options(words: list[str]) -> RemoteOptions:
    """The options of data.remote. Raises ConfigError that names the argument."""
    from pipeline.option_data import RemoteOptions
    from pipeline.option_mistakes import validated
    from pipeline.yaml_text import parse_yaml

    given = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in RemoteOptions.model_fields:
            raise ConfigError(
                f"--remote {printable(word)}: expected OPTION=VALUE, with one of the options "
                f"{', '.join(RemoteOptions.model_fields)}."
            )
        try:
            given[name] = parse_yaml(value).content
        except ValueError as error:
            raise ConfigError(f"--remote {printable(word)}: {error}.") from None
    return validated(RemoteOptions, given, "--remote ")
