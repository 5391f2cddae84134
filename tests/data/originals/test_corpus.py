"""Tar files as other programs write them: their samples are those of webdataset's own reader, or they are refused."""

from __future__ import annotations

import io
import math
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pipeline
from pipeline.data.format.codecs import Bytes
from pipeline.data.format.shard_set import open_directory
from pipeline.data.originals.index_set import Indexed, Wanted, index_originals
from pipeline.data.originals.opening import open_data
from pipeline.data.originals.tar_index import Asked, _why_unusable
from pipeline.data.reading.reader import ShardReader
from pipeline.data.sources.bad_images import BadLimit, parse_limit
from pipeline.data.sources.labels import AUTO, LabelChoice, parse_label_choice
from pipeline.data.sources.samples import label_in
from pipeline.errors import DataError
from pipeline.option_data import DataOptions
from tests.data.originals.corpus import TARS, Tar

IMAGES = ("jpg", "jpeg", "png", "webp")
ALL = BadLimit(None, 1.0)
ACCEPTED = [name for name, tar in TARS.items() if tar.refused is None]
REFUSED = [name for name, tar in TARS.items() if tar.refused is not None]


def is_visible(name: str) -> bool:
    """What docs/data.md says of hidden files."""
    parts = [part for part in name.split("/") if part not in (".", "..")]
    return not any(part.startswith(".") or part == "__MACOSX" for part in parts)


def read_by_webdataset(path: Path) -> list[dict[str, Any]]:
    """The samples of a tar file by webdataset's own reader."""
    import webdataset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(
            webdataset.WebDataset(
                [os.fspath(path)], shardshuffle=False, select_files=is_visible, empty_check=False
            )
        )


def choice(tar: Tar) -> LabelChoice:
    return AUTO if tar.labels == "auto" else parse_label_choice(tar.labels)


def expected(path: Path, tar: Tar) -> list[tuple[bytes, str | None]]:
    """The image and the label of each of webdataset's samples, as docs/data.md says how they are found."""
    found = []
    for sample in read_by_webdataset(path):
        fields = {name: sample[name] for name in sample if not name.startswith("__")}
        images = [name for name in fields if name.rpartition(".")[2] in IMAGES]
        name = tar.image if tar.image is not None else (images[0] if images else None)
        if name not in fields:
            continue
        text = fields.get(choice(tar).extension or "")
        found.append((fields[name], None if text is None else str(label_in(text, "", choice(tar)))))
    return found


