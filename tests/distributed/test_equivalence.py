"""One process with the whole batch and two processes with half of it each train the same networks."""

from __future__ import annotations

import math
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
import torch.distributed as dist

from pipeline.training.trainer import Trainer
from tests.ranks import (
    Arrays,
    Ranks,
    assert_same_bits,
    newest,
    read_metrics,
    read_state,
    read_tensors,
)

BATCH = "schedule.global_batch=64"
EVERY_STEP = "runtime.digest_every=1"

WHOLE = {
    "clipping without norms": ["model.generator_norm=none"],
    "batch norm in both networks": ["model.generator_norm=batch", "model.critic_norm=batch"],
    "batch norm and clipping of classes, uniform in the generator's updates": [
        "model={conditional: true, labels: uniform, generator_norm: batch}",
    ],
    "clipping in micro-batches": ["model.generator_norm=layer", "schedule.micro_batch=10"],
    "gradient penalty with layer norm": [
        "objective.name=gradient_penalty",
        "model.generator_norm=none",
        "model.critic_norm=layer",
    ],
    "hinge with spectral norm": [
        "objective.name=hinge",
        "model.spectral_norm=true",
        "model.generator_norm=none",
    ],
    "relativistic pairs of classes with lazy R1 and R2": [
        "model.conditional=true",
        "objective.class_loss=0.5",
        "objective.name=relativistic",
        "objective.r_every=3",
        "objective.r_method=finite_difference",
        "model.generator_norm=none",
    ],
    "adapted augmentation in micro-batches": [
        "augment={kinds: [flip, shift, colour], target: 0.8, probability: 0.5, adapt_images: 2000}",
        "model.generator_norm=none",
        "schedule.micro_batch=10",
    ],
    "gradient penalty with Adam in micro-batches": [
        "objective.name=gradient_penalty",
        "critic_optimizer.name=adam",
        "generator_optimizer.name=adam",
        "model.generator_norm=none",
        "schedule.micro_batch=10",
    ],
}

HALVES = {
    "clipping without norms": ["model.generator_norm=none"],
    "clipping with layer norm": ["model.generator_norm=layer", "model.critic_norm=layer"],
    "gradient clipping": ["model.generator_norm=none", "critic_grad_clip=0.01", "generator_grad_clip=0.001"],
    "gradient penalty and Adam": [
        "objective.name=gradient_penalty",
        "model.generator_norm=none",
        "critic_optimizer.name=adam",
        "generator_optimizer.name=adam",
    ],
}


def train_and_keep_state(arguments: list[str], folder: str) -> int:
    """Train, and write this rank's own tensors to `folder` before and after."""
    from pipeline.train import main

    train = Trainer.train

    def keep(self: Trainer, moment: str) -> None:
        tensors = {name: value.contiguous() for name, value in self.state.flat_tensors().items()}
        safetensors.torch.save_file(tensors, Path(folder) / f"{moment}_rank{self.runtime.rank}.safetensors")

    def train_and_keep(self: Trainer) -> None:
        keep(self, "before")
        train(self)
        keep(self, "after")

    Trainer.train = train_and_keep  # type: ignore[method-assign]
    return main(arguments)


def train_in_float64(arguments: list[str], folder: str) -> int:
    """Train in float64.

    Sums over 64 samples and over 2 x 32 samples round differently. In float32, within tens of steps, the input of some
    ReLU is so close to 0 that rounding decides its sign. RMSprop divides a gradient by its own size, so it makes that a
    visible step. In float64 no input is so close to 0.
    """
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    return train_and_keep_state(arguments, folder)


def largest_difference(first: Arrays, second: Arrays, *networks: str) -> float:
    """The largest difference between weights and running statistics of these networks."""
    names = [name for name in first if name.split("/")[0] in networks]
    return max(float(np.abs(first[name].astype(np.float64) - second[name]).max()) for name in names)


def assert_metrics_agree(first: Path, second: Path, rtol: float) -> None:
    """Compare the metrics. Estimates are differences of scores, so their tolerance is that of the scores."""
    ours, theirs = read_metrics(first), read_metrics(second)
    assert [sorted(line) for line in ours] == [sorted(line) for line in theirs]
    assert len(ours) >= 2
    for a, b in zip(ours, theirs, strict=True):
        scale = max(abs(a["critic/real"]), abs(a["critic/fake"]))
        wrong = [name for name in a if not math.isclose(a[name], b[name], rel_tol=rtol, abs_tol=rtol * scale)]
        assert not wrong, [(name, a[name], b[name]) for name in wrong]


