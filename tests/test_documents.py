"""JSON texts are checked by one model each, and what is wrong is said shortly."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import Field

from pipeline.documents import MOST_PARTS, Document, Many, parse_json


class Part(Document):
    count: Annotated[int, Field(gt=0, lt=100)]


class Whole(Document):
    name: str
    parts: tuple[Part, ...] = ()
    rate: float = 0.0


def test_a_document_is_read_and_unknown_keys_are_ignored() -> None:
    assert parse_json(b'{"name": "a", "parts": [{"count": 3}], "new": 1}', Whole) == Whole(
        name="a", parts=(Part(count=3),)
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "name is missing"),
        ('{"name": 5}', "name is 5: input should be a valid string"),
        (
            '{"name": "a", "parts": [{"count": 1000000000}]}',
            r"parts\[0\].count is 1000000000: .* less than 100",
        ),
        ('{"name": "a", "parts": [{"count": "3"}]}', r"parts\[0\].count is '3': .* integer"),
        ('{"name": "a", "rate": NaN}', "finite"),
        ('{"name": "a"', "invalid JSON: EOF"),
        ("[" * 100_000, "invalid JSON: recursion limit"),
        (b"\xff", "invalid JSON"),
    ],
)
def test_a_wrong_document_is_a_value_error_that_says_where(text: str | bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_json(text, Whole)


def test_many_mistakes_are_counted_and_not_all_listed() -> None:
    text = '{"name": "a", "parts": [' + ",".join(['{"count": 0}'] * 1000) + "]}"
    with pytest.raises(ValueError, match="and 997 more") as caught:
        parse_json(text, Whole)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("part", ["[],", '{"a": 1},', '"", ' * 4, "1, " * 4])
def test_a_text_of_more_values_than_any_such_file_is_not_parsed(part: str) -> None:
    """Checking it would take gigabytes."""
    with pytest.raises(ValueError, match="it holds more values than such a file can have"):
        parse_json(f'{{"name": [{part * (MOST_PARTS // 4)} 1]}}', Whole)
    assert parse_json('{"name": "a,b"}', Whole, most_parts=9).name == "a,b"
    with pytest.raises(ValueError, match="more values"):
        parse_json('{"name": "a,b"}', Whole, most_parts=8)


def test_of_a_long_list_only_the_first_mistake_is_noted() -> None:
    class Names(Document):
        names: Many[str]

    with pytest.raises(ValueError, match=r"^names\[1\] is 1: input should be a valid string$"):
        parse_json('{"names": ["a", 1, 2, 3, 4, 5]}', Names)


def test_a_value_of_any_size_is_shown_in_a_few_words() -> None:
    with pytest.raises(ValueError, match="name is ") as caught:
        parse_json(f'{{"name": {[["x" * 1000] * 100] * 100}}}'.replace("'", '"'), Whole)
    assert len(str(caught.value)) < 150
