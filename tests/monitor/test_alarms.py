"""Alarms go off once, after a condition has lasted, and say what to do."""

from __future__ import annotations

import pytest

from pipeline.monitor.alarms import ALARM_RULES, Alarms

SOUND = {
    "critic/clipped_fraction": 0.1,
    "critic/input_grad_norm": 0.5,
    "generator/diversity": 0.9,
    "wasserstein/estimate_smooth": 2.0,
    "wasserstein/normalized": 5.0,
    "wasserstein/validation": 1.9,
    "speed/data_wait_fraction": 0.0,
}
WRONG = {
    "clip_saturation": (
        {"critic/clipped_fraction": 0.9},
        r"90% of the critic's weights are at -clip or clip, and the estimate \(2\) does not fall",
    ),
    "vanishing_gradient": ({"critic/input_grad_norm": 1e-5}, r"nearly vanished \(mean norm 1e-05\)"),
    "critic_overfits": ({"wasserstein/validation": 0.5}, "is 2 on training images and 0.5 on held-out ones"),
    "critic_behind": (
        {"wasserstein/estimate_smooth": -1.0, "wasserstein/validation": -1.0},
        "The estimate is -1",
    ),
    "collapse": ({"generator/diversity": 0.05}, "differ only 5% as much as real ones"),
    "input_bound": ({"speed/data_wait_fraction": 0.6}, "waits for images 60% of the time"),
}


def log(alarms: Alarms, values: dict[str, float], times: int) -> list[str]:
    return [alarm.name for _ in range(times) for alarm in alarms.check({**SOUND, **values})]


def test_a_sound_run_raises_no_alarm() -> None:
    assert log(Alarms(), {}, 200) == []


def test_every_alarm_is_tested_here() -> None:
    assert set(WRONG) == {alarm.name for alarm in ALARM_RULES}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_once_when_it_has_lasted(name: str) -> None:
    alarms = Alarms()
    times = next(alarm.times for alarm in ALARM_RULES if alarm.name == name)
    values, text = WRONG[name]
    assert log(alarms, {}, 3) == []
    assert log(alarms, values, times - 1) == []
    (alarm,) = alarms.check({**SOUND, **values})
    assert alarm.name == name
    with pytest.raises(AssertionError, match=text):
        raise AssertionError(alarm.text)
    assert log(alarms, {}, 3) == []
    assert log(alarms, values, 50) == [], "an alarm is given only once"


@pytest.mark.parametrize("name", WRONG)
def test_what_is_over_before_it_lasts_is_passed_over(name: str) -> None:
    alarms = Alarms()
    times = next(alarm.times for alarm in ALARM_RULES if alarm.name == name)
    for _ in range(5):
        assert log(alarms, WRONG[name][0], times - 1) == []
        assert log(alarms, {}, 1) == []


@pytest.mark.parametrize("estimate", ["wasserstein/estimate_smooth", "wasserstein/normalized"])
def test_clipped_weights_are_no_alarm_once_an_estimate_has_fallen(estimate: str) -> None:
    alarms = Alarms()
    log(alarms, {"critic/clipped_fraction": 0.9}, 40)
    later = {"critic/clipped_fraction": 0.9, estimate: 0.2 * SOUND[estimate], "wasserstein/validation": 0.4}
    found = [alarm.name for _ in range(200) for alarm in alarms.check({**SOUND, **later})]
    assert "clip_saturation" not in found


@pytest.mark.parametrize("name", sorted(WRONG.keys() - {"input_bound"}))
def test_a_run_that_goes_on_elsewhere_counts_on(name: str) -> None:
    times = next(alarm.times for alarm in ALARM_RULES if alarm.name == name)
    before, after = Alarms(), Alarms()
    log(before, {}, 1)
    log(before, WRONG[name][0], times - 1)
    after.restore(before.facts())
    assert log(after, WRONG[name][0], 1) == [name]
    again = Alarms()
    again.restore(after.facts())
    assert log(again, WRONG[name][0], 50) == []


def test_what_is_wrong_with_a_machine_is_no_part_of_the_run() -> None:
    slow, fast = Alarms(), Alarms()
    log(slow, WRONG["input_bound"][0], 10)
    log(fast, {}, 10)
    assert slow.facts() == fast.facts()
    elsewhere = Alarms()
    elsewhere.restore(slow.facts())
    assert log(elsewhere, WRONG["input_bound"][0], 5) == ["input_bound"]


def test_a_generator_that_has_not_learnt_yet_has_not_collapsed() -> None:
    alarms = Alarms()
    assert log(alarms, {"generator/diversity": 0.02}, 50) == []
    assert log(alarms, {"generator/diversity": 0.02}, 5) == ["collapse"], "but at some point it should have"


def test_figures_that_a_run_does_not_have_raise_no_alarm() -> None:
    assert [Alarms().check({"critic/loss": 1.0}) for _ in range(60)] == [[]] * 60


def test_the_estimates_compared_need_not_be_of_one_step() -> None:
    alarms = Alarms()
    alarms.check({"wasserstein/estimate_smooth": 2.0})
    held_out = {"wasserstein/validation": 0.1}
    assert [alarm.name for _ in range(3) for alarm in alarms.check(held_out)] == ["critic_overfits"]