def states(folder: Path, world_size: int, moment: str = "after") -> list[Arrays]:
    """The tensors that `train_and_keep_state` wrote, by rank."""
    return [
        safetensors.numpy.load_file(folder / f"{moment}_rank{rank}.safetensors") for rank in range(world_size)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("case", WHOLE)
def test_two_ranks_train_like_one(case: str, ranks: Ranks, config: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    options = [config, BATCH, EVERY_STEP, *WHOLE[case]]
    alone = ranks.start(1, [*options, "name=one"], target=train_in_float64, extra=[str(tmp_path / "one")])
    pair = ranks.start(2, [*options, "name=two"], target=train_in_float64, extra=[str(tmp_path / "two")])
    assert (alone.wait(), pair.wait()) == ([0], [0, 0]), alone.output + pair.output
    assert read_state(newest(one))["counters"] == read_state(newest(two))["counters"]
    before, expected, found = states(one, 1, "before")[0], states(one, 1)[0], states(two, 2)
    assert expected["critic/score.bias"].dtype == np.float64
    for network in ("critic", "generator", "ema"):
        assert largest_difference(before, expected, network) > 1e-4
        assert largest_difference(expected, found[0], network) < 1e-9
    assert_metrics_agree(one, two, rtol=1e-4)
    assert_same_bits(*found)


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.slow] if "gradient" in case else []) for case in HALVES],
)
def test_two_ranks_give_the_bits_of_one_with_its_batch_in_halves(
    case: str, ranks: Ranks, config: str, tmp_path: Path
) -> None:
    """Both add the same numbers in the same order, so a difference would be one of data, noise or averaging."""
    options = [config, BATCH, EVERY_STEP, *HALVES[case]]
    alone = ranks.start(1, [*options, "name=one", "schedule.micro_batch=32"])
    pair = ranks.start(2, [*options, "name=two"])
    assert (alone.wait(), pair.wait()) == ([0], [0, 0]), alone.output + pair.output
    one, two = (read_tensors(newest(tmp_path / name)) for name in ("one", "two"))
    assert_same_bits(one, two)
    assert_metrics_agree(tmp_path / "one", tmp_path / "two", rtol=1e-5)


def test_batch_norm_on_each_ranks_own_samples_keeps_ranks_equal(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    options = ["model.generator_norm=batch", "model.critic_norm=batch", "model.sync_batch_norm=false"]
    ranks.run(2, [config, BATCH, EVERY_STEP, *options], target=train_and_keep_state, extra=[str(tmp_path)])
    assert_same_bits(*states(tmp_path, 2))


def test_every_critic_weight_stays_in_the_box_on_every_rank(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    options = ["objective.clip=0.02", "critic_optimizer.lr=1e-2", "generator_optimizer.lr=1e-2"]
    ranks.run(2, [config, *options], target=train_and_keep_state, extra=[str(tmp_path)])
    for state in states(tmp_path, 2):
        weights = {name: value for name, value in state.items() if name.startswith("critic/")}
        assert all(np.abs(value).max() <= np.float32(0.02) for value in weights.values())
        assert any((np.abs(value) == np.float32(0.02)).any() for value in weights.values())
        generator = [value for name, value in state.items() if name.startswith("generator/")]
        assert any(np.abs(value).max() > 0.1 for value in generator)


def train_over_gloo(arguments: list[str], most_gathered: str, exchange: str) -> int:
    """Train without Unix sockets, and check that gradients are averaged by this collective operation."""
    from pipeline.ranks import averaging, runtime
    from pipeline.train import main

    averaging.GATHERED_BYTES = int(most_gathered)
    with (
        patch.object(runtime, "connect", lambda *_: None),
        patch.object(dist, exchange, wraps=getattr(dist, exchange)) as calls,
    ):
        code = main(arguments)
    # The ranks' votes are of one number.
    sizes = [call.args[-1].numel() for call in calls.call_args_list if call.kwargs.get("async_op")]
    assert any(size > 1 for size in sizes), "DDP does not use the hook"
    return code


@pytest.mark.slow
def test_every_way_to_average_gradients_gives_the_same_mean(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    arguments = [config, "schedule.steps=5", EVERY_STEP]
    for name, extra in (("gathered", ("1000000", "all_gather")), ("reduced", ("0", "all_reduce"))):
        ranks.run(3, [*arguments, f"name={name}"], target=train_over_gloo, extra=extra)
    ranks.run(3, [*arguments, "name=sockets"])
    sockets, gathered, reduced = (
        read_tensors(newest(tmp_path / name)) for name in ("sockets", "gathered", "reduced")
    )
    assert_same_bits(sockets, gathered)
    for name, values in gathered.items():
        np.testing.assert_allclose(values, reduced[name], rtol=1e-4, atol=1e-6, err_msg=name)
