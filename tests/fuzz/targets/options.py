"""Configs as YAML, and `section.option=value` arguments: those of a user, and those found in a run directory."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import dump_config, load_config
from tests.configs import FULL, SMALL
from tests.fuzz.engine import target

ARGUMENTS = """\
name=other
seed=7
data.classes=[3, cat, 010]
data={shards: elsewhere, cache: host}
model.name=resnet
schedule.bursts={every: 100}
objective.name=hinge
critic_optimizer.lr=1e-3
"""


def config_seeds() -> list[bytes]:
    return [text.encode() for text in (SMALL, FULL, "data: {classes: [1, no, 010], shards: 'a b'}\n" + SMALL)]


@target("config", config_seeds)
def load_a_config(data: bytes, directory: Path) -> None:
    """What is loaded can be written, and is read back as the same options."""
    path = directory / "config.yaml"
    path.write_bytes(data)
    config = load_config(path, is_trusted=False)
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path, is_trusted=False) == config


@target("arguments", lambda: [ARGUMENTS.encode(), *(line.encode() for line in ARGUMENTS.splitlines())])
def override_options(data: bytes, directory: Path) -> None:
    path = directory / "config.yaml"
    path.write_text(FULL, encoding="utf-8")
    load_config(path, data.decode(errors="surrogateescape").splitlines(), is_trusted=False)
