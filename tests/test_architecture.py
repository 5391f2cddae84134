"""The drawing in docs/architecture.md, compared with the contracts that lint-imports checks, and limits of length."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_LINES, LONGEST_FUNCTION, MOST_PARAMETERS = 400, 60, 6


def drawn_layers() -> dict[str, list[str]]:
    """The rows of the drawing from top to bottom, such as "objectives | models"; those of data are indented."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawing = re.search(r"```\n(\+-+\+).*?```", text, re.DOTALL)
    assert drawing is not None
    layers: dict[str, list[str]] = {"pipeline": [], "pipeline.data": []}
    for line in drawing[0].splitlines():
        # The second column, which begins at the second cross, explains the first.
        if line.startswith("| "):
            name = line[2 : drawing[1].index("+", 1)].rstrip()
            layers["pipeline.data" if name.startswith(" ") else "pipeline"].append(name.strip())
    return layers


def test_the_drawing_shows_the_layers_that_lint_imports_checks() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    layers = {part["containers"][0]: part["layers"] for part in contracts if part["type"] == "layers"}
    assert drawn_layers() == layers


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """The names of a function's parameters, without self and cls."""
    names = [argument.arg for argument in ast.walk(function.args) if isinstance(argument, ast.arg)]
    return [name for name in names if name not in ("self", "cls")]


def test_files_functions_and_parameter_lists_are_short() -> None:
    found = []
    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(ROOT)
        if (lines := len(text.splitlines())) > MOST_LINES:
            found.append(f"{name} has {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if (lines := (node.end_lineno or 0) - node.lineno + 1) > LONGEST_FUNCTION:
                found.append(f"{name}: {node.name} has {lines} lines")
            if (count := len(parameters(node))) > MOST_PARAMETERS:
                found.append(f"{name}: {node.name} has {count} parameters")
    assert found == []
