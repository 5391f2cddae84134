"""Which images are taken: always the same ones, on any machine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.data.making.selection import Chosen, Selection, choose
from pipeline.errors import ConfigError, DataError
from tests.shards import Given, digits, noise


def taken(count: int = 1000, **selection: object) -> list[int]:
    source = noise(count, side=1)
    return choose(source, Selection(**selection)).positions.tolist()  # type: ignore[arg-type]


def test_all_images_are_taken_in_order_by_default() -> None:
    assert taken(10) == list(range(10))


def test_validation_and_training_images_are_the_whole_set() -> None:
    left, apart = taken(validation=0.2), taken(validation=0.2, only_validation=True)
    assert sorted(left + apart) == list(range(1000))
    assert 160 < len(apart) < 240


def test_an_image_stays_on_its_side_when_others_are_added() -> None:
    few, many = taken(500, validation=0.2, only_validation=True), taken(validation=0.2, only_validation=True)
    assert few == [position for position in many if position < 500]


def test_a_larger_validation_share_includes_a_smaller_one() -> None:
    assert set(taken(validation=0.1, only_validation=True)) < set(taken(validation=0.3, only_validation=True))


def test_a_limit_is_spread_over_the_set_and_keeps_its_order() -> None:
    some = taken(limit=100)
    assert some == sorted(some)
    assert len(some) == 100
    assert np.histogram(some, 5, (0, 1000))[0].min() >= 10
    assert set(taken(limit=50)) < set(some)
    assert taken(limit=5000) == list(range(1000))


def test_a_limit_applies_after_the_other_options() -> None:
    chosen = choose(digits(), Selection(classes=("7",), validation=0.5, limit=20))
    assert len(chosen.positions) == 20
    assert set(chosen.labels.tolist()) == {0}


def test_classes_are_labelled_in_the_order_given() -> None:
    source = digits()
    chosen: Chosen = choose(source, Selection(classes=("7", "3")))
    assert chosen.classes == ("7", "3")
    for position, label in zip(chosen.positions.tolist(), chosen.labels.tolist(), strict=True):
        assert source.classes[source.label(position) or 0] == chosen.classes[label]


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"classes": ("cat",)}, "--classes: noise has no class cat. Its classes: even, odd"),
        ({"classes": ()}, "--classes: noise has no class without a name"),
        ({"classes": ("odd", "odd")}, "names a class twice: odd, odd"),
        ({"validation": -0.1}, "out of range: give a share from 0 to below 1"),
        ({"only_validation": True}, "needs --validation with a share above 0"),
    ],
)
def test_impossible_selections_are_refused(selection: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        taken(**selection)


def test_a_selection_without_images_is_refused() -> None:
    with pytest.raises(
        DataError, match="The selection leaves no images: given has 3 images, and none of them matches"
    ):
        choose(Given(noise(3).pictures, [0, 0, 0], ("a", "b"), "given"), Selection(classes=("b",)))


def test_classes_of_an_unlabelled_source_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"given has no class b\. Its classes: none, because its images have no labels"
    ):
        choose(Given(noise(3).pictures), Selection(classes=("b",)))
