"""Seeded mutations of valid files: what a broken disk, a cut transfer or an attacker makes of them.

Every mutation is a function of (data, random, seeds) and returns new bytes. `mutate` applies one to four of them.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

LONGEST = 1 << 19
"""No mutation makes an input longer than this, in bytes."""
EDGES = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    0x7FFFFFFFFFFFFFFF,
)
NUMBERS = (
    "0",
    "-1",
    "1",
    "7",
    "00",
    "1e999",
    "4294967296",
    "18446744073709551616",
    "9" * 40,
    "0x10",
    "1.5",
    "NaN",
    "٣",
)
WORDS = (
    *(
        "null",
        "true",
        "[]",
        "{}",
        '""',
        "../../x",
        "/etc/passwd",
        "\\x00",
        "\x1b[2J",
        "\r\n",
        "\u202e",
        "é" * 200,
    ),
    *("%n%s", "!!python/object/apply:os.system [id]", "*a", "&a [*a]", "file:///etc/passwd", "a" * 300),
)

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 5, 2**31, 2**53, 2**63, 10**30, 0.5, -0.0, 1e308, -1e308, 1e-320),
    *(
        math.inf,
        math.nan,
        "",
        "x",
        "0",
        "NaN",
        "../../x",
        "/etc/passwd",
        "<injected a=1>",
        "\x1b[2J",
        "\ud800",
        "\0",
    ),
    *("a" * 300, "\u202e", "x" * 100_000, [], {}, [[]], {"a": 1}, [0] * 1000, [1, "a", None], {"": {"": {}}}),
)
NAMES = (
    "",
    "name",
    "step",
    "data.manifest",
    "__class__",
    "a.b",
    "a" * 300,
    "\x1b[2J",
    "<injected>",
    "model.name",
    "model.x.y",
)

Mutation = Callable[[bytes, random.Random, Sequence[bytes]], bytes]


def mutate(data: bytes, chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One to four mutations of `data`; `seeds` are the files that parts may be taken from."""
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 4))):
        data = chance.choice(MUTATIONS)(data, chance, seeds)[:LONGEST]
    return data


