"""Plain words and numbers of YAML mean what they say, in files and in arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from pipeline.config import NAMES, dump_config, load_config, parse_config
from pipeline.option_data import DataOptions
from pipeline.option_types import ClassName
from pipeline.yaml_text import dump_yaml, how_to_write, parse_yaml
from tests.configs import SMALL, load, mistakes, write

ODD_NAMES = [
    *("010", "07", "7", "-7", "+7", "1e3", "1.50", ".5", "1:30", "0x1f", "0o10", "0b1", "1_000"),
    *("no", "yes", "on", "off", "y", "N", "true", "False", "null", "~", "2020-01-01", "2020-99-99"),
    *("2020-01-01 10:00:00", ".inf", ".nan", "<<", "=", "Ünal", "99999999999999999999999"),
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_the_name_of_a_class_is_taken_as_it_is_written(name: str, tmp_path: Path) -> None:
    for found in (
        load(tmp_path, SMALL, f"data.classes=[{name}, cat]"),
        load(tmp_path, SMALL, f"data={{shards: somewhere, classes: [{name}, cat]}}"),
        load(tmp_path, SMALL.replace("somewhere", f"somewhere\n  classes: [{name}, cat]")),
        load(tmp_path, SMALL.replace("somewhere", f"somewhere\n  classes:\n    - {name}\n    - cat")),
        load(tmp_path, SMALL, f"data.classes=['{name}', cat]"),
    ):
        assert found.data.classes == [name, "cat"]
        assert load_config(write(tmp_path, dump_config(found))) == found


def test_all_lists_of_class_names_are_taken_as_written() -> None:
    names = [
        name
        for name, field in DataOptions.model_fields.items()
        if list[ClassName] in get_args(field.annotation)
    ]
    assert {("data", name) for name in names} == NAMES


def test_no_classes_are_chosen_by_null_and_an_empty_item_is_no_name(tmp_path: Path) -> None:
    assert load(tmp_path, SMALL, "data.classes=null").data.classes is None
    assert (
        "data.classes.0: invalid value None"
        in mistakes(tmp_path, SMALL.replace("somewhere", "somewhere\n  classes:\n    -\n"))[1]
    )


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("010", "leading zeros are not read, write 10, or 8 if it is octal"),
        ("-08", "leading zeros are not read, write -8"),
        ("00", "leading zeros are not read, write 0, or 0 if it is octal"),
        ("1:30", "numbers to base 60 are not read, write 90"),
        ("1:00:00", "numbers to base 60 are not read, write 3600"),
        ("0x1F", "only decimal numbers are read, write 31"),
        ("0o17", "only decimal numbers are read, write 15"),
        ("0b101", "only decimal numbers are read, write 5"),
        ("1_000", "underscores are not read, write 1000"),
    ],
)
def test_a_number_that_other_programs_read_differently_is_refused(
    text: str, remedy: str, tmp_path: Path
) -> None:
    expected = f"schedule.steps: invalid value '{text}': expected a whole number; {remedy}"
    assert mistakes(tmp_path, SMALL, f"schedule.steps={text}")[1:] == [f"command line: {expected}"]
    assert mistakes(tmp_path, SMALL.replace("10", text))[1:] == [f"line 5: {expected}"]


def test_a_fraction_with_leading_zeros_or_to_base_60_is_refused(tmp_path: Path) -> None:
    for text, number in (("01.5", "1.5"), ("1_0.5", "10.5"), ("1:30", "90")):
        (mistake,) = mistakes(tmp_path, SMALL, f"critic_optimizer.lr={text}")[1:]
        assert mistake.endswith(f"write {number}")


@pytest.mark.parametrize(
    ("word", "value"), [("yes", "true"), ("On", "true"), ("off", "false"), ("n", "false")]
)
def test_only_true_and_false_are_booleans(word: str, value: str, tmp_path: Path) -> None:
    (mistake,) = mistakes(tmp_path, SMALL, f"data.flip={word}")[1:]
    assert (
        mistake == f"command line: data.flip: invalid value '{word}': expected true or false; write {value}"
    )
    assert load(tmp_path, SMALL, f"data.flip={value}").data.flip == (value == "true")


@pytest.mark.parametrize("text", ["many", "0x", "0xg", "1:99", "", "0" * 5000, "1:" * 3000, "--1", "08x"])
def test_other_text_gets_no_advice(text: str) -> None:
    assert how_to_write(text) == ""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0), ("-12", -12), ("+3", 3), ("1.", 1.0), (".5", 0.5), ("1e3", 1000.0), ("-2.5E-4", -2.5e-4),
        ("true", True), ("FALSE", False), ("null", None), ("~", None), ("-x", "-x"), (".", "."), ("e5", "e5"),
        ("1e", "1e"), ("2020-01-01", "2020-01-01"), ("010", "010"), ("no", "no"), ("'5'", "5"),
    ],
)  # fmt: skip
def test_plain_text_is_a_number_only_if_all_of_it_is_one(text: str, value: Any) -> None:
    found = parse_yaml(text).content
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize("name", ["1e3", "010", "7", "no", "2020-01-01", "null"])
def test_a_config_that_is_written_is_read_back_with_the_same_text(name: str, tmp_path: Path) -> None:
    config = parse_config({"name": name, "data": {"shards": name}, "schedule": {"steps": 1}}, "here")
    assert load_config(write(tmp_path, dump_config(config))) == config
    assert yaml.safe_load(dump_config(config))["data"]["shards"] == name, "also by readers of YAML 1.1"


@pytest.mark.parametrize("name", ODD_NAMES)
def test_text_is_written_so_that_old_and_new_yaml_read_it_alike(name: str) -> None:
    text = dump_yaml([name])
    assert parse_yaml(text).content == yaml.safe_load(text) == [name]
