"""What the wheel holds: the packages, and configs/ as pipeline/configs, where an installed `wgan` finds its presets.

All else is in pyproject.toml, which has no way to add one folder to the packages that are found.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["pipeline*"]), "pipeline.configs"],
    package_dir={"pipeline.configs": "configs"},
    package_data={
        "pipeline": ["py.typed", "commands/report.html"],
        "pipeline.configs": ["*.yaml", "reference/*.yaml"],
    },
)
