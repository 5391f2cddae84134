"""The samples of one container: its images, their labels, and the files that are neither.

An image and its label file share a key. It follows webdataset's rule and ends at the first dot: img1.v2.png has the key
img1. Where that gives two images one key, the key is the whole name without its last ending, img1.v2. So no image is
lost, and where it stays unclear which image is meant or which label belongs to which image, the container is refused.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict

from pipeline import stopping
from pipeline.data.format.codecs import MAX_FILE_BYTES
from pipeline.data.format.pictures import EXTENSIONS
from pipeline.data.sources import Spec
from pipeline.data.sources.labels import (
    AUTO,
    BYTE_ORDER_MARK,
    MOST_DIGITS,
    Label,
    LabelChoice,
    as_label,
    parse_label,
    parse_number,
)
from pipeline.data.sources.members import Members, too_large
from pipeline.documents import Document, parse_json, refuse_repeated_keys
from pipeline.errors import DataError
from pipeline.foreign_text import printable
from pipeline.wording import counted

FILE_LABELS = frozenset(("folders", "cls", "txt", "json"))
"""The kinds of --labels that sources of files have"""
LARGEST_TEXT, LARGEST_JSON = 1 << 16, 1 << 22
MOST_FIELDS = 10
EVERY_IMAGE = "all"
"""In the place of an ending: also images that seem to be fields of one sample"""

DIGITS = re.compile(r"[0-9]+")

Rule = Callable[[str], str]
"""From the name of a file to the key of its sample."""


@dataclass(frozen=True)
class Asked:
    """What the user said of a source's content."""

    labels: LabelChoice = AUTO
    ending: str | None = None
    """How the names of images end, or EVERY_IMAGE; None for all images, if it is clear that all are meant"""
    class_names: tuple[str, ...] = ()
    """The names of numbered classes, if the source has them"""
    given: tuple[Path, ...] = ()
    """Files that the user named in other options, which may lie in the source"""
    is_named_later: bool = False
    """Whether --class-names will name numbered classes, so that no classes.txt is looked for"""


def asked_of(spec: Spec) -> Asked:
    """What the user said of a source that consists of files."""
    given = tuple(path for path in (spec.labels.path, spec.class_names) if path is not None)
    return Asked(spec.labels, spec.ending, given=given, is_named_later=spec.class_names is not None)


class AnyKeys(Document):
    """A JSON object with any keys."""

    model_config = ConfigDict(extra="allow")


@dataclass(frozen=True)
class Samples:
    """The images `names` of a container, with unique keys, and their labels; None for an image without label file."""

    members: Members
    names: list[str]
    keys: list[str]
    labels: list[Label | None]
    others: list[str]
    """The files that are neither an image nor a label that is used."""

    @property
    def has_labels(self) -> bool:
        """Whether any image has a label file."""
        return any(label is not None for label in self.labels)


def sort_samples(members: Members, asked: Asked) -> Samples:
    """Sort the files of a container into images, the label files that were asked for, and others.

    Raises DataError for labels that cannot be read or have no image, for images that are too large, and if it is
    unclear which image or label belongs to a key.
    """
    images = _images(members, asked.ending)
    extension = asked.labels.extension
    label_names = _ending_in(members, extension) if extension else []
    for name in images:
        if members.files[name] and members.files[name][0] > MAX_FILE_BYTES:
            raise too_large(members.path / name)
    rule = _rule_for(members, images, label_names, asked)
    keys = list(map(rule, images))
    labels: list[Label | None] = [None] * len(images)
    if label_names:
        found = {rule(name): name for name in label_names}
        if lost := found.keys() - set(keys):
            raise DataError(
                f"{members.path} holds a label but no image for the key {min(lost)!r}. Add the image, or remove the "
                "label."
            )
        labels = [read_label(members, found[key], asked.labels) if key in found else None for key in keys]
    used = {*images, *label_names, *_given_in(members, asked.given)}
    return Samples(members, images, keys, labels, [name for name in members.files if name not in used])


def _given_in(members: Members, given: Sequence[Path]) -> list[str]:
    """Those of the user's files that are files of this folder."""
    if members.container.kind != "folder":
        return []
    paths = [Path(os.path.relpath(path.resolve(), members.path.resolve())).as_posix() for path in given]
    return [name for name in paths if name in members.files]


