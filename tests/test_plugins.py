"""Parts of a user's own, by import path: found, trusted only on request, and with their options checked."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import plugins
from pipeline.errors import ConfigError
from pipeline.option_plugins import options_type
from pipeline.options import OwnNetworkOptions
from pipeline.plugins import NETWORK, is_import_path, load_plugin

MODULE = """\
from pipeline.option_plugins import options_type
from pipeline.options import OwnNetworkOptions

class Pair:
    Generator = Critic = None

    class Options(OwnNetworkOptions):
        width: int = 4

class Plain:
    Generator = Critic = None
    Options = dict
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of the working directory that nobody else has imported."""
    name = f"own_parts_{abs(hash(tmp_path)) % 10**8}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(plugins, "_asked_for", set())
    yield name
    sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("package.module:Name", True),
        ("module:Name", True),
        ("dcgan", False),
        ("package.module", False),
        ("../up:Name", False),
        ("a.b:c.d", False),
        ("hf:user/name", False),
        (7, False),
    ],
)
def test_import_paths_are_told_from_names(name: object, expected: bool) -> None:
    assert is_import_path(name) is expected


def test_a_plugin_of_the_working_directory_is_found(module: str) -> None:
    assert load_plugin(NETWORK, f"{module}:Pair", is_trusted=True).__name__ == "Pair"


def test_a_file_in_the_working_directory_shadows_no_installed_module(tmp_path: Path) -> None:
    (tmp_path / "colorsys.py").write_text("class Evil: pass")
    sys.modules.pop("colorsys", None)
    with pytest.raises(ConfigError, match="colorsys defines no Evil"):
        load_plugin(NETWORK, "colorsys:Evil", is_trusted=True)


def test_an_untrusted_plugin_is_not_imported(module: str) -> None:
    with pytest.raises(ConfigError, match=f"WGAN_PLUGINS={module}"):
        load_plugin(NETWORK, f"{module}:Pair")
    assert module not in sys.modules


def test_the_environment_allows_a_package(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WGAN_PLUGINS", f"other, {module}")
    assert load_plugin(NETWORK, f"{module}:Pair").__name__ == "Pair"


def test_a_plugin_asked_for_once_stays_trusted(module: str) -> None:
    load_plugin(NETWORK, f"{module}:Pair", is_trusted=True)
    assert load_plugin(NETWORK, f"{module}:Pair").__name__ == "Pair"


def test_a_missing_name_lists_what_the_module_defines(module: str) -> None:
    with pytest.raises(ConfigError, match=r"defines no Pear; it defines Pair, Plain\."):
        load_plugin(NETWORK, f"{module}:Pear", is_trusted=True)


def test_an_import_that_fails_says_why(tmp_path: Path, module: str) -> None:
    (tmp_path / f"{module}.py").write_text("import no_such_module_at_all")
    with pytest.raises(ConfigError, match="ModuleNotFoundError: No module named 'no_such_module_at_all'"):
        load_plugin(NETWORK, f"{module}:Pair", is_trusted=True)


def test_the_options_of_a_plugin_have_its_path_as_name(module: str) -> None:
    options = options_type("model", f"{module}:Pair", is_trusted=True)
    assert issubclass(options, OwnNetworkOptions)
    found = options.model_validate({"name": f"{module}:Pair", "width": 8})
    assert found.model_dump()["width"] == 8
    with pytest.raises(ValueError, match="Input should be"):
        options.model_validate({"name": "dcgan"})


def test_options_of_another_kind_are_refused(module: str) -> None:
    with pytest.raises(ConfigError, match=r"must be a subclass of pipeline\.options\.OwnNetworkOptions"):
        options_type("model", f"{module}:Plain", is_trusted=True)
