"""The texts around shards: manifests, plans and records of unfinished sets, class names, and tables of labels."""

from __future__ import annotations

import functools
import shutil
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.data.format.manifest import load_manifest
from pipeline.data.format.native_output import hidden_native_output
from pipeline.data.format.shard_set import open_directory
from pipeline.data.inspecting.check import check_shards
from pipeline.data.making.plan import plan_shards
from pipeline.data.making.shard_directory import agree_on_plan, find_record, read_plan, refuse_other_files
from pipeline.data.making.shard_writer import Record
from pipeline.data.reading.reader import ShardReader
from pipeline.data.sources import Spec, open_source
from pipeline.data.sources.bad_images import BadImage
from pipeline.data.sources.class_names import read_class_names
from pipeline.data.sources.label_tables import read_labels
from pipeline.errors import ConfigError
from tests.fuzz.attempts import try_each
from tests.fuzz.engine import target
from tests.fuzz.targets.images import SMALL, png_seeds
from tests.fuzz.targets.shards import write_set

NAMES = ("a/0.png", "a/1.png", "b/2.png")


@functools.cache
def complete_set() -> Path:
    """A directory with a set of one shard."""
    directory = Path(tempfile.mkdtemp())
    write_set(directory, png_seeds()[:1] * 2, "png")
    return directory


def manifest_seeds() -> list[bytes]:
    content = (complete_set() / "manifest.json").read_bytes()
    return [content, content.replace(b'"classes": []', b'"classes": ["cat", "dog"], "plan": {"a": [1, {}]}')]


@target("manifest", manifest_seeds)
def read_a_manifest(data: bytes, directory: Path) -> None:
    """What is opened can be read or is refused, and the check agrees with the reader."""
    shutil.copytree(complete_set(), directory, dirs_exist_ok=True)
    (directory / "manifest.json").write_bytes(data)

    def read() -> None:
        shards = open_directory(directory)
        with hidden_native_output():
            ShardReader(shards).read(np.arange(min(4, shards.manifest.count)))

    with suppress(ConfigError):  # these shards were not made by this program
        refuse_other_files(directory)
    try_each(read, lambda: check_shards(directory))
    text = load_manifest(directory).to_json()
    (directory / "manifest.json").write_text(text, encoding="utf-8")
    assert load_manifest(directory).to_json() == text


@functools.cache
def unfinished_set() -> Path:
    """A directory with a plan, and a shard with its record."""
    directory = Path(tempfile.mkdtemp())
    pictures, out = directory / "pictures", directory / "out"
    pictures.mkdir()
    out.mkdir()
    for number, content in enumerate(png_seeds()[:2]):
        (pictures / f"{number}.png").write_bytes(content)
    plan = plan_shards(open_source(Spec(str(pictures))), SMALL)
    agree_on_plan(out, plan.facts)
    shutil.copy(complete_set() / "0.tar", out / "000000.tar")
    shutil.copy(complete_set() / "0.npy", out / "000000.npy")
    shard = replace(load_manifest(complete_set()).shards[0], name="000000.tar", index="000000.npy")
    record = Record(shard, (BadImage("2", "it is damaged"),), ("0.png", "1.png"), (7, 8))
    (out / "000000.json").write_text(record.to_json(), encoding="utf-8")
    (out / ".making").write_text("a process", encoding="utf-8")
    return out


@target("plan", lambda: [(unfinished_set() / ".plan.json").read_bytes()])
def continue_by_a_plan(data: bytes, directory: Path) -> None:
    shutil.copytree(unfinished_set(), directory, dirs_exist_ok=True)
    (directory / ".plan.json").write_bytes(data)
    facts = read_plan(unfinished_set())
    try_each(
        lambda: refuse_other_files(directory),
        lambda: read_plan(directory),
        lambda: agree_on_plan(directory, facts),
    )


@target(
    "record", lambda: [(unfinished_set() / "000000.json").read_bytes(), Record(None, ()).to_json().encode()]
)
def continue_by_a_record(data: bytes, directory: Path) -> None:
    """A record that cannot be used means that the shard is made again; others can be written as they are."""
    shutil.copytree(unfinished_set(), directory, dirs_exist_ok=True)
    (directory / "000000.json").write_bytes(data)
    record = find_record(directory, 0)
    if record is not None:
        record.to_json()


@target("classes", lambda: [b"cat\ndog\n", "\ufeffKätzchen\r\nHündchen\r\n".encode(), b"1\n2\n3"])
def name_the_classes(data: bytes, directory: Path) -> None:
    (directory / "classes.txt").write_bytes(data)
    read_class_names(directory / "classes.txt")


def table_seeds() -> list[bytes]:
    rows = [f"{name},{number}" for number, name in enumerate(NAMES)]
    pairs = ", ".join(f'["{name}", {number}]' for number, name in enumerate(NAMES))
    return [
        "\n".join(["file_name,label", *rows]).encode(),
        "\n".join(rows).replace(",", ";").encode(),
        "\n".join(f'"{name}"\tword {name}' for name in NAMES).encode(),
        f'{{"labels": [{pairs}]}}'.encode(),
        f"[{pairs}]".replace("0]", "[1, 0.0]]").encode(),
        b'{"labels": null}',
        ('{"labels": {' + pairs.replace("[", "").replace("]", "").replace('", ', '": ') + "}}").encode(),
    ]


@target("labels", table_seeds)
def read_a_table(data: bytes, directory: Path) -> None:
    ending = "json" if data.lstrip()[:1] in (b"{", b"[") else "tsv" if b"\t" in data else "csv"
    path = directory / f"labels.{ending}"
    path.write_bytes(data)
    with suppress(ConfigError):  # there may be no such column
        read_labels(path, "label", NAMES)
    read_labels(path, "", NAMES)
