"""The site's settings: docs/*.md as pages, and the API from docstrings.

    python -m sphinx -W docs build/site

Sphinx with MyST is used because both are maintained (MkDocs has had no release since August 2024), read the same
Markdown as GitHub, and fail on a broken link or reference with -W, without a network.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent

project = "wgan-pipeline"
author = "The wgan-pipeline contributors"
copyright = f"2026, {author}"  # noqa: A001 - Sphinx's own name for it

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "wgan-pipeline"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_preserve_defaults = True


def as_rest(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with `code` in backticks: code is marked, and no other sign has a meaning."""
    for place, line in enumerate(lines):
        parts = re.split(r"(`[^`]+`)", line)
        lines[place] = "".join(
            f"`{part}`" if part.startswith("`") else re.sub(r"([*_|\\])", r"\\\1", part) for part in parts
        )


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", as_rest)
