"""What a source leaves out, in words, for the last line of a command's output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from pipeline.data.sources.labels import LabelChoice
from pipeline.data.sources.members import Members
from pipeline.data.sources.samples import Samples, is_image, keys_of_json, stem
from pipeline.foreign_text import printable
from pipeline.wording import counted

MOST_KINDS = 6
TABLES = (".csv", ".tsv")
PICKLES = (".pyd", ".pickle", ".pkl", ".pth", ".pt")
"""Members that common webdataset readers unpickle, which runs any code that they contain."""


def describe_left_out(members: Sequence[Members], others: Sequence[str], where: str = "") -> list[str]:
    """What these containers hold besides images and labels; `others` are their files that are not used.

    `where` says where images that are not used lie or how they are named.
    """
    found = []
    if images := [name for name in others if is_image(name)]:
        found.append(f"{counted(len(images), 'image')} {where} ({some(images)})")
    if rest := [name for name in others if not is_image(name)]:
        found.append(count_kinds(rest))
        if pickles := sorted(set(PICKLES) & count_endings(rest).keys()):
            found.append(
                f"{', '.join(pickles)} files are pickles, never opened here; other readers would run any code "
                "in them"
            )
    if special := [entry for part in members for entry in part.special]:
        entries = (
            "1 entry that is not a file"
            if len(special) == 1
            else f"{len(special):,} entries that are not files"
        )
        found.append(f"{entries} ({some(special)})")
    if hidden := [name for part in members for name in part.hidden]:
        found.append(f"{counted(len(hidden), 'hidden file')} ({some(sorted(hidden))})")
    return found


def describe_frames(count: int, which: str) -> str:
    """That of this many images, `which`, only the first frame or page is used."""
    return f"all but the first frame or page of {counted(count, 'image')} ({which})"


def some(names: Sequence[str]) -> str:
    """The first of several names, and whether there are more."""
    return printable(names[0]) + (", ..." if len(names) > 1 else "")


def count_kinds(names: Sequence[str]) -> str:
    """The number of files of other kinds, by their endings: "3 files of other kinds (2 .txt, 1 .csv)"."""
    if len(names) == 1:
        return f"1 file of another kind ({printable(names[0])})"
    kinds = count_endings(names).most_common()
    shown = ", ".join(
        f"{count:,} {printable(ending, 20) or 'without an ending'}" for ending, count in kinds[:MOST_KINDS]
    )
    more = ", ..." if len(kinds) > MOST_KINDS else ""
    return f"{counted(len(names), 'file')} of other kinds ({shown}{more}), for example {printable(names[0])}"


def count_endings(names: Iterable[str]) -> Counter[str]:
    """How many files have each ending, such as ".json"."""
    return Counter(PurePosixPath(name).suffix.lower() for name in names)


def describe_unused_labels(samples: Sequence[Samples], choice: LabelChoice, has_labels: bool) -> list[str]:
    """Files that may hold labels and are not used, each with the option that would use them.

    If there are labels, only KEY.cls is named: .json and .txt files usually hold something else.
    """
    found = []
    for extension in ("cls",) if has_labels or choice.kind == "none" else ("cls", "json", "txt"):
        names = [(part, name) for part in samples for name in _next_to_images(part, extension)]
        if names:
            part, name = names[0]
            keys = keys_of_json(part.members, name) if extension == "json" else ""
            option = (
                f"json:KEY, where KEY is one of {keys}"
                if keys
                else {"json": "json:KEY"}.get(extension, extension)
            )
            found.append(f"{len(names):,} KEY.{extension} (--labels {option})")
    if not has_labels and choice.kind == "auto":
        tables = [(part, name) for part in samples for name in part.others if name.lower().endswith(TABLES)]
        found += [f"{printable(name)} ({_how_to_use(part.members, name)})" for part, name in tables[:1]]
    return found


def _how_to_use(members: Members, name: str) -> str:
    """The option that uses a table; a file that is named in an option must lie outside of archives."""
    if members.container.kind == "folder":
        return f"--labels {printable(str(members.path / name))}"
    return (
        f"take it out of {printable(members.path.name)}, then --labels {printable(PurePosixPath(name).name)}"
    )


def _next_to_images(samples: Samples, extension: str) -> list[str]:
    """The unused files with this ending that are named like an image."""
    names = [name for name in samples.others if name.lower().endswith(f".{extension}")]
    stems = set(map(stem, samples.names)) if names else set()
    return [name for name in names if stem(name) in stems or stem(name) in samples.keys]
