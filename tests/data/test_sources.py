"""All sources: how they are named and found, and what holds for each of them."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.sources import FAMILIES, REGISTRY, Source, Spec, describe_sources, mixed, open_source
from pipeline.errors import ConfigError, DataError
from tests.data.sources import helpers

Make = Callable[[Path, pytest.MonkeyPatch], Spec]


def test_an_unknown_source_is_answered_with_the_known_and_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no folder or file minst .* digits, mnist,.*Did you mean mnist\?"):
        open_source(Spec("minst"))


def test_a_file_of_another_kind_is_answered_with_what_can_be_given(tmp_path: Path) -> None:
    helpers.put_image(tmp_path / "a.png")
    with pytest.raises(ConfigError, match=r"a\.png is a file of no kind that is read\. Give a folder"):
        helpers.open_path(tmp_path / "a.png")


def test_every_named_source_has_a_module_and_a_line_in_the_help() -> None:
    described = describe_sources().splitlines()
    for family in FAMILIES:
        assert any(line.split()[0].rstrip(",") == family.names[0] for line in described)
    for module in set(REGISTRY.values()):
        assert callable(__import__(module, fromlist=["open_source"]).open_source)
    assert max(map(len, described)) < 110


def test_a_folder_named_as_a_set_is_reached_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    helpers.put_image(tmp_path / "digits" / "a.png")
    assert len(open_source(Spec("digits"))) == 1797
    assert len(open_source(Spec("./digits"))) == 1


def test_a_folder_of_tar_files_and_folders_is_refused_as_unclear(tmp_path: Path) -> None:
    helpers.put_image(tmp_path / "cat" / "a.png")
    helpers.put_tar(tmp_path / "0.tar", [("a.png", helpers.png())])
    with pytest.raises(DataError, match=r"holds both tar files \(0\.tar\) and folders \(cat\)"):
        helpers.open_path(tmp_path)


def test_digits_use_the_whole_range_of_bytes() -> None:
    source = open_source(Spec("digits"))
    images = np.stack([helpers.pixels(source, position) for position in range(len(source))])
    assert images.shape == (1797, 8, 8)
    assert (images.dtype, images.min(), images.max()) == (np.uint8, 0, 255)
    assert set(helpers.labels(source).values()) == set(range(10))
    assert (source.native_resolution, source.native_channels, source.classes) == (
        (16, 16),
        1,
        tuple("0123456789"),
    )


@pytest.mark.parametrize("spec", [Spec("digits", root=Path("somewhere")), Spec("digits", split="test")])
def test_digits_refuse_a_root_and_a_test_split(spec: Spec) -> None:
    with pytest.raises(ConfigError, match="digits"):
        open_source(spec)


def test_a_sorted_listing_is_mixed_alike_everywhere() -> None:
    names = [f"{folder}/{number}" for folder in ("cat", "dog") for number in range(50)]
    order = [name for name, _ in mixed((name, None) for name in names)]
    assert sorted(order) == sorted(names)
    assert order == [name for name, _ in mixed((name, None) for name in reversed(names))]
    assert 15 < sum(name.startswith("cat") for name in order[:50]) < 35


def folder(path: Path, _: pytest.MonkeyPatch) -> Spec:
    helpers.put_image(path / "photos" / "cat" / "a.png")
    return Spec(str(path / "photos"))


def tar(path: Path, _: pytest.MonkeyPatch) -> Spec:
    return Spec(str(helpers.put_tar(path / "a.tar", [("a.png", helpers.png())])))


def zipped(path: Path, _: pytest.MonkeyPatch) -> Spec:
    return Spec(str(helpers.put_zip(path / "a.zip", [("a.png", helpers.png())])))


def shards(path: Path, _: pytest.MonkeyPatch) -> Spec:
    helpers.put_tar(path / "0.tar", [("a.png", helpers.png()), ("a.cls", b"1")])
    return Spec(str(path))


def npy(path: Path, _: pytest.MonkeyPatch) -> Spec:
    np.save(path / "a.npy", np.arange(2 * 4 * 5, dtype=np.uint8).reshape(2, 4, 5))
    return Spec(str(path / "a.npy"))


def npz(path: Path, _: pytest.MonkeyPatch) -> Spec:
    np.savez(path / "a.npz", images=np.zeros((2, 4, 5, 3), np.uint8), labels=np.array([1, 0]))
    return Spec(str(path / "a.npz"))


def mnist(path: Path, _: pytest.MonkeyPatch) -> Spec:
    helpers.put_mnist(path)
    return Spec("mnist", path)


def cifar10(path: Path, monkeypatch: pytest.MonkeyPatch) -> Spec:
    helpers.put_cifar10(path, monkeypatch)
    return Spec("cifar10", path)


def stl10(path: Path, monkeypatch: pytest.MonkeyPatch) -> Spec:
    helpers.put_stl10(path, monkeypatch)
    return Spec("stl10", path)


def celeba(path: Path, _: pytest.MonkeyPatch) -> Spec:
    helpers.put_celeba(path)
    return Spec("celeba", path)


def lsun(path: Path, _: pytest.MonkeyPatch) -> Spec:
    helpers.put_lsun(path)
    return Spec("lsun-bedroom", path)


def hugging_face(path: Path, _: pytest.MonkeyPatch) -> Spec:
    return Spec("hf:user/name", helpers.put_hugging_face(path / "saved"))


def digits(_: Path, __: pytest.MonkeyPatch) -> Spec:
    return Spec("digits")


MAKES: list[Make] = [
    *(folder, tar, zipped, shards, npy, npz, digits, mnist, cifar10, stl10, celeba, lsun, hugging_face)
]
# Run in another process: reads all of a pickled source, and says whether that took PyTorch.
READ_ALL = """\
import hashlib, pickle, sys
source = pickle.load(open(sys.argv[1], "rb"))
digest = hashlib.sha256()
for position in range(len(source)):
    digest.update(bytes(source.read(position)))
