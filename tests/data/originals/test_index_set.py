"""Many tar files as one set: finished ones are kept, changes are found, and nothing else is touched."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cli import main
from pipeline.data.format.manifest import Manifest, load_manifest
from pipeline.data.format.open_shards import open_shards
from pipeline.data.format.shard_set import open_directory
from pipeline.data.inspecting.check import check_shards
from pipeline.data.inspecting.sheet import contact_sheet
from pipeline.data.inspecting.statistics import measure
from pipeline.data.originals import index_set
from pipeline.data.originals.index_set import Indexed, Wanted, index_originals
from pipeline.data.originals.tar_index import Asked, index_tar
from pipeline.data.reading.reader import ShardReader
from pipeline.data.sources.bad_images import parse_limit
from pipeline.data.sources.labels import LabelChoice
from pipeline.errors import ConfigError, DataError, RunLockedError
from pipeline.file_lock import FileLock
from pipeline.option_data import DataOptions
from tests.data.originals.corpus import Members, made, pack, pairs, picture

WORDS = LabelChoice("cls")


def put(place: Path, name: str, members: Members) -> Path:
    path = place / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pack(members))
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Three tar files, of two, three and one images."""
    put(tmp_path / "in", "a.tar", pairs("a", "b"))
    put(tmp_path / "in", "b.tar", pairs("c", "d", "e"))
    put(tmp_path / "in", "c.tar", pairs("f"))
    return tmp_path


def index(place: Path, wanted: Wanted = index_set.Wanted()) -> Indexed:  # noqa: B008
    return index_originals([f"{place}/in/*.tar"], place / "out", wanted)


def names(manifest: Manifest) -> list[str]:
    return [Path(shard.name).name for shard in manifest.shards]


