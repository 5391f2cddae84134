"""Which source a name opens, and the errors for unknown names."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.sources import REGISTRY, Spec, describe_sources, mixed, open_source
from pipeline.errors import ConfigError, DataError
from tests.data.sources.helpers import png, put_image, put_tar, values
from tests.shards import reader, write


def test_an_unknown_name_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match=r"or named source mnsit\. Did you mean mnist\? .*digits, mnist"):
        open_source(Spec("mnsit"))


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("data/*.tar", r"patterns of names are not read yet\. Give the folder that holds the files, data\."),
        ("data/{000..009}.tar", r"patterns of names .* the files, data\. .*hard-link"),
        ("/data/set-{a,b}/x.tar", r"Give the folder that holds the files, /data\."),
        ("[ab].tar", r"Give the folder that holds the files, \.\."),
        (
            "https://example.org/a.tar?token=secret",
            r"is the URL https://example\.org/a\.tar\S* and images at a URL are not read yet\. Download the archive",
        ),
        ("s3://bucket/{000..009}.tar", r"images at a URL are not read yet.*see data\.shards"),
        ("pipe:curl -s https://example.org/a.tar", r"commands are never run\. Download the tar files"),
        ("a.tar::b.tar", r"2 SOURCEs were given \(a\.tar, b\.tar\).*Give the folder"),
        ("x" * 300, r"There is no folder, file or named source xxx"),
        ("a\0b", r"There is no folder, file or named source a"),
    ],
)
def test_names_of_other_kinds_get_an_answer_that_fits(name: str, answer: str) -> None:
    with pytest.raises(ConfigError, match=answer) as refused:
        open_source(Spec(name))
    assert "secret" not in str(refused.value)


def test_a_named_pipe_is_no_source(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(ConfigError, match=r"a\.tar is neither a file nor a folder, but a named pipe"):
        open_source(Spec(str(tmp_path / "a.tar")))


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.npy", "a.npz"])
def test_a_pointer_of_git_lfs_is_called_that(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n")
    with pytest.raises(DataError, match=rf"{name} is a Git LFS pointer.*git lfs pull"):
        open_source(Spec(str(tmp_path / name)))


def test_a_file_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(
        ConfigError, match=r"notes\.txt is a kind of file that is not supported\. Give a folder"
    ):
        open_source(Spec(str(tmp_path / "notes.txt")))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Spec("digits", root=Path("x")), "--root x cannot be used with digits, "),
        (Spec("digits", split="test"), r"--split test: digits has no splits\. All its images are in train"),
    ],
)
def test_options_that_a_source_does_not_have_are_refused(spec: Spec, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_source(spec)


def test_the_help_names_every_family() -> None:
    described = describe_sources()
    for name in REGISTRY:
        assert name in described or name.split("-")[0] in described


def test_digits_can_be_pickled() -> None:
    source = open_source(Spec("digits"))
    copy = pickle.loads(pickle.dumps(source))
    assert (copy.name, len(copy), copy.native_resolution) == ("digits", 1797, (16, 16))
    assert (copy.read(5) == source.read(5)).all()


def test_a_listing_has_the_same_order_on_every_machine() -> None:
    names = [(f"{kind}/{number}", None) for kind in "ab" for number in range(50)]
    order = mixed(names)
    assert order == mixed(reversed(names))
    assert sorted(order) == sorted(names)
    first_half = [name[0] for name, _ in order[:50]]
    assert 15 < first_half.count("a") < 35


def test_sources_at_a_path_can_be_pickled_and_made_to_shards(tmp_path: Path) -> None:
    put_image(tmp_path / "folder" / "cat" / "1.png", 1)
    put_image(tmp_path / "folder" / "dog" / "2.png", 2)
    (tmp_path / "shards").mkdir()
    put_tar(tmp_path / "shards" / "0.tar", [("a.png", png(3)), ("a.cls", b"0")])
    np.save(tmp_path / "array.npy", np.full((2, 4, 4), 5, dtype=np.uint8))
    np.savez(tmp_path / "arrays.npz", images=np.full((2, 4, 4), 6, dtype=np.uint8), labels=np.array([0, 1]))
    for name in ("folder", "shards", "array.npy", "arrays.npz"):
        source = open_source(Spec(str(tmp_path / name)))
        copy = pickle.loads(pickle.dumps(source))
        assert values(copy) == values(source)
        assert str(tmp_path) not in source.name
        manifest = write(copy, tmp_path / f"{name}-out", 4, 1)
        assert manifest.count == len(reader(tmp_path / f"{name}-out").read(np.arange(manifest.count)))
        with pytest.raises(ConfigError, match=r"--split valid: .* has no splits"):
            open_source(Spec(str(tmp_path / name), split="valid"))
