"""The configs that come with the package: complete, findable by name, and described at their head."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import load_config
from pipeline.errors import ConfigError
from pipeline.presets import Preset, find_config, list_presets, shards_command

PRESETS = list_presets()


def test_each_config_of_the_repository_is_a_preset() -> None:
    files = set((Path(__file__).parents[1] / "configs").rglob("*.yaml"))
    assert {preset.path for preset in PRESETS} == files
    assert len({preset.name for preset in PRESETS}) == len(files), "a name means one preset"


def test_presets_of_published_systems_come_last() -> None:
    folders = [preset.path.parent.name for preset in PRESETS]
    assert folders == sorted(folders)
    assert set(folders) == {"configs", "reference"}


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_a_preset_opens_with_what_it_is_how_to_run_it_and_what_comes(preset: Preset) -> None:
    assert preset.summary.endswith(".")
    make, train, *more = preset.commands
    assert make.startswith("wgan shards make ")
    for command in (train, *more):
        assert command.startswith(f"wgan train {preset.name}")
    assert preset.duration
    assert preset.expect


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_a_preset_is_loaded_by_its_name_outside_a_checkout(
    preset: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(Path(preset.name))
    assert config == load_config(preset.path)
    assert config.name == preset.name, "the run is called like the preset"
    assert config.data.shards in preset.commands[0].split()


def test_a_file_goes_before_a_preset_and_a_directory_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits").mkdir()
    assert find_config(Path("digits")).name == "digits.yaml"
    Path("digits").rmdir()
    Path("digits").write_text("")
    assert find_config(Path("digits")) == Path("digits")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nosuch", r"There is no config nosuch\. Name a YAML file or a preset: digits, mnist, "),
        ("digit", r"There is no config digit\. Did you mean digits or "),
        ("mnist-pg", r"Did you mean mnist-gp or "),
        ("configs/mnist.yaml", r"There is no config configs/mnist\.yaml\. Did you mean mnist\?"),
        ("runs/a", r"runs/a is a directory, not a config\. Did you mean runs/a/config\.yaml\?"),
        ("runs", r"runs is a directory, not a config\. Name a YAML file or a preset: digits"),
        ("x" * 300, r"x cannot be read: File name too long\. Name a YAML file or a preset"),
    ],
)
def test_an_unknown_config_is_refused_with_what_there_is(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/a").mkdir(parents=True)
    Path("runs/a/config.yaml").touch()
    with pytest.raises(ConfigError, match=message):
        find_config(Path(name))


def test_a_preset_knows_the_command_that_makes_its_shards() -> None:
    assert shards_command("data/digits") == "wgan shards make digits data/digits"
    assert shards_command("data/mnist") == "wgan shards make mnist data/mnist"
    assert shards_command("data/faces") == "wgan shards make FOLDER data/faces --resolution 64"
    assert shards_command("data/photos") == "wgan shards make FOLDER data/photos --resolution 64"
    assert shards_command("data/other") is None
