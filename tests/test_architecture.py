"""The drawing in docs/architecture.md, compared with the contracts that lint-imports checks."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


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
