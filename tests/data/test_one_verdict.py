"""`wgan shards make`, `index` and `check` say the same of the same content, and each counts what it leaves out."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pipeline.cli import main
from pipeline.data.format.codecs import encode
from pipeline.data.format.indexes import load_index
from pipeline.data.format.manifest import load_manifest
from tests.data.sources.helpers import put_tar
from tests.shards import noise

Console = pytest.CaptureFixture[str]


def image(number: int) -> bytes:
    return encode(noise(8).pictures[number], "png", 0)  # type: ignore[arg-type]


def run(*words: object) -> int:
    return main(["shards", *map(str, words)])


def labels_of(directory: Path) -> list[int]:
    manifest = load_manifest(directory)
    return [label for shard in manifest.shards for label in load_index(directory, shard)[:, 2].tolist()]


def last_line(console: Console) -> str:
    return console.readouterr().out.splitlines()[-1]


def joined(folder: Path) -> None:
    parts = [put_tar(folder / f"{n}.part", [(f"{n}.png", image(n))]) for n in range(2)]
    (folder / "0.tar").write_bytes(b"".join(part.read_bytes() for part in parts))


def without_one_label(folder: Path) -> None:
    put_tar(folder / "0.tar", [("0.png", image(0)), ("0.cls", b"1"), ("1.png", image(1))])


def two_images_of_a_key(folder: Path) -> None:
    put_tar(folder / "0.tar", [("0.png", image(0)), ("0.jpg", image(1)), ("0.cls", b"1")])


def more_stray_images(folder: Path) -> None:
    put_tar(folder / "0.tar", [("0.png", image(0))])
    for number in range(2):
        (folder / f"{number}.png").write_bytes(image(number))


def names_without_labels(folder: Path) -> None:
    put_tar(folder / "0.tar", [("0.png", image(0))])
    (folder / "classes.txt").write_text("cat\n")


def link_out(folder: Path) -> None:
    put_tar(folder.parent / "elsewhere.tar", [("0.png", image(0))])
    (folder / "0.tar").symlink_to("../elsewhere.tar")


def splits(folder: Path) -> None:
    put_tar(folder / "0.tar", [("train/0.png", image(0)), ("test/1.png", image(1))])


@pytest.mark.parametrize(
    ("put", "reason"),
    [
        (
            joined,
            "0.tar is not a complete tar file: it has more data after its end mark, for example because tar",
        ),
        (without_one_label, "1 of 2 images has no .cls, for example '1'"),
        (two_images_of_a_key, "0.tar holds 2 images with the key '0': 0.png, 0.jpg"),
        (more_stray_images, "2 images next to tar files (0.tar) of 1 image, so it is unclear"),
        (names_without_labels, "classes.txt names classes, but no sample has a label"),
        (link_out, "0.tar cannot be read: it is a link to"),
        (splits, "holds the folders test, train, which are splits, not classes"),
    ],
)
def test_make_and_index_refuse_the_same_content(
    put: Callable[[Path], None], reason: str, tmp_path: Path, capsys: Console
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    put(folder)
    assert run("make", folder, tmp_path / "out", "--resolution", 8) == 3
    assert reason in capsys.readouterr().err
    assert run("index", folder) == 3
    assert reason in capsys.readouterr().err


def test_make_index_and_check_take_the_same_samples(tmp_path: Path, capsys: Console) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    texts = (b"1\n", b" 0", b"\xef\xbb\xbf2")
    members = [file for n in range(3) for file in ((f"{n}.v{n}.png", image(n)), (f"{n}.v{n}.cls", texts[n]))]
    put_tar(folder / "0.tar", [*members, ("0.json", b"{}")])
    (folder / "preview.png").write_bytes(image(5))
    left_out = "left out: 1 image next to the tar files (preview.png); 1 file of another kind (0.json)"
    assert run("make", folder, tmp_path / "out") == 0
    assert last_line(capsys) == left_out
    assert run("index", folder) == 0
    assert last_line(capsys) == left_out
    assert run("check", folder) == 0
    assert last_line(capsys) == ("left out: 1 image not used (preview.png); 1 file of another kind (0.json)")
    assert labels_of(tmp_path / "out") == labels_of(folder) == [1, 0, 2]


def test_frames_that_are_not_used_are_counted_by_make_index_and_check(
    tmp_path: Path, capsys: Console
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    frames = [Image.fromarray(noise(8).pictures[number]) for number in (1, 2)]  # type: ignore[arg-type]
    animated = io.BytesIO()
    frames[0].save(animated, "PNG", save_all=True, append_images=frames[1:])
    put_tar(folder / "0.tar", [("0.png", image(0)), ("1.png", animated.getvalue())])
    left_out = "left out: all but the first frame or page of 1 image "
    assert run("make", folder, tmp_path / "out") == 0
    assert last_line(capsys) == f"{left_out}(see {tmp_path}/out/first-frames.txt)"
    assert run("index", folder) == 0
    assert last_line(capsys) == f"{left_out}(1)"
    assert run("check", folder) == 0
    assert last_line(capsys) == f"{left_out}(0.tar 1)"


def test_labels_by_folder_are_refused_by_index_unless_they_are_not_wanted(
    tmp_path: Path, capsys: Console
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    put_tar(folder / "0.tar", [("cat/0.png", image(0)), ("dog/1.png", image(1))])
    assert run("make", folder, tmp_path / "out") == 0
    assert load_manifest(tmp_path / "out").classes == ("cat", "dog")
    assert run("index", folder) == 3
    assert (
        "labels by the folders cat, dog, but an index takes labels only from KEY.cls"
        in capsys.readouterr().err
    )
    assert run("index", folder, "--labels", "none") == 0
    assert run("check", folder) == 0
    assert "2 images of 8 x 8 in colour, no labels" in capsys.readouterr().out


def test_an_index_names_the_command_that_uses_other_labels(tmp_path: Path, capsys: Console) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    put_tar(folder / "0.tar", [("0.png", image(0)), ("0.txt", b"cat")])
    assert run("index", folder) == 0
    *_, hint, last = capsys.readouterr().out.splitlines()
    assert hint.startswith("An index takes labels only from KEY.cls; `wgan shards make` uses others")
    assert last.endswith("labels not used: 1 KEY.txt (--labels txt)")


def test_labels_that_an_index_does_not_use_are_counted(tmp_path: Path, capsys: Console) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    put_tar(folder / "0.tar", [("0.png", image(0)), ("0.cls", b"1")])
    assert run("index", folder, "--labels", "none") == 0
    assert last_line(capsys).endswith("labels not used: 1 KEY.cls (--labels cls)")
    assert run("check", folder) == 0
    assert last_line(capsys) == "left out: 1 file of another kind (0.cls)"


def test_a_joined_tar_file_that_was_indexed_before_is_a_defect(tmp_path: Path, capsys: Console) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    put_tar(folder / "0.tar", [("0.png", image(0))])
    assert run("index", folder) == 0
    joined(folder)
    assert run("check", folder) == 3
    assert "0.tar is not a complete tar file: it has more data after its end mark" in capsys.readouterr().out


def test_make_unpacks_what_index_refuses_to(tmp_path: Path, capsys: Console) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    put_tar(folder / "0.tar", [("0.png", image(0))])
    content = put_tar(tmp_path / "1.tar", [("1.png", image(1))]).read_bytes()
    (folder / "1.tar.gz").write_bytes(gzip.compress(content))
    assert run("make", folder, tmp_path / "out") == 0
    assert load_manifest(tmp_path / "out").count == 2
    assert run("index", folder) == 3
    assert "1.tar.gz is compressed, so its images cannot be read in any order" in capsys.readouterr().err
