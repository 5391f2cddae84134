"""Patterns of tar files: expanded by webdataset's rules, within bounds, and never through a shell."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from webdataset.shardlists import expand_urls

from pipeline.data.originals.patterns import MOST_FILES, expand_braces, find_tars
from pipeline.errors import ConfigError, DataError
from pipeline.option_data import RemoteOptions, is_pattern
from tests.data.format.downloads import options
from tests.data.format.web_server import body, serve


def found(place: Path, *patterns: str) -> list[str]:
    tars = find_tars([f"{place}/{pattern}" for pattern in patterns], RemoteOptions())
    return [Path(tar.location).relative_to(place).as_posix() for tar in tars]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in (
        "b-1.tar",
        "b-0.tar",
        "a.tar",
        "c[1].tar",
        ".hidden.tar",
        "._a.tar",
        "x/b-1.tar",
        "note.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize(
    "pattern",
    [
        "s3://bucket/train-{0000..1281}.tar",
        "a-{9..11}.tar",
        "a-{3..0}.tar",
        "a-{0..10..5}-{x,y}.tar",
        "{a,b{1..3}}/{c..e}.tar",
        "{x}-{}-{1..2}.tar",
        "a-\\{1..3\\}.tar",
    ],
)
def test_braces_expand_as_webdataset_expands_them(pattern: str) -> None:
    assert expand_braces(pattern) == expand_urls(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "a-{0..9999999}.tar",
        "a-{0..99999999999999999999}.tar",
        "{0..999}{0..999}.tar",
        "{{0..999}{0..999},x}",
        "{a..z}{a..z}{a..z}{a..z}",
        "{,}" * 20,
        "{" * 200 + "}" * 200,
        "{0..9}" * 90,
    ],
)
def test_a_pattern_of_too_many_names_is_refused_at_once(pattern: str) -> None:
    began = time.monotonic()
    with pytest.raises(ConfigError, match=f"could stand for more than {MOST_FILES:,} tar files"):
        expand_braces(pattern)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{0..3.tar", "braces that do not match"),
        ("0..3}.tar", "braces that do not match"),
        ("a.tar::b.tar", "has `::`, variables or more"),
        ("${WDS_DATA}/a.tar", "has `::`, variables or more"),
        ("a" * 5000, "has `::`, variables or more"),
    ],
)
def test_what_webdataset_would_expand_in_other_ways_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand_braces(pattern)


def test_local_files_come_in_the_order_of_the_pattern(place: Path) -> None:
    assert found(place, "*.tar") == ["a.tar", "b-0.tar", "b-1.tar", "c[1].tar"]
    assert found(place, "b-{1,0}.tar", "a.tar") == ["b-1.tar", "b-0.tar", "a.tar"]
    assert found(place, "{x/,}b-?.tar") == ["x/b-1.tar", "b-0.tar", "b-1.tar"]
    assert found(place, "c[1].tar", "b-[01].tar") == ["c[1].tar", "b-0.tar", "b-1.tar"]


@pytest.mark.parametrize(
    ("pattern", "kind", "message"),
    [
        ("b-{0..2}.tar", DataError, r"b-2\.tar does not exist"),
        ("none-*.tar", DataError, "There are no files like"),
        ("**/b-1.tar", ConfigError, r"`\*\*` is not supported"),
        ("{a,a}.tar", ConfigError, r"stands for .*a\.tar a second time"),
        (
            "x",
            DataError,
            r"x is a folder, .* Name those in it, .*x/\*\.tar'; or make shards of its images: `wgan",
        ),
    ],
)
def test_mistakes_are_named(place: Path, pattern: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        found(place, pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "pipe:cat {}/a.tar",
        "pipe:touch {}/x{{0..3}}.tar",
        "file://{}/a.tar",
        "http://user:secret@host/*.tar",
        "s3://key:secret@bucket/{{0..3}}.tar",
        "https://host/a.tar?X-Amz-Signature=secret",
        "zip://a.tar::s3://b/c.zip",
        "https://host/*/a.tar",
        "s3://bucket/a-[0-9];id.tar/b.tar",
    ],
)
def test_no_other_kinds_of_addresses_are_read(place: Path, pattern: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        find_tars([pattern.format(place)], RemoteOptions())
    assert "secret" not in str(refusal.value)


def test_a_path_that_a_manifest_cannot_hold_is_refused(place: Path) -> None:
    (place / "line\nbreak.tar").write_bytes(b"x")
    with pytest.raises(ConfigError, match="has a line break or another control character in its path"):
        found(place, "line*.tar")


PAGE = b"""<html><body><a href="?C=N;O=D">Name</a> <a href="/">Parent</a> <a href="../up.tar">up</a>
<a href="b%20c.tar">b c.tar</a><A HREF=a.tar>a.tar</A> <a href="http://127.0.0.1:1/d/z.tar">z</a> <a href="sub/">sub</a>
<a href="./e.tar?x=1">e</a> <a href="f.txt">f</a> <a href="a.tar">again</a> <a href="javascript:x">j</a> <a>no</a>"""


def test_a_web_servers_page_is_a_listing(tmp_path: Path) -> None:
    with serve(
        {"/d/": body(PAGE), "/d/a.tar": body(b"12345", ETag='"v1"'), "/d/b%20c.tar": body(b"123")}
    ) as server:
        tars = find_tars([f"{server.url}/d/*.tar"], options(tmp_path))
        assert [tar.location for tar in tars] == [f"{server.url}/d/a.tar", f"{server.url}/d/b%20c.tar"]
        assert [tar.facts.bytes for tar in tars] == [5, 3]
        assert [tar.facts.stamp for tar in tars] == ['"v1"', "3 bytes"]


def test_a_file_of_unknown_size_is_refused(tmp_path: Path) -> None:
    with (
        serve({"/a.tar": lambda connection: connection.head()}) as server,
        pytest.raises(DataError, match="does not say how large the file is"),
    ):
        find_tars([f"{server.url}/a.tar"], options(tmp_path))


def test_a_repository_of_the_hub_is_a_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def list_tree(self: object, *place: object, **more: object) -> list[object]:
        asked.append((*place, more["revision"], more["repo_type"]))
        files = {"d/b 2.tar": 7, "d/a.tar": 5, "d/readme.md": 1}
        found = [huggingface_hub.RepoFile(path=p, size=n, oid=f"{n:040d}") for p, n in files.items()]
        return [*found, SimpleNamespace(path="d/folder.tar")]

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_tree", list_tree)
    tars = find_tars(["hf://datasets/owner/name@v1/d/*.tar"], options(tmp_path))
    assert [tar.location.rpartition("/")[2] for tar in tars] == ["a.tar", "b%202.tar"]
    assert [tar.facts.bytes for tar in tars] == [5, 7]
    assert asked == [("owner/name", "d", "v1", "dataset")]


def test_what_a_pattern_is(place: Path) -> None:
    for pattern in ("a-{0..3}.tar", "*.tar", "s3://b/x.tar", "s3://b/{0..3}/x.tar", ["a"]):
        assert is_pattern(pattern)
    for place_of_a_set in ("data/mnist", "s3://b/set", "https://h/x?list=1", "hf://datasets/o/n/d"):
        assert not is_pattern(place_of_a_set)
    (place / "odd[1]").mkdir()
    assert not is_pattern(str(place / "odd[1]"))


def test_names_of_a_listing_cannot_be_anything_else_than_names() -> None:
    from pipeline.data.format.listing import links_in

    pages = [
        b"<a href=",
        b"<a href='\xff\xfe.tar'>",
        b"<a " * 1000,
        b"<!--" + b"<a href=x>" * 10,
        b"\0" * 100,
    ]
    for page in pages:
        assert all(re.fullmatch(r"[^/?#]+", name) for name in links_in("https://h/d", page))
