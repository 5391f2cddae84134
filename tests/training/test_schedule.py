"""When critic updates, saves and logs are due, and how the learning rate falls."""

from __future__ import annotations

import math

import pytest

from pipeline.objectives.penalties import SlopePenalty
from pipeline.options import BurstOptions, RmspropOptions, ScheduleOptions
from pipeline.training.schedule import (
    critic_updates_at,
    due_penalties,
    is_due,
    is_picture_due,
    learning_rate,
)


def updates(steps: int, bursts: BurstOptions | None, critic_updates: int = 5) -> list[int]:
    options = ScheduleOptions(steps=steps, critic_updates=critic_updates, bursts=bursts)
    return [critic_updates_at(step, options) for step in range(steps)]


def test_without_bursts_every_step_has_the_same_number_of_critic_updates() -> None:
    assert updates(1001, None, critic_updates=3) == [3] * 1001


def test_bursts_come_in_the_first_25_steps_and_at_every_500th() -> None:
    found = updates(1600, BurstOptions())
    assert found[:25] == [100] * 25
    assert [step for step, count in enumerate(found) if step >= 25 and count == 100] == [500, 1000, 1500]
    assert set(found[25:500]) == {5}


@pytest.mark.parametrize(
    ("bursts", "expected"),
    [
        (BurstOptions(first_steps=0, every=4, critic_updates=9), [9, 5, 5, 5, 9, 5]),
        (BurstOptions(first_steps=2, every=0, critic_updates=9), [9, 9, 5, 5, 5, 5]),
        (BurstOptions(first_steps=2, every=3, critic_updates=9), [9, 9, 5, 9, 5, 5]),
        (BurstOptions(first_steps=0, every=0, critic_updates=9), [5] * 6),
    ],
)
def test_both_parts_of_the_bursts_can_be_set_or_left_out(bursts: BurstOptions, expected: list[int]) -> None:
    assert updates(6, bursts) == expected


def test_lazy_penalties_come_every_so_many_critic_updates() -> None:
    always, lazy = SlopePenalty("real"), SlopePenalty("fake", every=3)
    steps = [due_penalties([always, lazy], first, 2) for first in range(0, 8, 2)]
    found = [lazy in penalties for step in steps for penalties in step]
    assert found == [True, False, False, True, False, False, True, False]
    assert all(always in penalties for step in steps for penalties in step)


def test_a_constant_rate_stays() -> None:
    assert {learning_rate(RmspropOptions(), step / 10, step, 1) for step in range(10)} == {5e-5}


def test_a_linear_rate_falls_from_its_start_to_zero_at_the_end() -> None:
    options = RmspropOptions(lr=0.8, decay="linear")
    rates = [learning_rate(options, step / 4, 0, 1) for step in range(5)]
    assert rates == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0])
    assert rates == [0.8 * (1.0 - step / 4) for step in range(5)], "the bits of runs of earlier versions"


def test_a_cosine_falls_slowly_at_both_ends() -> None:
    options = RmspropOptions(lr=0.8, decay="cosine", lr_end=0.2)
    rates = [learning_rate(options, step / 4, 0, 1) for step in range(5)]
    middle = 0.3 * math.sqrt(0.5)
    assert rates == pytest.approx([0.8, 0.5 + middle, 0.5, 0.5 - middle, 0.2])


def test_a_decay_over_images_ends_at_its_end_and_stays_there() -> None:
    options = RmspropOptions(lr=0.8, decay="linear", lr_end=0.2, decay_images=100)
    rates = [learning_rate(options, 0.9, images, 10) for images in (0, 50, 100, 1000)]
    assert rates == pytest.approx([0.8, 0.5, 0.2, 0.2])


def test_a_rate_warms_up_by_images_whatever_the_batch_is() -> None:
    options = RmspropOptions(lr=0.8, warm_up_images=100)
    assert [learning_rate(options, 0, images, 10) for images in (0, 40, 90, 100)] == pytest.approx(
        [0.08, 0.4, 0.8, 0.8]
    )
    assert learning_rate(options, 0, 30, 20) == learning_rate(options, 0, 40, 10)


def test_regular_work_is_due_at_the_end_too() -> None:
    assert [step for step in range(1, 11) if is_due(step, 4, 10)] == [4, 8, 10]
    assert [step for step in range(1, 11) if is_due(step, 1000, 10)] == [10]
    assert [step for step in range(1, 9) if is_due(step, 4, 8)] == [4, 8]


def test_grids_are_drawn_often_at_first_and_then_at_regular_steps() -> None:
    assert [step for step in range(1, 71) if is_picture_due(step, 20, 70)] == [1, 2, 5, 10, 20, 40, 60, 70]
    assert [step for step in range(1, 10) if is_picture_due(step, 1, 9)] == list(range(1, 10))
