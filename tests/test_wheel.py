"""A wheel, installed into an empty directory and used outside any checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources, so that a build leaves nothing in the checkout, and without a network."""
    directory = tmp_path_factory.mktemp("wheel")
    sources = directory / "sources"
    for name in ("pipeline", "configs"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources / name)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", directory, sources)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    _pip("install", "--no-deps", "--no-index", "--target", target, wheel)
    return target


def _pip(*words: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def run(installed: Path, directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the installed `wgan` in a directory. Only its dependencies come from this environment."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment["PYTHONPATH"] = str(installed)
    command = [sys.executable, str(installed / "bin" / "wgan"), *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=directory, env=environment
    )


def test_the_wheel_holds_every_file_of_the_package_and_the_presets(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "pipeline").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    wanted |= {f"pipeline/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert packed == wanted


def test_an_installed_wgan_comes_from_the_wheel_and_says_its_version(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "--version")
    assert re.fullmatch(r"wgan \d+\.\d+\.\d+ \(torch \d+\.\d+.*\)\n", done.stdout), done.stderr
    found = run(installed, tmp_path, "train", "nosuch").stderr
    assert "There is no config nosuch. Name a YAML file or a preset: digits, mnist, " in found
    code = "import pipeline, pipeline.presets as p; print(pipeline.__file__, p.find_config(p.Path('digits')))"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    shown = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=tmp_path, env=environment)
    assert all(path.startswith(str(installed)) for path in shown.split())


def test_an_installed_wgan_lists_and_prints_its_presets(installed: Path, tmp_path: Path) -> None:
    listed = run(installed, tmp_path, "configs").stdout
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert f"\n  wgan train {path.stem}" in listed
        assert run(installed, tmp_path, "configs", path.stem).stdout == path.read_text()


def test_an_installed_wgan_makes_shards_trains_a_preset_and_reports(installed: Path, tmp_path: Path) -> None:
    words = ("schedule.steps=2", "monitor.log_every=1", "monitor.sample_every=1", "checkpoint.every=2")
    refused = run(installed, tmp_path, "train", "digits", *words)
    assert refused.returncode == 3
    assert (
        "The shard directory data/digits does not exist. Make the shards with `wgan shards make digits data/digits`"
        in (refused.stderr)
    )
    made = run(installed, tmp_path, "shards", "make", "digits", "data/digits")
    assert made.returncode == 0, made.stderr
    trained = run(installed, tmp_path, "train", "digits", *words)
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "runs" / "digits" / "DONE").exists()
    reported = run(installed, tmp_path, "report", "runs/digits")
    assert reported.stdout.startswith("runs/digits/report.html ("), reported.stderr
    assert "<svg" in (tmp_path / "runs" / "digits" / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--help"], 0, "configs"),
        (["train", "--help"], 0, "wgan train digits"),
        (["shards", "make", "--help"], 0, "sources:"),
        (["train", "digits", "schedule.step=5"], 2, "did you mean schedule.steps?"),
        (["report", "runs/none"], 2, "runs/none is not a run directory"),
        (["report"], 2, "the following arguments are required: RUN"),
    ],
)
def test_help_and_errors_of_an_installed_wgan_make_sense(
    installed: Path, tmp_path: Path, words: list[str], code: int, said: str
) -> None:
    done = run(installed, tmp_path, *words)
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
