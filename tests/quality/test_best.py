"""The best evaluation is kept by the metric's own direction."""

from __future__ import annotations

from pipeline.options import QualityOptions
from pipeline.quality.best import Best


def test_lower_is_better_for_distances_and_higher_for_coverage() -> None:
    falling, rising = Best("fid", None), Best("recall", None)
    assert [falling.update(step, {"fid": value}) for step, value in enumerate([3.0, 2.0, 2.5, 1.0])] == [
        True,
        True,
        False,
        True,
    ]
    assert [rising.update(step, {"recall": value}) for step, value in enumerate([0.3, 0.2, 0.5])] == [
        True,
        False,
        True,
    ]
    assert (falling.value, falling.step) == (1.0, 3)
    assert (rising.value, rising.step) == (0.5, 2)


def test_an_equal_value_is_no_new_best() -> None:
    best = Best("fid", 1)
    assert best.update(1, {"fid": 2.0})
    assert not best.update(2, {"fid": 2.0})
    assert best.is_exhausted


def test_patience_counts_evaluations_since_the_best() -> None:
    best = Best("fid", 2)
    for step, value in enumerate([3.0, 4.0, 2.0, 3.0]):
        best.update(step, {"fid": value})
        assert not best.is_exhausted
    best.update(4, {"fid": 2.5})
    assert best.is_exhausted


def test_an_evaluation_counts_only_if_its_checkpoint_is_saved() -> None:
    best = Best("fid", 2)
    best.update(1, {"fid": 3.0})
    best.update(2, {"fid": 4.0})
    expected = best.facts()
    assert best.update(3, {"fid": 1.0})
    best.take_back()
    assert best.facts() == expected


def test_without_patience_a_run_never_ends_early() -> None:
    best = Best("fid", None)
    for step in range(100):
        best.update(step, {"fid": float(step)})
    assert not best.is_exhausted


def test_a_resumed_search_goes_on_and_one_for_another_metric_starts_anew() -> None:
    best = Best("fid", 2)
    best.update(1, {"fid": 3.0})
    best.update(2, {"fid": 4.0})
    same, other, none = Best("fid", 2), Best("kid", 2), Best("fid", 2)
    by_others = Best("fid", 2, {"samples": 4096})
    assert not by_others.restore(best.facts())
    assert by_others.value is None, "figures of other samples do not compare"
    assert same.restore(best.facts())
    assert not other.restore(best.facts())
    assert none.restore(None)
    assert same == best
    assert other == Best("kid", 2, former=[1])
    assert none == Best("fid", 2)


def test_what_was_the_best_by_earlier_options_stays() -> None:
    best = Best("fid", None)
    best.update(10, {"fid": 3.0})
    off = Best(None, None)
    off.restore(best.facts())
    again = Best("kid", None)
    again.restore(off.facts())
    again.update(30, {"kid": 0.1})
    assert off.kept_steps == {10}
    assert again.kept_steps == {10, 30}


def test_the_options_say_what_is_kept() -> None:
    assert not Best.of(QualityOptions()).update(10, {"fid": 1.0})
    best = Best.of(QualityOptions(keep_best="fid", patience=3, samples=256))
    assert (best.metric, best.patience, best.basis["samples"]) == ("fid", 3, 256)
