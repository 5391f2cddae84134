"""Damaged, foreign and hostile checkpoints: found, refused, and never followed or run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import CheckpointError
from pipeline.run.checkpoint import Checkpoint, find_defect, newest_valid, prune, save_checkpoint
from tests.run.checkpoints import FACTS, FILES, groups, names, save


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def replace_by_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "two bytes short": lambda path: os.truncate(path, path.stat().st_size - 2),
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a byte longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "first byte flipped": lambda path: flip(path, 0),
    "middle byte flipped": lambda path: flip(path, path.stat().st_size // 2),
    "deleted": lambda path: path.unlink(),
    "a directory": replace_by_a_directory,
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_found_and_the_earlier_checkpoint_is_used(
    tmp_path: Path, file: str, damage: str
) -> None:
    older, newer = save(tmp_path, 1, 2)
    DAMAGES[damage](newer.path / file)
    defect = find_defect(newer)
    assert defect is not None
    assert str(newer.path) in defect
    assert newest_valid(tmp_path) == (older, [defect])


def test_a_flipped_byte_anywhere_in_the_manifest_is_found(tmp_path: Path) -> None:
    (checkpoint,) = save(tmp_path, 1)
    path = checkpoint.path / "manifest.json"
    for place in range(0, path.stat().st_size, 5):
        flip(path, place)
        assert find_defect(checkpoint) is not None, place
        flip(path, place)
    assert find_defect(checkpoint) is None


def rewrite(checkpoint: Checkpoint, **changes: Any) -> None:
    path = checkpoint.path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "wgan-checkpoint/2"}, "has the format 'wgan-checkpoint/2'; this version reads"),
        ({"format": None}, "has the format None"),
        ({"step": 3}, "contains step 3"),
        ({"files": None}, "manifest.json is damaged"),
        ({"files": {}}, "does not list generator.safetensors, state.json"),
        ({"files": {"critic.safetensors": 3}}, "manifest.json is damaged"),
        ({"files": ["critic.safetensors"]}, "manifest.json is damaged"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    older, newer = save(tmp_path, 1, 2)
    rewrite(newer, **changes)
    found, (defect,) = newest_valid(tmp_path)
    assert found == older
    assert message in defect


def test_a_checkpoint_with_the_name_of_another_step_is_not_used(tmp_path: Path) -> None:
    older, newer = save(tmp_path, 1, 2)
    shutil.copytree(newer.path, tmp_path / "step_00000009")
    shutil.rmtree(newer.path)
    found, (defect,) = newest_valid(tmp_path)
    assert found == older
    assert "step_00000009 contains step 2" in defect


def test_a_manifest_names_no_file_outside_its_checkpoint(tmp_path: Path) -> None:
    (checkpoint,) = save(tmp_path, 1)
    (tmp_path / "secret").write_text("x")
    manifest = json.loads((checkpoint.path / "manifest.json").read_text())
    rewrite(checkpoint, files=manifest["files"] | {"../secret": {"bytes": 1, "sha256": "x"}})
    defect = find_defect(checkpoint)
    assert defect is not None
    assert f"{checkpoint.path / 'manifest.json'} is damaged (files.../secret" in defect


@pytest.mark.parametrize("file", ["critic.safetensors", "manifest.json"])
def test_a_named_pipe_in_the_place_of_a_file_is_a_defect_and_not_waited_for(
    tmp_path: Path, file: str
) -> None:
    (checkpoint,) = save(tmp_path, 1)
    (checkpoint.path / file).unlink()
    os.mkfifo(checkpoint.path / file)
    assert (
        find_defect(checkpoint) == f"{checkpoint.path / file} cannot be used: it is a named pipe, not a file"
    )
    os.mkfifo(checkpoint.path / "x.safetensors")
    with pytest.raises(CheckpointError, match="it is a named pipe"):
        checkpoint.tensors("x")


def test_links_among_the_checkpoints_are_removed_and_never_followed(tmp_path: Path) -> None:
    outside, directory = tmp_path / "outside", tmp_path / "checkpoints"
    directory.mkdir()
    outside.mkdir()
    (outside / "precious").write_text("precious")
    for name in ("step_00000001", ".tmp_step_00000002", ".tmp_step_00000003", "step_00000003"):
        (directory / name).symlink_to(outside)
    save(directory, 2, 3)
    assert names(directory) == ["step_00000001", "step_00000002", "step_00000003", "step_00000003.damaged-1"]
    prune(directory, keep_last=1, keep_every=None)
    assert names(directory) == ["step_00000003", "step_00000003.damaged-1"]
    assert names(outside) == ["precious"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counters": {"step": 3, "position": -1}}, "counters.position is -1: input should be greater than"),
        ({"counters": {"step": 3.5, "position": 1}}, "counters.step is 3.5: input should be a valid integer"),
        ({"window": {"names": "ab", "count": 1}}, "window.names is 'ab': input should be a valid"),
        (
            {"identity": {"images": [1, 8, 10**9], "data.manifest": ""}},
            r"identity.images\[2\] is 1000000000: ",
        ),
        ({"identity": {}}, "identity.images is missing"),
        ({"recorder": None}, "recorder is None"),
        ({"scaler": {"scale": "x"}}, "scaler.scale"),
        ({"best": {"metric": "fid"}}, "best.basis is missing"),
    ],
)
def test_a_state_of_other_content_is_refused_with_its_place(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    checkpoint = save_checkpoint(tmp_path, 3, groups(), FACTS | change)
    with pytest.raises(CheckpointError, match=rf"state\.json cannot be read: {message}"):
        checkpoint.resumable_facts()


def test_all_damaged_gives_none_and_every_defect_newest_first(tmp_path: Path) -> None:
    for checkpoint in save(tmp_path, 1, 2, 3):
        (checkpoint.path / "critic.safetensors").unlink()
    found, defects = newest_valid(tmp_path)
    assert found is None
    assert [f"step_0000000{step}" in defect for step, defect in zip((3, 2, 1), defects, strict=True)] == [
        True
    ] * 3


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_pickle_in_place_of_tensors_is_refused_and_never_run(tmp_path: Path, kind: str) -> None:
    (checkpoint,) = save(tmp_path, 1)
    path, canary = checkpoint.path / "critic.safetensors", tmp_path / "canary"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Canary(canary)))
    else:
        torch.save({"weight": Canary(canary)}, path)
    with pytest.raises(CheckpointError, match=r"critic\.safetensors cannot be read"):
        checkpoint.tensors("critic")
    assert find_defect(checkpoint) is not None
    assert not canary.exists()
    pickle.loads(pickle.dumps(Canary(canary)))
    assert canary.exists(), "the canary would not have sung"
