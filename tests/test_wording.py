"""Counts in messages agree with their nouns."""

from __future__ import annotations

import pytest

from pipeline.wording import counted, duration


@pytest.mark.parametrize(
    ("count", "noun", "expected"),
    [
        (0, "image", "0 images"),
        (1, "image", "1 image"),
        (2, "image", "2 images"),
        (1, "class", "1 class"),
        (10, "class", "10 classes"),
        (2, "batch", "2 batches"),
        (3, "copy", "3 copies"),
        (2, "key", "2 keys"),
        (60_000, "image", "60,000 images"),
        (1, "training image", "1 training image"),
    ],
)
def test_a_count_agrees_with_its_noun(count: int, noun: str, expected: str) -> None:
    assert counted(count, noun) == expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0:00:00"),
        (90, "0:01:30"),
        (200_000, "2 days, 7:33:20"),
        (1e300, "over 100 years"),
        (float("inf"), "over 100 years"),
    ],
)
def test_a_duration_is_readable_however_long(seconds: float, text: str) -> None:
    assert duration(seconds) == text