def flip_bits(data: bytes, chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Flip 1 to 16 bits anywhere."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16)) if changed else 0):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def flip_bits_of_header(data: bytes, chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Flip bits within the first 64 or the last 64 bytes, where formats keep what they are."""
    if chance.random() < 0.7:
        return flip_bits(data[:64], chance, seeds) + data[64:]
    return data[:-64] + flip_bits(data[-64:], chance, seeds)


def truncate(data: bytes, chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Keep only the start."""
    return data[: chance.randrange(len(data) + 1)]


def remove_part(data: bytes, chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Leave out a part."""
    first, end = _part(data, chance)
    return data[:first] + data[end:]


def repeat_part(data: bytes, chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Repeat a part many times: thousands of chunks, scans, frames or list entries."""
    first, end = _part(data, chance)
    part = data[first:end]
    times = min(chance.choice((2, 3, 10, 1000, 20_000)), (LONGEST - len(data)) // max(1, len(part)))
    return data[:first] + part * max(1, times) + data[end:]


def splice(data: bytes, chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Put a part of another file into this one, or over a part of it."""
    other = chance.choice(seeds)
    first, end = _part(other, chance)
    place = chance.randrange(len(data) + 1)
    rest = place + (end - first if chance.random() < 0.5 else 0)
    return data[:place] + other[first:end] + data[rest:]


def fill(data: bytes, chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Overwrite a part with one byte: a hole of a sparse file, or erased flash memory."""
    first, end = _part(data, chance)
    return data[:first] + bytes((chance.choice((0, 0, 0xFF, 0x20, 0x0A)),)) * (end - first) + data[end:]


def overwrite_with_noise(data: bytes, chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Overwrite a part with random bytes."""
    first, end = _part(data, chance)
    return data[:first] + chance.randbytes(end - first) + data[end:]


def edit_number(data: bytes, chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Set a binary number of 1, 2, 4 or 8 bytes, such as a length, a count or an offset, to an extreme value."""
    width = chance.choice((1, 2, 4, 4, 4, 8))
    place = chance.randrange(max(1, min(len(data), 256 if chance.random() < 0.5 else len(data))))
    value = chance.choice(EDGES) & ((1 << 8 * width) - 1)
    if chance.random() < 0.3:
        value = (int.from_bytes(data[place : place + width], "big") + chance.choice((-1, 1))) % (
            1 << 8 * width
        )
    return data[:place] + value.to_bytes(width, chance.choice(("big", "little"))) + data[place + width :]


def edit_digits(data: bytes, chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Replace a number in text: of JSON, a .npy header, a PNM, or the octal size in a tar header."""
    found = list(re.finditer(rb"-?[0-9]+(\.[0-9]+)?", data[: 1 << 16]))
    if not found:
        return edit_number(data, chance, seeds)
    match = chance.choice(found)
    if chance.random() < 0.3:  # of the same length, so that offsets stay right
        new = bytes(chance.choice(b"0123456789") for _ in range(len(match[0])))
    else:
        new = chance.choice(NUMBERS).encode()
    return data[: match.start()] + new + data[match.end() :]


def edit_word(data: bytes, chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Replace a word, a quoted string or a bracketed value in text."""
    found = list(re.finditer(rb'"[^"\n]{0,80}"|[A-Za-z_./-]{2,40}|\[[^\]]{0,80}\]', data[: 1 << 16]))
    if not found:
        return flip_bits(data, chance, seeds)
    match = chance.choice(found)
    new = chance.choice(WORDS).encode()
    if chance.random() < 0.5 and match[0].startswith(b'"'):
        new = b'"' + new.replace(b'"', b"") + b'"'
    return data[: match.start()] + new + data[match.end() :]


def edit_json(data: bytes, chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Exchange, remove or add a value in JSON, or in a line of JSON, which stays JSON."""
    lines = data.splitlines() if b"\n{" in data else [data]
    number = chance.randrange(len(lines)) if lines else 0
    try:
        content = json.loads(lines[number])
    except (ValueError, IndexError, RecursionError):
        return edit_word(data, chance, seeds)
    lines[number] = json.dumps(_edited(content, chance)).encode()
    return b"\n".join(lines) + (b"\n" if len(lines) > 1 else b"")


def _edited(value: Any, chance: random.Random) -> Any:
    """The value, or one somewhere in it, exchanged for another."""
    if not isinstance(value, dict | list) or not value or chance.random() < 0.1:
        return chance.choice(VALUES)
    key = chance.choice(list(value)) if isinstance(value, dict) else chance.randrange(len(value))
    match chance.randrange(8):
        case 0:
            value.pop(key)
        case 1 if isinstance(value, dict):
            value[chance.choice(NAMES)] = value[key] if chance.random() < 0.5 else chance.choice(VALUES)
        case 1 if isinstance(value, list):
            value.extend(value * chance.choice((1, 100)))
        case _:
            value[key] = _edited(value[key], chance)
    return value


def nest(data: bytes, chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Put many opening brackets somewhere, with or without their ends."""
    depth, place = chance.choice((3, 200, 100_000)), chance.randrange(len(data) + 1)
    opening, closing = chance.choice(((b"[", b"]"), (b"(", b")"), (b'{"a":', b"}"), (b"- ", b"")))
    return data[:place] + opening * depth + b"1" + closing * chance.choice((0, depth)) + data[place:]


def swap_parts(data: bytes, chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Exchange two neighbouring parts."""
    first, end = _part(data, chance)
    middle = chance.randint(first, end)
    return data[:first] + data[middle:end] + data[first:middle] + data[end:]


MUTATIONS: tuple[Mutation, ...] = (
    *(flip_bits, flip_bits_of_header, truncate, remove_part, repeat_part, splice, fill, overwrite_with_noise),
    *(edit_number, edit_number, edit_digits, edit_word, edit_json, edit_json, edit_json, nest, swap_parts),
)


def _part(data: bytes, chance: random.Random) -> tuple[int, int]:
    """(first, end) of a part: mostly short, and often of a whole block of 512 bytes, as in tar files."""
    if chance.random() < 0.2 and len(data) >= 1024:
        first = 512 * chance.randrange(len(data) // 512)
        return first, min(len(data), first + 512 * chance.choice((1, 2, 3)))
    first = chance.randrange(len(data) + 1)
    return first, min(len(data), first + chance.choice((1, 2, 4, 8, 16, 64, 256, 4096)))
