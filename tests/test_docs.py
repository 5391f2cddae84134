"""The documentation agrees with the code: links, options, tags, alarms, metrics, codes, commands and modules."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipeline import errors, unread_output
from pipeline.cli import _parse
from pipeline.data.format import manifest
from pipeline.metric_table import METRICS
from pipeline.monitor.alarms import ALARM_RULES
from pipeline.option_fields import fields
from pipeline.options import Config
from pipeline.quality.features import classifier
from pipeline.run import checkpoint, generator

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pipeline"
DOCS = ROOT / "docs"
PAGES = [
    page
    for page in (*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md")))
    if not page.is_relative_to(DOCS / "_build")
]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
OPTIONS = {".".join(path) for path, _ in fields(Config)}
GROUPS = {name.rsplit(".", depth)[0] for name in OPTIONS for depth in range(1, name.count(".") + 1)}
SECTIONS = {name.partition(".")[0] for name in OPTIONS if "." in name}
TAG_PREFIXES = ("wasserstein", "critic", "generator", "optimizer", "speed", "memory")
TAG = re.compile(rf"(?:{'|'.join(TAG_PREFIXES)})/[a-z_]+")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def code_blocks(page: Path) -> Iterator[str]:
    """The fenced blocks of a page."""
    yield from re.findall(r"^```[^\n]*\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)


def inline_code(page: Path) -> Iterator[str]:
    outside = re.sub(r"^```.*?^```", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    yield from (" ".join(code.split()) for code in re.findall(r"`([^`]+)`", outside))


def section(page: Path, heading: str) -> str:
    """The text below a heading, up to the next one of the same level."""
    return re.split(rf"^## {heading}$", text_of(page), flags=re.MULTILINE)[1].split("\n## ")[0]


def first_column(text: str) -> list[str]:
    """The code in the first cells of a text's tables."""
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def heading_ids(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_and_image_of_a_page_exists(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", text_of(page), flags=re.M | re.S))
    broken = []
    for link in links:
        path, _, anchor = link.partition("#")
        target = page if not path else page.parent / path
        if re.match(r"[a-z]+:", link):
            continue
        if not target.exists() or (anchor and anchor not in heading_ids(target)):
            broken.append(link)
    assert broken == []


def options_named_in(text: str) -> set[str]:
    """Words such as schedule.steps, without the names of files and modules."""
    names = re.findall(rf"(?<![\w./-])(?:{'|'.join(SECTIONS)})\.[a-z_]+(?:\.[a-z_]+)*(?![\w(])", text)
    return {
        name for name in names if name.split(".")[-1] not in ("md", "py", "yaml", "json", "npz", "zip", "tar")
    }


@pytest.mark.parametrize("page", [*PAGES, *CONFIGS], ids=name_of)
def test_every_option_that_is_named_exists(page: Path) -> None:
    assert options_named_in(text_of(page)) - OPTIONS - GROUPS == set()


def test_the_options_of_the_readme_are_found() -> None:
    named = options_named_in(text_of(ROOT / "README.md"))
    assert {"schedule.global_batch", "init_from.generator", "data.classes"} <= named


def test_the_exit_codes_of_the_docs_are_those_of_the_errors() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {kind.exit_code for kind in kinds if issubclass(kind, errors.PipelineError)}
    documented = re.findall(r"^\| (\d+) \|", section(DOCS / "distributed.md", "Exit codes"), re.MULTILINE)
    # 0 is success; 130 and 141 are what a shell reports of commands that Ctrl-C or an unread pipe has ended.
    assert sorted(map(int, documented)) == sorted(codes | {0, 130, unread_output.EXIT_CODE})


def test_the_alarms_of_the_docs_are_those_of_the_code() -> None:
    documented = first_column(section(DOCS / "monitoring.md", "Alarms"))
    assert sorted(documented) == sorted(rule.name for rule in ALARM_RULES)


def test_the_budgets_of_the_docs_are_those_of_the_code() -> None:
    rows = re.findall(
        r"^\| .+ \| (.+) \| `([a-z_.]+)\.([A-Z_]+)` \|$", section(DOCS / "security.md", "Budgets"), re.M
    )
    assert len(rows) > 30
    for value, module, constant in rows:
        found = getattr(importlib.import_module(module), constant)
        units = {f"{found:,}"} if isinstance(found, int) else {f"{found:g} s"}
        if isinstance(found, int):
            units |= {
                f"{found >> power:,} {unit}"
                for power, unit in ((10, "KiB"), (20, "MiB"), (30, "GiB"))
                if found % (1 << power) == 0
            }
        assert value in units, f"{module}.{constant}"


def test_the_metrics_of_the_docs_are_those_of_the_table() -> None:
    documented = first_column(section(DOCS / "quality.md", "Metrics"))
    assert sorted(documented) == sorted(METRICS)


def tags_in(module: Path) -> tuple[set[str], set[str]]:
    """The tags that a module names as they are, and those that it puts together, as regular expressions."""
    nodes = list(ast.walk(ast.parse(text_of(module))))
    composed = [node for node in nodes if isinstance(node, ast.JoinedStr)]
    parts = {id(part) for node in composed for part in node.values}
    named = {str(node.value) for node in nodes if isinstance(node, ast.Constant) and id(node) not in parts}
    patterns = {
        "".join(
            re.escape(str(part.value)) if isinstance(part, ast.Constant) else "[a-z_]+"
            for part in node.values
        )
        for node in composed
    }
    prefixes = tuple(f"{prefix}/" for prefix in TAG_PREFIXES)
    return {name for name in named if TAG.fullmatch(name)}, {
        p for p in patterns if p.startswith(prefixes) and p.count("/") == 1
    }


def test_every_tag_of_the_docs_is_logged_and_every_logged_one_documented() -> None:
    found = [tags_in(module) for module in PACKAGE.rglob("*.py")]
    logged, patterns = (set().union(*sets) for sets in zip(*found, strict=True))
    pages = (DOCS / "monitoring.md", DOCS / "objectives.md")
    documented = {code for page in pages for code in inline_code(page) if TAG.fullmatch(code)}
    composed = {tag for tag in documented if any(re.fullmatch(pattern, tag) for pattern in patterns)}
    assert documented - composed == logged - composed
    assert [p for p in patterns if not any(re.fullmatch(p, tag) for tag in composed)] == []


def test_the_changelog_names_every_format() -> None:
    formats = {module.FORMAT for module in (checkpoint, generator, manifest, classifier)}
    assert formats <= set(inline_code(ROOT / "CHANGELOG.md"))


def without_placeholders(command: str) -> str:
    """A command as a person would type it: 2 for N and STEP, without the remark after it."""
    return re.sub(r"\b(N|STEP)\b", "2", re.split(r"\s{3,}\(", command)[0])


def commands_of(page: Path) -> Iterator[str]:
    for block in code_blocks(page):
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"(?:[A-Z_]+=\S+ )?wgan ", line):
                yield without_placeholders(line[line.index("wgan ") :])
    for code in inline_code(page):
        if code.startswith("wgan ") and "..." not in code:
            yield without_placeholders(code)


def parse(command: str) -> argparse.Namespace:
    """Parse a command with the real parser. The name of a command alone must be one that has help."""
    words = shlex.split(command, comments=True)[1:]
    is_name = all(re.fullmatch("[a-z]+", word) for word in words)
    try:
        return _parse([*words, "--help"] if is_name else words)
    except SystemExit as ended:
        if ended.code != 0:
            pytest.fail(f"not a command: {command}")
        return argparse.Namespace(overrides=[])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_wgan_command_of_a_page_can_be_parsed(page: Path) -> None:
    for command in commands_of(page):
        overrides = getattr(parse(command), "overrides", [])
        assert {word.partition("=")[0] for word in overrides} <= OPTIONS, command


def test_commands_of_the_readme_are_found() -> None:
    assert len(list(commands_of(ROOT / "README.md"))) >= 15


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_script_that_a_page_runs_exists(page: Path) -> None:
    scripts = re.findall(
        r"(?:bash|python|sbatch) (?:--\S+ \S+ )*((?:launch|benchmarks)/\S+\.\w+)", text_of(page)
    )
    assert [script for script in scripts if not (ROOT / script).is_file()] == []


def test_every_page_is_linked_from_the_readme() -> None:
    generated = {"index", "api", "contributing", "changelog"}
    pages = {page.name for page in DOCS.glob("*.md") if page.stem not in generated}
    assert {page for page in pages if f"](docs/{page})" not in text_of(ROOT / "README.md")} == set()


def test_pre_commit_runs_the_checks_of_the_test_command() -> None:
    hooks = yaml.safe_load(text_of(ROOT / ".pre-commit-config.yaml"))["repos"][0]["hooks"]
    script = text_of(ROOT / "launch" / "test.sh").splitlines()
    checks = [line.split(" >")[0] for line in script if re.match("ruff|mypy|lint-imports", line)]
    assert [hook["entry"] for hook in hooks] == checks


def test_ci_runs_every_check_on_each_python_that_is_supported() -> None:
    job = yaml.safe_load(text_of(ROOT / ".github" / "workflows" / "ci.yml"))["jobs"]["checks"]
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    assert job["steps"][-1] == {"run": "bash .ci/run"}
    assert f">={job['strategy']['matrix']['python'][0]}" == project["requires-python"]


def test_the_citation_has_the_version_and_licence_of_the_project() -> None:
    citation = yaml.safe_load(text_of(ROOT / "CITATION.cff"))
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])