def is_image(name: str) -> bool:
    """Whether the name of a file ends like that of an image."""
    return name.lower().endswith(EXTENSIONS)


def _ending_in(members: Members, extension: str) -> list[str]:
    return [name for name in members.files if name.lower().endswith(f".{extension}")]


def _images(members: Members, ending: str | None) -> list[str]:
    images = {name for name in members.files if is_image(name)}
    if members.container.kind == "tar":
        # Pixels; but next to an image of the same key they are something else, for example its features.
        keys = set(map(first_dot_key, images)) if ending in (None, EVERY_IMAGE) else set()
        arrays = (name for name in members.files if name.lower().endswith(".npy"))
        images.update(name for name in arrays if first_dot_key(name) not in keys)
    if ending not in (None, EVERY_IMAGE):
        images = _ending_like(images, ending.lower().removeprefix("."))
    return [name for name in members.files if name in images]


def _ending_like(images: set[str], ending: str) -> set[str]:
    """The images KEY.ENDING, and those whose longer names end in it, unless their key has an image of another kind.

    Of 1.png, 1.mask.png, 2.jpg, 2.mask.png and 3.v2.png, `png` means the first and the last.
    """
    fitting = {name for name in images if name.lower().endswith(f".{ending}")}
    exact = {name for name in fitting if _field(name) == ending}
    kinds: dict[str, set[str]] = defaultdict(set)
    for name in (images - fitting) | exact:
        kinds[first_dot_key(name)].add(_kind(name))
    return exact | {name for name in fitting if kinds[first_dot_key(name)] <= {_kind(name)}}


def _kind(name: str) -> str:
    """What stands between the key and the last ending in the name of an image, without the numbers in it."""
    return DIGITS.sub("", _field(name).rpartition(".")[0])


def _field(name: str) -> str:
    """What follows the key in the name of an image, such as mask.png."""
    return name[len(first_dot_key(name)) + 1 :].lower()


def first_dot_key(name: str) -> str:
    """The key by webdataset's rule: the name up to the first dot after the last slash."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def stem(name: str) -> str:
    """The name without its last ending."""
    return name[: name.rindex(".")]


def _whole(name: str) -> str:
    return name


def _rule_for(members: Members, images: Sequence[str], label_names: Sequence[str], asked: Asked) -> Rule:
    """The first of the rules that gives each image, and each label, its own key."""
    if _are_unique(first_dot_key, images) and _are_unique(first_dot_key, label_names):
        return first_dot_key
    if label_names:
        is_clear = _are_unique(stem, images) and len(label_names) >= len(images)
        if is_clear and _are_unique(stem, label_names):
            return stem
        raise _unclear_labels(members, images, label_names)
    if asked.ending != EVERY_IMAGE:
        _refuse_fields(members, images)
    return stem if _are_unique(stem, images) else _whole


def _are_unique(rule: Rule, names: Sequence[str]) -> bool:
    return len(set(map(rule, names))) == len(names)


def _refuse_fields(members: Members, images: Sequence[str]) -> None:
    """Raise DataError if most keys have the same several images, such as KEY.jpg and KEY.mask.png.

    They are the fields of one sample, of which only one is meant. Without such a pattern, and where they differ only in
    their numbers, such as KEY.v1.png and KEY.v2.png, they are images by themselves.
    """
    fields: dict[str, set[str]] = defaultdict(set)
    for name in images:
        fields[first_dot_key(name)].add(_field(name))
    ((kinds, count),) = Counter(map(frozenset, fields.values())).most_common(1)
    is_regular = 2 * count > len(fields) and 1 < len(kinds) <= min(MOST_FIELDS, len(fields) - 1)
    if is_regular and not _is_series(kinds):
        raise _unclear(
            members, images, f", or --images {EVERY_IMAGE} for each of them as an image of its own"
        )


def _is_series(fields: Iterable[str]) -> bool:
    return len({DIGITS.sub("", field) for field in fields}) == 1


def _shared(names: Sequence[str]) -> tuple[str, list[str]]:
    """The first key of several of these files, and their names."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[first_dot_key(name)].append(name)
    return next((key, names) for key, names in groups.items() if len(names) > 1)


