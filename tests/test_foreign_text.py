"""Names and texts from outside, as they may be shown."""

from __future__ import annotations

import pickle

import pytest

from pipeline.errors import DataError
from pipeline.foreign_text import printable, shortened, without_credentials, without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cat.png", "cat.png"),
        ("Zürich 猫.png", "Zürich 猫.png"),
        ("\x1b[2Jcat", r"\x1b[2Jcat"),
        ("a\nerror (exit 0): fine", r"a\nerror (exit 0): fine"),
        ("a\u202egnp.exe", r"a\u202egnp.exe"),
        ("\udcff", r"\udcff"),
        ("\x9b31m", r"\x9b31m"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_long_text_loses_its_middle() -> None:
    assert shortened("a" * 50 + "b" * 50, 10) == "aaaaa … bbbbb"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see https://docs.python.org/3/", "see https://docs.python.org/3/"),
        ("https://user:pw@host/a.tar", "https://host/a.tar"),
        ("https://b.s3.test/a?X-Amz-Signature=abc&x=1 failed", "https://b.s3.test/a?(removed) failed"),
        ("s3://key@bucket/x#y", "s3://bucket/x?(removed)"),
        ("s3://AKIA:ab/cd+ef@bucket/x failed", "s3://bucket/x failed"),
        ("https://user:p?w@host/x", "https://host/x"),
        ("https://user:pw, and more", "https://(removed) and more"),
        ("http://[::1]:80/a http://h:80/x@y", "http://[::1]:80/a http://h:80/x@y"),
        ("hf://datasets/a/b@main/x", "hf://datasets/a/b@main/x"),
        ("hf://gpt2@main/x", "hf://gpt2@main/x"),
        ("hf://me:token@datasets/a", "hf://datasets/a"),
    ],
)
def test_urls_lose_what_can_be_secret(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


@pytest.mark.parametrize(
    "text", ["Authorization: Bearer abcdef", "X-Amz-Signature=abcdef", "api_key: abcdef", "hf token=abcdef"]
)
def test_what_servers_say_loses_credentials(text: str) -> None:
    assert "abcdef" not in without_credentials(text)


def test_an_error_loses_escapes_and_secrets_but_keeps_its_lines() -> None:
    error = DataError("https://u:p@h/x", "  \x1b[31mred\nerror (exit 0): fine")
    assert str(error) == "https://h/x\n  \\x1b[31mred\\nerror (exit 0): fine"
    assert str(pickle.loads(pickle.dumps(error))) == str(error), "as processes pass them on"