def documented(content: bytes, height: int, width: int) -> Bytes:
    """The pixels that docs/data.md promises for an image file: cropped at the centre, in colour, on white.

    Of a large JPEG every second, fourth or eighth pixel of each side is decoded, if twice the wanted ones are left.
    """
    opened = Image.open(io.BytesIO(content))
    whole, reduction = opened.size, 1
    across = min(whole[0], round(whole[1] * width / height))
    down = min(whole[1], round(whole[0] * height / width))
    if opened.format == "JPEG":
        reduction = max(by for by in (1, 2, 4, 8) if by == 1 or min(across / width, down / height) >= 2 * by)
        # Pillow asks the same library for the smallest size that is not below this one.
        opened.draft(None, (whole[0] // reduction, whole[1] // reduction))
    image: Image.Image = opened
    if "A" in image.mode or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert("RGB")
    left, top = (whole[0] - across) // 2, (whole[1] - down) // 2
    box = [edge / reduction for edge in (left, top, left + across, top + down)]
    # What lies around the part is not seen, but for pixels of which it has a piece.
    x, y = math.floor(box[0]), math.floor(box[1])
    image = image.crop((x, y, math.ceil(box[2]), math.ceil(box[3])))
    if image.size == (width, height):
        return np.asarray(image)
    shrinks = image.width > width or image.height > height
    method = Image.Resampling.LANCZOS if shrinks else Image.Resampling.BICUBIC
    inner = (box[0] - x, box[1] - y, box[2] - x, box[3] - y)
    return np.asarray(image.resize((width, height), method, inner))


def index(path: Path, tar: Tar, skip_bad: BadLimit = parse_limit("0")) -> Indexed:  # noqa: B008
    return index_originals(
        [str(path)], path.parent / "out", Wanted(Asked(choice(tar), tar.image), None, skip_bad)
    )


def ours(out: Path) -> list[tuple[bytes, str | None]]:
    """The images and the names of the labels that an index leads to."""
    shards, found = open_directory(out), list[tuple[bytes, str | None]]()
    for shard in shards.manifest.shards:
        with shards.files.open(shard.name) as file:
            content = file.read()
        for offset, size, label, _ in shards.load_index(shard).tolist():
            name = shards.manifest.classes[label] if label >= 0 else None
            found.append((content[offset : offset + size], name))
    return found


def written(name: str, place: Path) -> Path:
    path = place / "a.tar"
    path.write_bytes(TARS[name].content)
    return path


def test_the_corpus_is_large_enough() -> None:
    assert len(ACCEPTED) >= 40


@pytest.mark.parametrize("name", ACCEPTED)
def test_samples_and_labels_are_those_of_webdatasets_own_reader(name: str, tmp_path: Path) -> None:
    path, tar = written(name, tmp_path), TARS[name]
    if tar.bad:
        with pytest.raises(DataError, match=f"{tar.bad} images? cannot be used, for example .* --skip-bad"):
            index(path, tar)
    manifest = index(path, tar, ALL).manifest
    whole = expected(path, tar)
    found = ours(tmp_path / "out")
    assert len(found) == len(whole) - tar.bad
    assert [sample for sample in whole if sample in found] == found
    assert manifest.unlabelled == (sum(label is None for _, label in found) if manifest.classes else 0)
    bad = (tmp_path / "out" / "bad-images.txt").read_text().splitlines() if tar.bad else []
    assert len(bad) == tar.bad


@pytest.mark.parametrize("size", [(8, 6), (3, 5)])
def test_pixels_are_those_of_the_documented_conversion(size: tuple[int, int], tmp_path: Path) -> None:
    """Of all tar files together, read as training reads them."""
    contents, usual = [], [n for n in ACCEPTED if (TARS[n].labels, TARS[n].image) == ("auto", None)]
    for number, name in enumerate(usual):
        path = tmp_path / f"{number:03d}.tar"
        path.write_bytes(TARS[name].content)
        contents += [content for content, _ in expected(path, TARS[name])]
    index_originals([f"{tmp_path}/*.tar"], tmp_path / "out", Wanted(skip_bad=ALL))
    data = DataOptions(shards=str(tmp_path / "out"), resolution=list(size))
    reader = ShardReader(open_data(data))
    found = reader.read(np.arange(reader.manifest.count)).permute(0, 2, 3, 1).numpy()
    usable = [content for content in contents if _why_unusable(content, len(content)) is None]
    assert len(usable) == len(found) == len(contents) - sum(TARS[name].bad for name in usual)
    for content, pixels in zip(usable, found, strict=True):
        assert np.array_equal(pixels, documented(content, *size))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_why_and_leaves_no_set(name: str, tmp_path: Path) -> None:
    path, tar = written(name, tmp_path), TARS[name]
    with pytest.raises(DataError, match=str(tar.refused)) as refusal:
        index(path, tar, ALL)
    assert str(path) in str(refusal.value)
    assert str(refusal.value).isprintable()
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_all_of_them_are_one_set(tmp_path: Path) -> None:
    usual = [n for n in ACCEPTED if (TARS[n].labels, TARS[n].image, TARS[n].bad) == ("auto", None, 0)]
    for number, name in enumerate(usual):
        (tmp_path / f"{number:03d}.tar").write_bytes(TARS[name].content)
    index_originals([f"{tmp_path}/{{000..{len(usual) - 1:03d}}}.tar"], tmp_path / "out", Wanted())
    whole = [
        sample for n, name in enumerate(usual) for sample in expected(tmp_path / f"{n:03d}.tar", TARS[name])
    ]
    assert ours(tmp_path / "out") == whole


@pytest.mark.parametrize("name", ["img2dataset", "tar c .", "macOS, in folders", "timm"])
def test_as_webdataset_gives_the_same_samples(name: str, tmp_path: Path) -> None:
    path = written(name, tmp_path)
    index(path, TARS[name])
    fields = {"jpg", "cls", "json", "txt"}

    def plain(samples: Any) -> list[dict[str, Any]]:
        return [{name: sample[name] for name in sample if name in fields} for sample in samples]

    assert plain(pipeline.as_webdataset(tmp_path / "out")) == plain(read_by_webdataset(path))


def test_the_index_has_16_bytes_for_a_sample(tmp_path: Path) -> None:
    manifest = index(written("timm", tmp_path), TARS["timm"]).manifest
    (shard,) = manifest.shards
    assert (tmp_path / "out" / shard.index).stat().st_size == 24 + 16 * 3
    assert np.array_equal(open_directory(tmp_path / "out").load_index(shard)[:, 2], [0, 1, 2])
