"""Names and texts from outside, as they may be shown."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable

import pytest

from pipeline.errors import DataError
from pipeline.foreign_text import printable, shortened, shown, without_credentials, without_secrets
from pipeline.ranks.messages import decode_error


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("cat.png", "cat.png"),
        ("Zürich 猫.png", "Zürich 猫.png"),
        ("\x1b[2Jcat", r"\x1b[2Jcat"),
        ("a\nerror (exit 0): fine", r"a\nerror (exit 0): fine"),
        ("a\u202egnp.exe", r"a\u202egnp.exe"),
        ("\udcff", r"\xff"),
        ("\ud800", r"\ud800"),
        ("\x9b31m", r"\x9b31m"),
    ],
)
def test_control_characters_are_escaped(text: str, result: str) -> None:
    assert printable(text) == result


def test_a_long_text_loses_its_middle() -> None:
    assert shortened("a" * 50 + "b" * 50, 10) == "aaaaa … bbbbb"


@pytest.mark.parametrize(
    ("text", "result"),
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
def test_urls_lose_what_can_be_secret(text: str, result: str) -> None:
    assert without_secrets(text) == result


@pytest.mark.parametrize("show", [printable, shown])
def test_an_address_is_not_cut_in_the_middle_of_its_secrets(show: Callable[[str, int], str]) -> None:
    for length in range(20, 120, 7):
        for address in (f"https://host/x?Signature={'S' * 100}", f"https://me:{'S' * 100}@host/x"):
            assert "SSS" not in show(address, length)


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer abcdef",
        "X-Amz-Signature=abcdef",
        "api_key: abcdef",
        "hf token=abcdef",
        "{'Authorization': 'Bearer abcdef', 'token': b'abcdef'}",
        '{"aws_secret_access_key": "abcdef"}',
    ],
)
def test_what_servers_say_loses_credentials(text: str) -> None:
    assert "abcdef" not in without_credentials(text)


def test_words_after_the_word_credentials_are_no_secrets() -> None:
    text = "Your default credentials were not found. The token expired yesterday: sign in again"
    assert without_credentials(text) == text


def test_an_error_loses_escapes_and_secrets_but_keeps_its_lines() -> None:
    error = DataError("https://u:p@h/x", "  \x1b[31mred\nerror (exit 0): fine")
    assert str(error) == "https://h/x\n  \\x1b[31mred\\nerror (exit 0): fine"
    assert str(pickle.loads(pickle.dumps(error))) == str(error), "as processes pass them on"
    assert str(error.after("init_from: ")) == f"init_from: {error}"
    assert str(decode_error("DataError", str(error), 3)) == f"rank 3: {error}"


def test_a_value_is_shown_shortly_however_large_or_deep_it_is() -> None:
    deep: dict[str, object] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    assert shown(deep, 60) == "{'a': {'a': {'a': {'a': {...}}}}}"
    assert len(shown(["x" * 10**6] * 10**6, 60)) < 70
    assert shown("a\x1b\n", 60) == r"'a\x1b\n'"


@pytest.mark.parametrize("part", ["a-", "a+", "token-", "secret ", "x://", "api-api_"])
def test_long_texts_are_searched_for_secrets_in_linear_time(part: str) -> None:
    began = time.process_time()
    without_credentials(part * 50_000)
    assert time.process_time() - began < 5


def test_long_names_of_secrets_hide_them_too() -> None:
    assert "abcdef" not in without_credentials(f"{'my_' * 50}token{'_x' * 40}=abcdef")
