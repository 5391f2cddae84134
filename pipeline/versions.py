"""The versions of what a run is made with, without importing any of it."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "torchvision", "accelerate", "tensorboard", "numpy", "wgan-pipeline")


def find_versions() -> dict[str, str]:
    """The platform, Python, the git revision and the packages, each with its version or what is wrong with it."""
    found = {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "git revision": find_revision() or "none, this is an installed package",
    }
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing: install wgan-pipeline again"
    return found


def find_revision() -> str | None:
    """The git revision of this code; None if it is not a checkout."""
    here = Path(__file__).parents[1]
    result = (
        subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
        if (here / ".git").exists()
        else None
    )
    return result.stdout.strip() if result and result.returncode == 0 else None
