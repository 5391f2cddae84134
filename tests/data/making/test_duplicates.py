"""Images with equal pixels: listed by their names in the source and, if wanted, dropped."""

from __future__ import annotations

import io
import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data.format.codecs import encode
from pipeline.data.inspecting.check import check_shards
from pipeline.data.making import duplicates
from pipeline.data.making.convert import Conversion
from pipeline.data.making.plan import Part, Plan, plan_shards
from pipeline.data.making.shard_writer import write_record
from pipeline.data.making.writer import find_finished, make_shards, merge_parts
from pipeline.errors import ConfigError
from tests.data.making.sets import contents
from tests.shards import Given, noise, reader


def as_file(pixels: Any, kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def photos() -> Given:
    """Ten images; 3 and 9 are copies of 1 and 8 of 0, in other formats, and 8 has another label."""
    pixels = noise(10).pictures
    files = [as_file(image, "PNG") for image in pixels]
    files[3] = as_file(pixels[1], "BMP")
    files[9] = encode(pixels[1], "png", 0)  # type: ignore[arg-type]
    files[8] = as_file(pixels[0], "TIFF")
    return Given(files, [0, 1, 0, 1, 0, 1, 0, 1, 1, 1], ("a", "b"))


def plan(drops: bool = False, encoding: str = "png") -> Plan:
    conversion = Conversion((8, 8), 3, encoding=encoding)  # type: ignore[arg-type]
    return plan_shards(photos(), conversion, samples_per_shard=4, drops_duplicates=drops)


LISTED = "../0\t../8\n../1\t../3\n../1\t../9\n"


@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_copies_are_listed_whatever_their_format_is(encoding: str, tmp_path: Path) -> None:
    manifest = make_shards(plan(encoding=encoding), tmp_path)
    assert manifest is not None
    assert manifest.count == 10
    assert (tmp_path / "duplicates.txt").read_text() == LISTED


@pytest.mark.parametrize("encoding", ["png", "raw"])
def test_dropped_copies_leave_a_valid_set_of_the_first_ones(encoding: str, tmp_path: Path) -> None:
    manifest = make_shards(plan(drops=True, encoding=encoding), tmp_path)
    assert manifest is not None
    # The last shard held only copies.
    assert [(shard.name, shard.count) for shard in manifest.shards] == [("000000.tar", 3), ("000001.tar", 4)]
    assert (tmp_path / "duplicates.txt").read_text() == LISTED
    report = check_shards(tmp_path)
    assert (report.verdict, report.left_out) == ("valid", ())
    images = reader(tmp_path).read(np.arange(7)).permute(0, 2, 3, 1).numpy()
    assert (images == np.asarray(noise(10).pictures)[[0, 1, 2, 4, 5, 6, 7]]).all()
    assert reader(tmp_path).labels(np.arange(7)).tolist() == [0, 1, 0, 0, 1, 0, 1]
    assert find_finished(tmp_path, plan(drops=True, encoding=encoding)) == manifest
    with pytest.raises(ConfigError, match="different shards: their drop_duplicates is True, not None"):
        find_finished(tmp_path, plan(encoding=encoding))


def test_dropping_that_was_interrupted_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_shards(plan(drops=True), tmp_path / "whole")
    for calls in itertools.count():
        left = itertools.count(calls, -1)

        def fail(path: Path, record: Any, left: Any = left) -> None:
            if next(left) == 0:
                raise KeyboardInterrupt
            write_record(path, record)

        with monkeypatch.context() as patched:
            patched.setattr(duplicates, "write_record", fail)
            try:
                make_shards(plan(drops=True), tmp_path / "broken")
                break
            except KeyboardInterrupt:
                assert not (tmp_path / "broken" / "manifest.json").exists()
        make_shards(plan(drops=True), tmp_path / "broken")
        assert contents(tmp_path / "broken") == contents(tmp_path / "whole")
        shutil.rmtree(tmp_path / "broken")
    assert calls == 2  # two shards were written again


def test_parts_that_are_merged_drop_copies_of_each_other(tmp_path: Path) -> None:
    make_shards(plan(drops=True), tmp_path / "whole")
    for number in (1, 2):
        make_shards(plan(drops=True), tmp_path / f"part{number}", part=Part(number, 2))
    before = contents(tmp_path / "part2")
    merge_parts(tmp_path / "merged", [tmp_path / "part1", tmp_path / "part2"])
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")
    assert contents(tmp_path / "part2") == before


def test_similar_images_are_no_copies(tmp_path: Path) -> None:
    pixels = np.repeat(np.asarray(noise(1).pictures), 3, axis=0)
    pixels[1, 0, 0, 0] ^= 1  # outside of the rows that are compared first
    make_shards(plan_shards(Given(pixels), Conversion((8, 8), 3)), tmp_path)
    assert (tmp_path / "duplicates.txt").read_text() == "../0\t../2\n"


@pytest.mark.parametrize("drops", [False, True])
def test_images_of_several_frames_are_listed_unless_they_are_dropped(drops: bool, tmp_path: Path) -> None:
    pixels: Any = noise(3).pictures
    stack = io.BytesIO()
    Image.fromarray(pixels[0]).save(stack, "TIFF", save_all=True, append_images=[Image.fromarray(pixels[1])])
    files = [stack.getvalue(), as_file(pixels[2], "PNG"), stack.getvalue()]
    make_shards(
        plan_shards(Given(files, [0, 0, 0], ("a",)), Conversion((8, 8), 3), drops_duplicates=drops), tmp_path
    )
    listed = (tmp_path / "first-frames.txt").read_text().splitlines()
    assert listed == (["../0"] if drops else ["../0", "../2"])
    assert check_shards(tmp_path).left_out == ()
