"""Configs with random changes: each is read, or refused with a ConfigError."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import dump_config
from pipeline.errors import ConfigError
from tests.configs import FULL, load


def test_a_mutated_file_is_read_or_refused_with_a_config_error(tmp_path: Path) -> None:
    dice = random.Random(0)
    alphabet = ":-[]{}&*!#|>'\"%@`?,=~ \n\t0e.+<\x00\x85ü"
    for _ in range(200):
        text = list(FULL)
        for _ in range(dice.randint(1, 4)):
            place = dice.randrange(len(text))
            match dice.randrange(4):
                case 0:
                    text[place] = dice.choice(alphabet)
                case 1:
                    text.insert(place, dice.choice(alphabet))
                case 2:
                    del text[place : place + dice.randint(1, 20)]
                case 3:
                    other = dice.randrange(len(text))
                    text[place:place] = text[other : other + dice.randint(1, 30)]
        _load_or_refuse(tmp_path, "".join(text))


@pytest.mark.slow
def test_mutated_values_are_read_or_refused_with_a_config_error(tmp_path: Path) -> None:
    dice = random.Random(1)
    values: list[Any] = [
        None,
        True,
        -1,
        0,
        10**30,
        1.5,
        float("nan"),
        "",
        "x",
        [],
        [1, [2]],
        {},
        {"name": {}},
    ]
    for _ in range(200):
        content = yaml.safe_load(dump_config(load(tmp_path, FULL)))
        for _ in range(dice.randint(1, 3)):
            section = dice.choice(
                [content, *[value for value in content.values() if isinstance(value, dict)]]
            )
            key = dice.choice([*section, "nmae", 3, "name", "every"])
            if dice.random() < 0.3:
                section.pop(key, None)
            else:
                section[key] = dice.choice(values)
        _load_or_refuse(tmp_path, yaml.safe_dump(content))


def test_mutated_arguments_are_read_or_refused_with_a_config_error(tmp_path: Path) -> None:
    dice = random.Random(2)
    keys = [
        "name",
        "seed",
        "data",
        "data.shards",
        "model.name",
        "objective.name",
        "a.b.c",
        ".",
        "data.",
        "seed.x",
    ]
    values = [
        "",
        "1",
        "-1",
        "{}",
        "[]",
        "null",
        "{name: 1}",
        "gradient_penalty",
        "&a",
        "!!set {}",
        "!x",
        "'",
        "1\n2",
    ]
    for _ in range(200):
        count = dice.randint(1, 3)
        _load_or_refuse(tmp_path, FULL, *(f"{dice.choice(keys)}={dice.choice(values)}" for _ in range(count)))


def _load_or_refuse(folder: Path, text: str, *overrides: str) -> None:
    try:
        load(folder, text, *overrides)
    except ConfigError:
        pass
    except Exception as error:
        pytest.fail(f"{error!r} for {overrides} on\n{text}")