def test_the_issue_form_asks_for_the_output_of_the_doctor() -> None:
    form = yaml.safe_load(text_of(ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml"))
    asked = [part for part in form["body"] if "wgan doctor" in part["attributes"].get("label", "")]
    assert [part["validations"]["required"] for part in asked] == [True]


def test_every_module_of_the_architecture_page_exists() -> None:
    text = section(DOCS / "architecture.md", "Where things are")
    modules = {path.stem for path in PACKAGE.rglob("*.py")} | {path.name for path in PACKAGE.rglob("*.py")}
    named = {code for code in re.findall(r"`([^`\s]+)`", text) if re.fullmatch(r"[a-z_]+(\.py)?", code)}
    assert named - modules == set()
    folders = {code.strip("/") for code in re.findall(r"`([a-z_/]+/)`", text)}
    assert {folder for folder in folders if not list(ROOT.rglob(folder))} == set()


def test_the_architecture_page_lists_every_module_and_folder() -> None:
    text = section(DOCS / "architecture.md", "Where things are")
    missing = [
        path.name for path in PACKAGE.glob("*.py") if path.stem != "__init__" and f"`{path.name}`" not in text
    ]
    tables = re.split(r"^\| `(\w+)/` \| \|$", text, flags=re.MULTILINE)
    listed = dict(zip(tables[1::2], tables[2::2], strict=True))
    for folder in (path.parent for path in PACKAGE.glob("*/__init__.py")):
        if f"`{folder.name}/`" not in text:
            missing.append(f"{folder.name}/")
        rows = listed.get(folder.name, "")
        if folder.name != "data" and rows:
            modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
            missing += [f"{folder.name}/{name}" for name in sorted(modules - set(first_column(rows)))]
    assert missing == []