def test_originals_are_looked_at_as_squares(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index(place)
    sheet = place / "sheet.png"
    for words, side in ([], 64), (["--resolution", "128"], 128):
        command = ["shards", "show", str(place / "out"), "--out", str(sheet), "--columns", "3", *words]
        assert main(command) == 0
        with Image.open(sheet) as drawn:
            # Below each image is the name of its class, and below all a chart.
            assert drawn.width == max(3 * (side + 4) + 4, 400)
            assert drawn.height > 2 * (side + 4)
    capsys.readouterr()
    assert main(["shards", "stats", str(place / "out"), "--resolution", "8"]) == 0
    said = capsys.readouterr().out
    assert "6 images of any size, read as those of 8 x 8 in colour" in said
    assert "192 when decoded" in said


def test_the_sheet_of_originals_counts_those_that_have_a_label(place: Path) -> None:
    for name in "abc":
        put(
            place / "in",
            f"{name}.tar",
            [("x.jpg", picture(1)), (f"{name}.jpg", picture(2)), (f"{name}.cls", b"0")],
        )
    index(place)
    assert measure(place / "out").class_counts == (3,)
    assert contact_sheet(place / "out", 2, 8).height > 2 * 64


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the tar files that were read."""
    seen: list[str] = []

    def note(file: object, where: str, *more: object) -> object:
        seen.append(Path(where).name)
        return index_tar(file, where, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(index_set, "index_tar", note)
    return seen


def test_a_set_lists_what_it_holds_and_opens_as_one(place: Path) -> None:
    found = index(place)
    assert (found.manifest.count, found.manifest.classes, names(found.manifest)) == (
        6,
        ("0", "1", "2"),
        ["a.tar", "b.tar", "c.tar"],
    )
    assert load_manifest(place / "out") == found.manifest
    assert open_directory(place / "out").is_local
    assert {path.suffix for path in (place / "out").iterdir()} == {".index", ".json", ""}
    assert (found.changes, found.remarks.labels_from, found.remarks.left_out) == ("", "KEY.cls", ())
    assert check_shards(place / "out").is_valid


def end_before_the_manifest(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave what a process leaves that is killed when all tar files are read."""

    def fail(*arguments: object) -> Manifest:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(index_set, "_manifest", fail)
        with pytest.raises(KeyboardInterrupt):
            index(place)


def test_what_is_finished_is_kept_after_a_kill(
    place: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    end_before_the_manifest(place, monkeypatch)
    (half,) = (path for path in (place / "out").glob("b-*.index"))
    half.write_bytes(half.read_bytes()[:-1])
    (place / "out" / ".x.index.tmp").write_bytes(b"half")
    read.clear()
    resumed = index(place).manifest
    assert read == ["b.tar"]
    (place / "clean").mkdir()
    assert resumed == index_originals([f"{place}/in/*.tar"], place / "clean", Wanted()).manifest
    assert {path.name for path in (place / "out").iterdir()} == {
        path.name for path in (place / "clean").iterdir()
    }


def test_files_that_a_kill_left_half_written_are_ours(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end_before_the_manifest(place, monkeypatch)
    kept = [path.name for path in (place / "out").iterdir() if path.suffix in (".index", ".json")]
    assert {Path(name).suffix for name in kept} == {".index", ".json"}
    for name in (*kept, "manifest.json", "bad-images.txt"):
        (place / "out" / f".{name}.tmp").write_bytes(b"half")
    assert index(place).manifest.count == 6
    assert not list((place / "out").glob(".*.tmp"))


def test_repeating_the_command_reads_only_what_is_new_or_has_changed(place: Path, read: list[str]) -> None:
    first = index(place).manifest
    read.clear()
    again = index(place)
    assert (again.manifest, again.changes, read) == (first, "", [])
    put(place / "in", "aa.tar", pairs("g"))
    put(place / "in", "b.tar", pairs("c", "d", "x", "y"))
    (place / "in" / "c.tar").unlink()
    changed = index(place)
    assert sorted(read) == ["aa.tar", "b.tar"]
    assert changed.changes == "1 tar file new, 1 tar file changed, 1 tar file no longer there"
    assert names(changed.manifest) == ["a.tar", "aa.tar", "b.tar"]
    assert changed.manifest.sha256 != first.sha256
    assert len(list((place / "out").glob("*.index"))) == 3


def test_the_set_is_the_same_wherever_it_and_its_tar_files_lie(place: Path) -> None:
    here = index(place).manifest
    (place / "in").rename(place / "elsewhere")
    there = index_originals([f"{place}/elsewhere/{{a,b,c}}.tar"], place / "other", Wanted()).manifest
    assert [shard.name for shard in here.shards] != [shard.name for shard in there.shards]
    assert here.sha256 == there.sha256


def test_a_file_that_has_changed_is_found_before_training_and_by_the_check(place: Path) -> None:
    index(place)
    path = place / "in" / "b.tar"
    content, times = bytearray(path.read_bytes()), path.stat()
    content[600] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    (finding,) = check_shards(place / "out").findings
    assert f"{path}: 1 of 3 samples differ from the index, first sample 0" in finding
    path.write_bytes(content[:-512])
    with pytest.raises(
        DataError, match=r"b\.tar has .* bytes, but manifest\.json says .* `wgan shards index` again"
    ):
        open_directory(place / "out")
    path.unlink()
    with pytest.raises(DataError, match=r"b\.tar is missing, but manifest\.json lists it"):
        open_directory(place / "out")


def test_labels_of_words_and_numbers_are_classes_of_one_set(place: Path) -> None:
    put(place / "in", "d.tar", [*made("w.jpg"), ("w.cls", b"cat"), *made("n.jpg"), ("n.cls", b"7")])
    manifest = index(place, Wanted(Asked(WORDS))).manifest
    assert (manifest.classes, manifest.are_words) == (("0", "1", "2", "7", "cat"), True)
    opened = open_directory(place / "out")
    labels = [opened.load_index(shard)[:, 2].tolist() for shard in manifest.shards]
    assert labels == [[0, 1], [0, 1, 2], [0], [4, 3]]


def test_tar_files_without_images_are_read_once(place: Path, read: list[str]) -> None:
    put(place / "in", "d.tar", made("a.gif=x a.txt=y"))
    first = index(place)
    assert set(first.remarks.left_out) == {
        "1 .gif",
        "1 .txt",
        "1 sample without an image",
        "1 tar file without images",
    }
    read.clear()
    again = index(place)
    assert (again.changes, again.remarks.left_out, read) == ("", first.remarks.left_out, [])
    put(place / "in", "d.tar", pairs("g"))
    assert index(place).changes == "1 tar file changed"
    assert not list((place / "out").glob("d-*.json"))


def test_a_wrong_option_can_be_put_right(place: Path) -> None:
    """What a refused option leaves behind keeps nobody from giving the right one."""
    with pytest.raises(
        DataError, match=r"ends in mask\.png \(--images\), and there is: 6 \.jpg.*or --images\."
    ):
        index(place, Wanted(Asked(image="mask.png")))
    assert index(place, Wanted(Asked(image="jpg"))).manifest.count == 6
    with pytest.raises(
        ConfigError, match=r"--images jpg instead of --labels auto\. Give .* or remove this one"
    ):
        index(place)


def test_classes_get_names_from_a_file(place: Path) -> None:
    (place / "names.txt").write_text("cat\ndog\nbird\nfish\n")
    named = Wanted(class_names=place / "names.txt")
    assert index(place, named).manifest.classes == ("cat", "dog", "bird", "fish")
    (place / "names.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match="names 2 classes, but there are labels up to 2"):
        index(place, named)


def test_other_options_need_another_directory(place: Path) -> None:
    index(place)
    with pytest.raises(
        ConfigError, match="was made with other options: --labels auto instead of --labels none"
    ):
        index(place, Wanted(Asked(LabelChoice("none"))))
    with pytest.raises(ConfigError, match=r"--labels folders: an index takes labels from `cls`"):
        index(place, Wanted(Asked(LabelChoice("folders"))))


def test_the_option_that_a_refusal_asks_for_can_be_added(tmp_path: Path) -> None:
    put(tmp_path / "in", "a.tar", made("x.jpg x.mask.png y.jpg y.mask.png"))
    with pytest.raises(DataError, match="Give what follows the key in the name of one, such as --images jpg"):
        index(tmp_path)
    assert index(tmp_path, Wanted(Asked(image="jpg"))).manifest.count == 2
    with pytest.raises(
        ConfigError, match="--labels auto --images jpg instead of --labels auto --images mask"
    ):
        index(tmp_path, Wanted(Asked(image="mask.png")))


def test_links_are_counted_as_not_used(tmp_path: Path) -> None:
    path = put(tmp_path / "in", "a.tar", made("x.jpg"))
    with tarfile.open(path, "a") as tar:
        for name in ("y.jpg", "z.jpg"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, "x.jpg"
            tar.addfile(link)
    assert index(tmp_path).remarks.left_out == ("2 linked or special files",)


def test_images_that_cannot_be_used_are_left_out_up_to_a_limit(place: Path) -> None:
    put(place / "in", "d.tar", made("x.jpg=no y.jpg=no z.jpg z.cls=0"))
    for limit in ("0", "1", "20%"):
        with pytest.raises(
            DataError, match=r"2 images cannot be used, for example x\.jpg of .*d\.tar: it is not an"
        ):
            index(place, Wanted(skip_bad=parse_limit(limit)))
    found = index(place, Wanted(skip_bad=parse_limit("25%")))
    assert found.manifest.count == 7
    assert "2 images that cannot be used (bad-images.txt)" in found.remarks.left_out
    lines = (place / "out" / "bad-images.txt").read_text()
    assert [line.split("\t")[1] for line in lines.splitlines()] == ["x.jpg", "y.jpg"]
    # Also if nothing is read anew.
    assert index(place, Wanted(skip_bad=parse_limit("all"))).manifest == found.manifest
    assert (place / "out" / "bad-images.txt").read_text() == lines


def test_what_is_not_used_is_counted_with_the_option_that_would_use_it(tmp_path: Path) -> None:
    put(
        tmp_path / "in", "a.tar", made('a.jpg a.json={"label":1,"x":{"y":"z"}} a.txt=cat ._b.jpg=x b.txt=dog')
    )
    remarks = index(tmp_path).remarks
    assert set(remarks.left_out) == {"2 .txt", "1 .json", "1 hidden file", "1 sample without an image"}
    assert remarks.unused_labels == (
        "1 KEY.json (--labels json:KEY, where KEY is one of label, x.y)",
        "2 KEY.txt (--labels txt)",
    )


def test_an_index_that_is_not_finished_is_named_as_such(place: Path) -> None:
    (place / "in" / "b.tar").write_bytes(b"no tar file")
    with pytest.raises(DataError, match="is not a complete tar file"):
        index(place)
    with pytest.raises(
        DataError, match=r"an index of tar files that is not finished\. Run the same `wgan shards index`"
    ):
        open_directory(place / "out")


def test_an_image_that_has_changed_asks_for_another_index(place: Path) -> None:
    index(place)
    put(
        place / "in",
        "b.tar",
        [(name, picture(9) if "cls" not in name else b"1") for name, _ in pairs(*"cde")],
    )
    data = DataOptions(shards=str(place / "out"), resolution=8)
    with pytest.raises(DataError, match=r"CRC-32 differs .* or run `wgan shards index` again"):
        ShardReader(open_shards(data)).read(np.array([4]))


def test_nothing_of_others_is_changed(place: Path) -> None:
    (place / "out").mkdir()
    (place / "out" / "photo.jpg").write_bytes(picture(1))
    with pytest.raises(ConfigError, match=r"out is not an index of tar files: it holds 'photo\.jpg'"):
        index(place)
    with pytest.raises(ConfigError, match="is a file, and an index is a directory"):
        index_originals([f"{place}/in/*.tar"], place / "out" / "photo.jpg", Wanted())
    with FileLock(place / "busy"):
        (place / "other").mkdir()
        with (
            FileLock(place / "other" / ".indexing"),
            pytest.raises(RunLockedError, match="Another process is indexing"),
        ):
            index_originals([f"{place}/in/*.tar"], place / "other", Wanted())


def test_a_set_that_was_made_by_another_command_is_not_replaced(place: Path) -> None:
    from tests.shards import noise, write

    write(noise(2), place / "set")
    with pytest.raises(ConfigError, match="is not an index of tar files"):
        index_originals([f"{place}/in/*.tar"], place / "set", Wanted())


def test_the_command_says_what_it_has_done(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["shards", "index", f"{place}/in/{{a,b}}.tar", f"{place}/in/c.tar", f"{place}/out"]
    assert main(words) == 0
    assert capsys.readouterr().out.startswith(
        f"indexed {place}/out: 6 images of any size, 3 classes, 3 shards, 0.0 MB"
    )
    put(place / "in", "a.tar", pairs("z"))
    assert main([*words, "--skip-bad", "1%"]) == 0
    assert capsys.readouterr().out.startswith(
        "changed: 1 tar file changed. Runs on the set as it was cannot be resumed"
    )
    assert main(["shards", "check", f"{place}/out"]) == 0
    assert "is valid: 5 images of any size" in capsys.readouterr().out
    assert main([*words, "--remote", "speed=9"]) == 2
    assert main(["shards", "index", f"{place}/in", "--images", "jpg"]) == 2
    assert main(["shards", "index", f"{place}/in/a.tar"]) == 2
    assert main(["shards", "check", f"{place}/in/*.tar"]) == 3
    said = capsys.readouterr().err
    assert "--remote speed=9: expected OPTION=VALUE, with one of the options directory, capacity_gb" in said
    assert f"wgan shards index '{place}/in/*.tar' OUT" in said
    assert f"wgan shards index '{place}/in/a.tar' OUT" in said
    assert f"is a pattern of tar files. Index them, `wgan shards index '{place}/in/*.tar' OUT`" in said


def test_a_record_that_is_damaged_is_read_again(
    place: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    end_before_the_manifest(place, monkeypatch)
    records = sorted(path for path in (place / "out").glob("*.json") if path.name[0] != ".")
    records[0].write_text("{")
    content = json.loads(records[1].read_text())
    records[1].write_text(json.dumps({**content, "shard": {**content["shard"], "index": "../../x"}}))
    read.clear()
    index(place)
    assert sorted(read) == ["a.tar", "b.tar"]
