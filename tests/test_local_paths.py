"""Paths in a config: the home directory is meant by `~`, and no directory is ever called "$HOME" or "s3:"."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import dump_config
from tests.configs import SMALL, load, mistakes

PATHS = (
    "run_root",
    "data.shards",
    "init_from.generator",
    "init_from.critic",
    "quality.classifier",
    "quality.inception",
)


def test_the_home_directory_is_meant_by_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = load(tmp_path, SMALL, *(f"{name}=~/a" for name in PATHS))
    found = {config.run_root, config.data.shards, config.init_from.generator, config.init_from.critic}
    assert found | {config.quality.classifier, config.quality.inception} == {"/home/me/a"}
    assert "run_root: /home/me/a\n" in dump_config(config)
    assert load(tmp_path, SMALL, "run_root=a~b").run_root == "a~b"


@pytest.mark.parametrize("name", [*PATHS, "data.remote.directory"])
@pytest.mark.parametrize("path", ["$SCRATCH/a", "a/${USER}", "$HOME"])
def test_a_variable_of_the_shell_is_refused(tmp_path: Path, name: str, path: str) -> None:
    (mistake,) = mistakes(tmp_path, SMALL, f"{name}={path}")[1:]
    assert mistake.startswith(
        f"command line: {name}: invalid value '{path}': expected a path without variables, because $"
    )


@pytest.mark.parametrize(
    "name", [name for name in (*PATHS, "data.remote.directory") if name != "data.shards"]
)
@pytest.mark.parametrize("path", ["s3://bucket/a", "https://host/a", "file:///a"])
def test_a_url_is_refused_where_only_a_local_path_works(tmp_path: Path, name: str, path: str) -> None:
    (mistake,) = mistakes(tmp_path, SMALL, f"{name}={path}")[1:]
    assert mistake.startswith(
        f"command line: {name}: invalid value '{path}': expected a path of this machine's file systems, and this is a "
    )


def test_shards_may_be_at_a_url_and_names_may_hold_dollars(tmp_path: Path) -> None:
    assert load(tmp_path, SMALL, "data.shards=s3://bucket/a").data.shards == "s3://bucket/a"
    assert load(tmp_path, SMALL, "run_root=for $5").run_root == "for $5"


def test_an_unknown_home_directory_is_not_made_as_a_folder(tmp_path: Path) -> None:
    (mistake,) = mistakes(tmp_path, SMALL, "run_root=~nobody-has-this-name/a")[1:]
    assert "expected a path of which the home directory is known" in mistake
