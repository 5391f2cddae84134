"""Options that cannot work together."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.option_objective import LeastSquaresOptions
from tests.configs import SMALL, load, mistakes

PENALTY_IN_TF32 = ["objective.name=gradient_penalty", "objective.precision=tf32"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["objective.name=gradient_penalty", "model.critic_norm=batch"],
            "model.critic_norm: batch norm does not work with objective.name: gradient_penalty",
        ),
        (
            ["model.name=wgan_mnist", "model.conditional=true"],
            "model.conditional: the networks of wgan_mnist take no labels",
        ),
        (["objective.name=hinge", "objective.class_loss=1"], "objective.class_loss: is about classes"),
        (
            [
                "model.conditional=true",
                "objective={name: cross_entropy, class_loss: 1, labels: real_is_zero}",
            ],
            "objective.class_loss: does not work with objective.labels: real_is_zero",
        ),
        (
            ["seed=1", "model.labels=uniform"],
            "model.labels: uniform is about the classes of generated images",
        ),
        (
            ["model.conditional=true", "model.labels=uniform", "objective.name=relativistic"],
            "model.labels: uniform does not work with objective.name: relativistic",
        ),
        (
            ["model.conditional=true", "model.labels=uniform", "schedule.reuse_fakes=true"],
            "model.labels: uniform does not work with schedule.reuse_fakes",
        ),
        (["ema_half_life=1000", "ema_decay=0.9"], "ema_half_life: takes the place of ema_decay"),
        (["seed=1", "generator_optimizer.lr_end=1e-5"], "generator_optimizer.decay: is constant, so lr_end"),
        (["data.cache=host", "data.workers=2"], "so 2 workers would have no work"),
        (
            ["data.fit=random_crop", "data.cache=host"],
            "data.fit: random_crop draws another part of each image",
        ),
        (["precision=fp16", "runtime.device=cpu"], "precision: fp16 needs a GPU"),
        (["precision=tf32", "runtime.device=cpu"], "precision: tf32 needs a GPU"),
        (
            [*PENALTY_IN_TF32, "precision=bf16", "runtime.device=cpu"],
            "objective.precision: tf32 needs a GPU",
        ),
        (
            [*PENALTY_IN_TF32, "precision=float32"],
            "objective.precision: tf32 would round all of a run in float32",
        ),
        (["schedule.global_batch=10", "runtime.processes=4"], "10 is not a multiple of runtime.processes 4"),
        (
            ["quality.every=5", "quality.features=classifier"],
            "quality.features: classifier needs a trained classifier",
        ),
        (["quality.every=5", "quality.metrics=[fid, modes]"], "quality.metrics: modes needs a classifier"),
        (
            ["quality.metrics=[copied]", "quality.every=10"],
            "copied needs held-out images, and data.validation is 0",
        ),
        (
            ["quality.every=10", "quality.keep_best=kid"],
            "quality.keep_best: kid is not one of quality.metrics",
        ),
        (
            ["quality.samples=256", "quality.keep_best=fid"],
            "needs evaluations during training. Set quality.every",
        ),
        (
            [
                "data.validation=0.2",
                "quality.every=5",
                "quality.metrics=[copied]",
                "quality.keep_best=copied",
            ],
            "quality.keep_best: for copied neither higher nor lower is better",
        ),
        (["quality.every=5", "quality.patience=3"], "Name the metric in quality.keep_best"),
        (["checkpoint.every=10", "checkpoint.keep_every=15"], "15 is not a multiple of checkpoint.every 10"),
        (
            ["objective.name=wasserstein", "model.spectral_norm=true"],
            "model.spectral_norm: does not work",
        ),
        (
            ["objective.scope=convolutions", "model.name=mlp"],
            "convolutions clips nothing with model.name: mlp",
        ),
        (
            ["objective.name=least_squares", "objective.c=-1"],
            "Published values are pearson (-1, 1, 0) and binary (0, 1, 1)",
        ),
        (
            ["schedule.critic_rounds=alternating", "objective.name=gradient_penalty"],
            "alternating does not work with objective.name: gradient_penalty",
        ),
        (
            ["init_from.critic=x", "init_from.freeze_generator=2"],
            "init_from.freeze_generator: the frozen layers would keep",
        ),
        (
            ["schedule.reuse_fakes=true", "schedule.critic_batch=32"],
            "a critic update has 32 generated images",
        ),
        (["schedule.critic_batch=6", "runtime.processes=4"], "schedule.critic_batch: 6 is not a multiple of"),
    ],
)
def test_options_that_cannot_work_together_are_refused(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    (mistake,) = mistakes(tmp_path, SMALL, *overrides)[1:]
    assert message in mistake
    load(tmp_path, SMALL, overrides[0])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["data.mix=[{shards: b}]"],
            "data.mix: names the sets instead of data.shards. Set data.shards: null",
        ),
        (["data.shards=null"], "data.shards: is required, or data.mix"),
        (
            ["data.shards=null", "data.mix=[{shards: a}, {shards: b}]", "data.balance=classes"],
            "data.balance: classes have equal shares, so the weights of data.mix would mean nothing",
        ),
    ],
)
def test_a_run_has_one_set_or_a_mixture(tmp_path: Path, overrides: list[str], message: str) -> None:
    (mistake,) = mistakes(tmp_path, SMALL, *overrides)[1:]
    assert message in mistake
    mixture = load(tmp_path, SMALL, "data.shards=null", "data.mix=[{shards: a}, {shards: b, weight: 3}]")
    assert [source.weight for source in mixture.data.sources] == [1, 3]


@pytest.mark.parametrize("codes", [(-1, 1, 0), (0, 1, 1)])
def test_both_published_codings_of_least_squares_are_allowed(tmp_path: Path, codes: tuple[int, ...]) -> None:
    overrides = [f"objective.{name}={code}" for name, code in zip("abc", codes, strict=True)]
    options = load(tmp_path, SMALL, "objective.name=least_squares", *overrides).objective
    assert isinstance(options, LeastSquaresOptions)
    assert (options.a, options.b, options.c) == codes
