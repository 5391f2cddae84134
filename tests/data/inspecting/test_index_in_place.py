"""Indexing webdataset shards in place: what is accepted, what is refused, and that no tar file changes."""

from __future__ import annotations

import errno
import io
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from pipeline.data.format.codecs import Bytes, encode
from pipeline.data.format.manifest import load_manifest
from pipeline.data.format.shard_set import open_directory
from pipeline.data.inspecting.check import check_shards
from pipeline.data.inspecting.index_in_place import index_in_place
from pipeline.data.reading.reader import ShardReader
from pipeline.errors import ConfigError, DataError, StorageError
from tests.image_files import encoded, png_chunk, png_of_claimed_size, turned_jpegs, turned_pngs, with_chunks
from tests.shards import noise, write

Members = list[tuple[str, bytes]]


def picture(number: int, height: int = 8, width: int = 10, channels: int = 3) -> Bytes:
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def png(number: int = 0, height: int = 8, width: int = 10, channels: int = 3) -> bytes:
    return encode(picture(number, height, width, channels), "png", 0)


def jpeg(number: int = 0, height: int = 8, width: int = 10, channels: int = 3) -> bytes:
    return encode(picture(number, height, width, channels), "jpeg", 95)


def write_tar(path: Path, members: Members) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Seven samples of the labels 0 to 2 in two tar files, as webdataset writes them."""
    (tmp_path / "birds").mkdir()
    for name, numbers in (("train-b.tar", range(4, 7)), ("train-a.01.tar", range(4))):
        with webdataset.TarWriter(str(tmp_path / "birds" / name)) as tar:
            for number in numbers:
                tar.write({"__key__": f"sample{number}", "png": png(number), "cls": number % 3, "json": {}})
    return tmp_path / "birds"


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def refused(directory: Path, kind: type[Exception] = DataError) -> str:
    """The message with which the directory is refused; nothing may be written."""
    before = contents(directory)
    with pytest.raises(kind) as error:
        index_in_place(directory)
    assert contents(directory) == before
    return str(error.value).replace(f"{directory}/", "")


def test_the_images_and_labels_are_read_in_the_order_of_the_names(shards: Path) -> None:
    manifest, remarks = index_in_place(shards)
    assert load_manifest(shards) == manifest
    assert remarks.labels_from == "KEY.cls"
    assert (manifest.source, manifest.plan, manifest.encoding) == ("birds", {}, "png")
    assert (manifest.resolution, manifest.channels) == ((8, 10), 3)
    assert manifest.classes == ("0", "1", "2")
    assert [(shard.name, shard.index, shard.count) for shard in manifest.shards] == [
        ("train-a.01.tar", "train-a.01.npy", 4),
        ("train-b.tar", "train-b.npy", 3),
    ]
    opened = open_directory(shards)
    images = ShardReader(opened).read(np.arange(7)).permute(0, 2, 3, 1).numpy()
    assert (images == np.stack([picture(number) for number in range(7)])).all()
    labels = [opened.load_index(shard)[:, 2].tolist() for shard in manifest.shards]
    assert labels == [[0, 1, 2, 0], [1, 2, 0]]


def test_tar_files_do_not_change(shards: Path) -> None:
    def state() -> list[tuple[bytes, int, int]]:
        tars = sorted(shards.glob("*.tar"))
        return [(path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) for path in tars]

    before = state()
    index_in_place(shards)
    assert state() == before
    assert len(contents(shards)) == 2 + 2 + 1


def test_an_indexed_set_passes_the_check(shards: Path) -> None:
    index_in_place(shards)
    report = check_shards(shards)
    assert report.verdict == "valid"
    assert report.left_out == ("7 files of other kinds (7 .json), for example sample0.json",)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_colour_jpeg_can_be_indexed(tmp_path: Path, channels: int) -> None:
    write_tar(
        tmp_path / "in" / "x.tar",
        [(f"{n}.{'jpg' if n else 'jpeg'}", jpeg(n, 8, 8, channels)) for n in (0, 1)],
    )
    manifest, _ = index_in_place(tmp_path / "in")
    assert (manifest.encoding, manifest.channels, manifest.classes) == ("jpeg", channels, ())
    assert ShardReader(open_directory(tmp_path / "in")).read(np.arange(2)).shape == (2, channels, 8, 8)


def test_indexing_again_changes_nothing(shards: Path) -> None:
    first = index_in_place(shards)
    before = {path: path.stat().st_mtime_ns for path in shards.iterdir()}
    assert index_in_place(shards) == first
    assert {path: path.stat().st_mtime_ns for path in shards.iterdir()} == before


def test_indexing_can_be_repeated_after_an_interruption(shards: Path) -> None:
    first = index_in_place(shards)
    (shards / "manifest.json").unlink()
    (shards / "train-b.npy").unlink()
    assert index_in_place(shards) == first
    open_directory(shards)


def test_a_full_disk_leaves_no_manifest(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if target.name == "train-b.npy":
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(StorageError, match=r"train-b\.npy cannot be written: No space left.*Free some space"):
        index_in_place(shards)
    assert not (shards / "manifest.json").exists()


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("ending", ["pyd", "pkl", "pickle", "pth", "pt"])
def test_pickles_are_reported_and_never_opened(tmp_path: Path, ending: str) -> None:
    canary = tmp_path / "was-run"
    payload = pickle.dumps(Canary(canary))
    pickle.loads(payload)
    assert canary.exists()  # unpickling would be noticed
    canary.unlink()
    write_tar(
        tmp_path / "in" / "x.tar", [("0.meta." + ending, payload), ("0.png", png()), ("0.txt", b"text")]
    )
    remarks = index_in_place(tmp_path / "in").remarks
    check_shards(tmp_path / "in")
    ShardReader(open_directory(tmp_path / "in")).read(np.arange(1))
    assert not canary.exists()
    assert remarks.left_out == (
        f"2 files of other kinds (1 .{ending}, 1 .txt), for example 0.meta.{ending}",
        f".{ending} files are pickles, never opened here; other readers would run any code in them",
    )


def test_members_of_other_kinds_are_counted(shards: Path) -> None:
    assert index_in_place(shards).remarks.left_out == (
        "7 files of other kinds (7 .json), for example sample0.json",
    )


def unlike() -> Iterator[tuple[str, Members, str]]:
    same = ("0.png", png())
    png_is = "png of 8 x 10 in colour"
    yield (
        "size",
        [same, ("1.png", png(1, 8, 9))],
        f"the image '1': png of 8 x 9 in colour instead of {png_is}",
    )
    yield "colour", [same, ("1.png", png(1, channels=1))], f"'1': png of 8 x 10 in grey instead of {png_is}"
    yield (
        "encoding",
        [same, ("1.jpg", jpeg())],
        "holds images of 2 encodings (jpeg, png), but a shard has only one",
    )
    yield "disguise", [("0.png", jpeg())], "the image '0' is not an 8-bit png in grey or RGB"
    yield "broken", [same, ("1.png", png(1)[:-30])], "the image '1': a damaged PNG"
    yield (
        "raw",
        [("0.npy", encode(picture(0), "raw", 0))],
        "holds .npy images, and only PNG and JPEG can be indexed in place",
    )


@pytest.mark.parametrize(("members", "message"), [pytest.param(*rest, id=name) for name, *rest in unlike()])
def test_damaged_or_different_images_are_refused(tmp_path: Path, members: Members, message: str) -> None:
    write_tar(tmp_path / "in" / "x.tar", members)
    found = refused(tmp_path / "in")
    assert found.startswith("x.tar")
    assert message in found
    if "encodings" not in message:
        assert f"`wgan shards make {tmp_path / 'in'} OUT --resolution N`" in found


def test_images_with_a_palette_or_alpha_are_refused(tmp_path: Path) -> None:
    for mode in ("P", "RGBA", "I;16"):
        stream = io.BytesIO()
        Image.new(mode, (8, 8)).save(stream, "PNG")
        write_tar(tmp_path / "in" / "x.tar", [("0.png", stream.getvalue())])
        assert "the image '0' is not an 8-bit png in grey or RGB" in refused(tmp_path / "in")


TURNED = {**turned_pngs(Image.new("RGB", (8, 8)), 3), **turned_jpegs(Image.new("RGB", (8, 8)), 3)}


@pytest.mark.parametrize("way", TURNED)
def test_images_whose_metadata_say_to_turn_them_are_refused(tmp_path: Path, way: str) -> None:
    name = "0.png" if TURNED[way].startswith(b"\x89PNG") else "0.jpg"
    write_tar(tmp_path / "in" / "x.tar", [(name, TURNED[way])])
    message = refused(tmp_path / "in")
    assert "the image '0': its metadata say to turn it (orientation 3), which needs a new file" in message
    assert "`wgan shards make " in message


def test_images_with_metadata_that_do_not_turn_them_are_taken(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8))
    write_tar(tmp_path / "in" / "x.tar", [("0.png", turned_pngs(image, 1)["XMP"]), ("1.png", encoded(image))])
    assert index_in_place(tmp_path / "in").manifest.count == 2


def test_a_png_with_a_transparent_colour_is_refused(tmp_path: Path) -> None:
    content = encoded(Image.new("RGB", (8, 8)), transparency=(0, 0, 0))
    write_tar(tmp_path / "in" / "x.tar", [("0.png", content)])
    assert "the image '0': it is transparent in parts" in refused(tmp_path / "in")


def test_training_decodes_a_png_without_its_metadata(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plain = png()
    broken = [png_chunk(kind, b"x") for kind in (b"iCCP", b"gAMA", b"sRGB", b"cHRM", b"zTXt", b"tIME")]
    write_tar(tmp_path / "in" / "x.tar", [("0.png", with_chunks(plain, *broken)), ("1.png", plain)])
    index_in_place(tmp_path / "in")
    images = ShardReader(open_directory(tmp_path / "in")).read(np.array([0, 1]))
    assert (images[0] == images[1]).all()
    assert "libpng" not in capfd.readouterr().err


def test_shards_that_differ_from_each_other_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "in" / "a.tar", [("0.png", png())])
    write_tar(tmp_path / "in" / "b.tar", [("7.jpg", jpeg())])
    assert refused(tmp_path / "in").startswith(
        "b.tar: the image '7': jpeg of 8 x 10 in colour instead of png of 8 x 10 in colour, as in a.tar."
    )


def test_too_large_images_are_refused_by_their_header(tmp_path: Path) -> None:
    write_tar(tmp_path / "in" / "a.tar", [("0.png", png_of_claimed_size(9000, 9000, 8, 0, b""))])
    assert "the image '0': it has 9000 x 9000 pixels" in refused(tmp_path / "in")


def test_labels_on_only_some_samples_are_refused(tmp_path: Path) -> None:
    labelled: Members = [("0.png", png()), ("0.cls", b"0")]
    write_tar(tmp_path / "in" / "a.tar", [*labelled, ("1.png", png())])
    assert "in: 1 of 2 images has no .cls, for example '1'" in refused(tmp_path / "in")
    write_tar(tmp_path / "in" / "a.tar", labelled)
    write_tar(tmp_path / "in" / "b.tar", [("1.png", png())])
    assert "in: 1 of 2 images has no .cls, for example '1'" in refused(tmp_path / "in")
    write_tar(tmp_path / "in" / "a.tar", [("0.png", png())])
    write_tar(tmp_path / "in" / "b.tar", [*labelled, ("1.png", png()), ("1.cls", b"1")])
    assert "in: 1 of 3 images has no .cls, for example '0'" in refused(tmp_path / "in")


def test_labels_that_cannot_be_class_numbers_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "in" / "a.tar", [("0.png", png()), ("0.cls", b"999999999")])
    assert "with the label 999999999 there would be more than 1,000,000 classes" in refused(tmp_path / "in")


def test_class_names_are_the_lines_of_a_file(shards: Path) -> None:
    (shards / "classes.txt").write_text("Blaumeise\n große Möwe \nwren\nowl\n\n", encoding="utf-8")
    assert index_in_place(shards).manifest.classes == ("Blaumeise", "große Möwe", "wren", "owl")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a\nb\n", "classes.txt names 2 classes, but there are labels up to 2. Give 3 names, one per line."),
        (b"", "classes.txt names 0 classes, but there are labels up to 2"),
        (b"a\n\nb\n", "classes.txt: line 2 is empty"),
        (b"a\nb\na\n", "classes.txt names 'a' 2 times. Name each class once."),
        (b"\xff\xfe", "classes.txt cannot be read"),
    ],
)
def test_class_names_that_do_not_fit_the_labels_are_refused(shards: Path, text: bytes, message: str) -> None:
    (shards / "classes.txt").write_bytes(text)
    assert message in refused(shards)


def test_class_names_without_labels_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "in" / "a.tar", [("0.png", png())])
    (tmp_path / "in" / "classes.txt").write_text("a\n")
    assert "classes.txt names classes, but no sample has a label" in refused(tmp_path / "in")


def test_a_truncated_or_compressed_tar_file_is_refused(shards: Path) -> None:
    whole = (shards / "train-b.tar").read_bytes()
    (shards / "train-b.tar").write_bytes(whole[:3000])
    assert "train-b.tar is not a complete tar file" in refused(shards)
    with tarfile.open(shards / "train-b.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("0.png"), io.BytesIO())
    assert "train-b.tar is compressed, so its images cannot be read in any order" in refused(shards)


def test_a_directory_without_tar_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".hidden.tar").write_bytes(b"")
    (tmp_path / "folder.tar").mkdir()
    with pytest.raises(DataError, match=r"holds no tar files"):
        index_in_place(tmp_path)
    with pytest.raises(DataError, match=r"The directory .* does not exist"):
        index_in_place(tmp_path / "nowhere")


def test_another_manifest_is_not_overwritten(shards: Path) -> None:
    (shards / "manifest.json").write_text('{"format": "other"}')
    assert "holds a manifest.json of another kind" in refused(shards, ConfigError)


def test_a_set_of_shards_make_needs_no_index(tmp_path: Path) -> None:
    write(noise(4), tmp_path)
    assert "was made by `wgan shards make` and already has its indexes" in refused(tmp_path, ConfigError)


def test_an_unfinished_set_is_not_changed(shards: Path) -> None:
    (shards / ".plan.json").write_text("{}")
    assert "unfinished shards of `wgan shards make`. Run that command again" in refused(shards, ConfigError)


def test_a_file_with_the_name_of_an_index_is_not_overwritten(shards: Path) -> None:
    (shards / "train-b.npy").write_bytes(b"features")
    message = "train-b.npy is not the index of the present train-b.tar"
    assert message in refused(shards, ConfigError)


def test_added_or_changed_tar_files_are_reported(shards: Path) -> None:
    index_in_place(shards)
    write_tar(shards / "train-c.tar", [("0.png", png()), ("0.cls", b"0")])
    message = "manifest.json describes other shards: the tar files or classes.txt have changed since"
    assert message in refused(shards, ConfigError)
    (shards / "train-c.tar").unlink()
    write_tar(shards / "train-b.tar", [("0.png", png()), ("0.cls", b"0")])
    assert "train-b.npy is not the index of the present" in refused(shards, ConfigError)