def _unclear(members: Members, images: Sequence[str], alternative: str = "") -> DataError:
    """The error for several images of one key, with an alternative to the choice of one."""
    key, names = _shared(images)
    return DataError(
        f"{members.path} holds {counted(len(names), 'image')} with the key {key!r}: {', '.join(names[:4])} "
        "(a key ends at the first dot), so it is unclear which is meant. Give `wgan shards make` the ending of one, "
        f"for example --images {min(map(_field, names), key=len)}{alternative}; or pack one image per key."
    )


def _unclear_labels(members: Members, images: Sequence[str], label_names: Sequence[str]) -> DataError:
    """The error for labels of which it is unclear to which images they belong."""
    if _are_unique(first_dot_key, images):
        key, names = _shared(label_names)
        return DataError(
            f"{members.path} holds {counted(len(names), 'label')} with the key {key!r}: {', '.join(names[:4])} (a key "
            "ends at the first dot), so it is unclear which is meant. Keep one, or give --labels none or --labels "
            "FILE, a table of labels."
        )
    _, names = _shared(images)
    if not _is_series(map(_field, names)):
        return _unclear(members, images)
    label = f"{stem(names[0])}.{label_names[0].rpartition('.')[2]}"
    return _unclear(
        members,
        images,
        f"; or, to use all images, give each a label of its own name, such as {label}, or give --labels none or "
        "--labels FILE, a table of labels",
    )


def read_label(members: Members, name: str, choice: LabelChoice) -> Label:
    """The label in a file. Raises DataError, which names it, if there is none of the kind that was asked for."""
    stopping.check()
    return label_in(members.read(name, largest_label(choice)), f"{members.path}: {name}", choice)


def largest_label(choice: LabelChoice) -> int:
    """The most bytes that a file with a label may have."""
    return LARGEST_JSON if choice.kind == "json" else LARGEST_TEXT


def label_in(text: bytes, where: str, choice: LabelChoice) -> Label:
    """The label in the content of a file; `where` names it in messages. Raises DataError as `read_label` does."""
    if choice.kind == "json":
        return _read_json_label(where, text, choice.name)
    label = parse_number(text) if choice.kind == "auto" else parse_label(text)
    if label is not None:
        return label
    found = printable(repr(text), 80)
    if choice.kind == "auto":
        raise DataError(
            f"{where} holds {found}, but a label must be a whole number of at most {MOST_DIGITS} digits. Write the "
            "number of the class there, and its name in classes.txt; or, if these are the names of the classes, give "
            "`wgan shards make` or `index` --labels cls."
        )
    raise DataError(f"{where} holds {found}, but a label must be a whole number or one line of text.")


def keys_of_json(members: Members, name: str) -> str:
    """The keys of what may be a label in a JSON object of a file, as --labels takes them; empty without any."""
    try:
        return keys_in_json(members.read(name, LARGEST_JSON))
    except DataError:
        return ""


def keys_in_json(text: bytes) -> str:
    """The same for the content of a file."""
    try:
        content = parse_json(text, AnyKeys).model_extra or {}
    except ValueError:
        return ""
    return printable(", ".join(_keys_of_labels(content)))


def _keys_of_labels(content: Mapping[str, object]) -> Iterator[str]:
    """The keys of numbers and words, with a dot before those of objects within objects."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from (f"{key}.{inner}" for inner in _keys_of_labels(value))
        elif as_label(value) is not None:
            yield key


def _read_json_label(where: str, text: bytes, path: str) -> Label:
    try:
        text = text.removeprefix(BYTE_ORDER_MARK)
        content: object = parse_json(text, AnyKeys).model_extra or {}
        refuse_repeated_keys(text)
    except ValueError as error:
        raise DataError(f"{where} is not a JSON object of labels: {error}.") from None
    value: object = None
    for key in [path] if isinstance(content, dict) and path in content else path.split("."):
        if not isinstance(content, dict) or key not in content:
            keys = printable(", ".join(content) if isinstance(content, dict) else "", 200)
            raise DataError(f"{where} has no key {path}. Its keys: {keys or 'none'}.")
        content = value = content[key]
    label = as_label(value)
    if label is None:
        shown = printable(repr(value), 80)
        raise DataError(
            f"{where}: {path} is {shown}, but a label must be a whole number or one line of text."
        )
    return label
