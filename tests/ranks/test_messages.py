"""Messages between ranks: JSON in tensors, and errors by the names of their classes."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import errors
from pipeline.errors import ConfigError, DataError, PeerLostError
from pipeline.ranks.messages import decode, decode_error, encode, encode_error

PACKAGE = Path(errors.__file__).parent


class BadHeaderError(DataError):
    """An error of a part that has its own kinds."""


@pytest.mark.parametrize(
    "value",
    [None, True, 7, 0.1, float("inf"), "", "Größe 数 \udcff", [1, [2, None]], {"a": {"b": [1.5e-300]}}],
)
def test_a_value_arrives_as_it_was_sent(value: Any) -> None:
    content = encode(value)
    assert (content.dtype, content.dim()) == (torch.uint8, 1)
    assert decode(content, 0) == value


def test_a_tuple_arrives_as_a_list() -> None:
    assert decode(encode(("host", (1, 2))), 0) == ["host", [1, 2]]


@pytest.mark.parametrize("value", [torch.ones(1), {1, 2}, Path("a"), ConfigError("x")])
def test_what_json_has_no_form_for_is_not_sent(value: Any) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        encode(value)


@pytest.mark.parametrize("rank", [0, 3])
def test_a_pickle_is_refused_and_not_run(rank: int, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    content = f"cposix\nsystem\n(S'touch {canary}'\ntR.".encode()
    with pytest.raises(PeerLostError, match=f"Rank {rank} sent {len(content)} bytes that are not JSON"):
        decode(torch.frombuffer(bytearray(content), dtype=torch.uint8), rank)
    assert not canary.exists()
    pickle.loads(content)
    assert canary.exists(), "this pickle does run code"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{", b"[" * 100_000, b"NaN NaN"])
def test_other_bytes_that_are_not_json_are_refused(content: bytes) -> None:
    values = torch.zeros(len(content), dtype=torch.uint8)
    values[:] = torch.tensor(list(content), dtype=torch.uint8)
    with pytest.raises(PeerLostError, match="are not JSON"):
        decode(values, 0)


@pytest.mark.parametrize("kind", errors.BY_NAME.values())
def test_an_error_arrives_as_its_class_with_its_rank(kind: type[errors.PipelineError]) -> None:
    encoded = encode_error(kind("too small"))
    assert encoded == [kind.__name__, "too small"]
    error = decode_error(encoded[0], encoded[1], rank=2)
    assert type(error) is kind
    assert str(error) == "rank 2: too small"


def test_every_exit_code_has_an_error_that_ranks_can_send() -> None:
    assert sorted(kind.exit_code for kind in errors.BY_NAME.values()) == [*range(1, 11), 75, 130, 143]


def test_an_error_of_its_own_kind_arrives_as_the_nearest_one() -> None:
    assert encode_error(BadHeaderError("x")) == ["DataError", "x"]


@pytest.mark.parametrize("name", ["OSError", "KeyboardInterrupt", "SystemExit", "eval", ""])
def test_an_error_that_is_not_of_this_package_is_a_runtime_error(name: str) -> None:
    error = decode_error(name, "boom", rank=1)
    assert type(error) is RuntimeError
    assert str(error) == "rank 1: boom"
    assert encode_error(OSError("boom")) == ["OSError", "boom"]


def test_no_collective_that_unpickles_is_called() -> None:
    objects = re.compile(r"\b(all_gather|gather|broadcast|scatter|send|recv)_object(s|_list)?\(")
    assert objects.search("dist.all_gather_object(values, value)")
    assert [file for file in PACKAGE.rglob("*.py") if objects.search(file.read_text(encoding="utf-8"))] == []