print(digest.hexdigest(), "torch" in sys.modules)
"""


@pytest.mark.parametrize("make", MAKES, ids=lambda make: make.__name__)
def test_a_source_survives_pickling_and_is_read_alike_and_without_torch_in_another_process(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(make(tmp_path, monkeypatch))
    digest = read_all(source)
    copy: Source = pickle.loads(pickle.dumps(source))
    assert read_all(copy) == digest
    for position in range(len(source)):
        assert (copy.key(position), copy.label(position)) == (source.key(position), source.label(position))
        label = source.label(position)
        assert (label is None) == (source.classes == ())
        assert label is None or 0 <= label < len(source.classes)
    assert len({source.key(position) for position in range(len(source))}) == len(source) > 0
    (tmp_path / "pickle").write_bytes(pickle.dumps(source))
    command = [sys.executable, "-c", READ_ALL, str(tmp_path / "pickle")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.split() == [digest, "False"]


@pytest.mark.parametrize("make", MAKES, ids=lambda make: make.__name__)
def test_a_sources_name_holds_no_path(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make(tmp_path, monkeypatch)
    source = open_source(spec)
    assert str(tmp_path.parent) not in source.name
    assert source.native_channels in (1, 3)


@pytest.mark.parametrize("make", [folder, tar, zipped, shards, npy, npz], ids=lambda make: make.__name__)
def test_a_source_of_a_path_refuses_a_root_and_a_split(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make(tmp_path, monkeypatch)
    with pytest.raises(ConfigError, match=r"--root .* has no meaning"):
        open_source(Spec(spec.name, root=tmp_path))
    with pytest.raises(ConfigError, match=r"has no test split\. Give .*test"):
        open_source(Spec(spec.name, split="test"))


def read_all(source: Source) -> str:
    import hashlib

    digest = hashlib.sha256()
    for position in range(len(source)):
        digest.update(bytes(memoryview(source.read(position)).cast("B")))
    return digest.hexdigest()
