"""The best evaluation is kept by the metric's own direction."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from pipeline.data.format.shard_set import ShardSet
from pipeline.option_data import DataOptions
from pipeline.options import Config, QualityOptions, ScheduleOptions
from pipeline.quality.best import Best
from pipeline.ranks.runtime import Runtime
from pipeline.run.checkpoint import Checkpoint
from pipeline.run.directory import RunDirectory
from pipeline.training.checks import _find_ending
from pipeline.training.context import RunContext


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


def test_figures_of_another_version_of_the_features_are_not_compared() -> None:
    options = QualityOptions(keep_best="fid", patience=2)
    facts = Best.of(options).facts() | {"value": 0.3, "step": 20, "evaluations_since": 1}
    old = facts | {"basis": facts["basis"] | {"features": "pixels"}}
    best = Best.of(options)
    assert not best.restore(old)
    assert (best.value, best.evaluations_since, best.kept_steps) == (None, 0, {20})
    assert best.changes(old) == "features: pixels before, pixels 2 now"
    for features in ("classifier", "inception"):
        by_network = QualityOptions(keep_best="fid", features=features, classifier="c.safetensors")
        basis = {"features": features, "classifier": "c.safetensors", "inception": None, "samples": 2048}
        assert Best.of(by_network).restore(facts | {"basis": basis}), "features of networks are as they were"


def test_figures_of_a_reference_that_was_not_mirrored_are_not_compared() -> None:
    options = QualityOptions(keep_best="fid")
    before = Best.of(options)
    before.update(10, {"fid": 0.1})
    best = Best.of(options, flip=True)
    assert not best.restore(before.facts())
    assert best.changes(before.facts()) == "data.flip: not used before, True now"
    assert Best.of(options, flip=True).restore(best.facts())


def test_a_resumed_run_says_why_the_search_starts_again(tmp_path: Path) -> None:
    config = Config(
        name="run",
        data=DataOptions(shards="x"),
        schedule=ScheduleOptions(steps=30),
        quality=QualityOptions(every=5, keep_best="kid", metrics=["kid"]),
    )
    facts = Best("fid", None, Best.of(config.quality).basis, value=0.3, step=20).facts()
    identity = {"images": [1, 8, 8], "data.manifest": "0" * 64}
    (tmp_path / "state.json").write_text(json.dumps({"identity": identity, "best": facts}))
    said: list[str] = []
    runtime = cast(Runtime, SimpleNamespace(is_main=True))
    run = RunContext(config, cast(ShardSet, None), RunDirectory(tmp_path), runtime, said.append)
    assert _find_ending(Checkpoint(tmp_path, 25), run, is_unwatched=False) is None
    assert said == [
        "quality is no longer measured as before (keep_best: fid before, kid now), so figures do not compare: the "
        "checkpoint of step 20, the best one until now, is kept; the search for the best one starts again"
    ]
