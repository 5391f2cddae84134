"""Training on labels: which images have which, and runs that are resumed, sampled and refused."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

import pipeline
from pipeline import load_generator
from pipeline.data.reading.loader import Staged
from pipeline.errors import ConfigError, StopRequested
from pipeline.noise import RankRows
from pipeline.run.checkpoint import list_checkpoints
from pipeline.training.graphed_step import fixed, refill
from pipeline.training.observer import Observer
from pipeline.training.step import take_step
from pipeline.training.updates import parts
from tests.ranks import assert_same_bits, newest, read_metrics, read_tensors
from tests.training.test_step import BATCH, LATENT, SIDE, config, training_step

CLASSES = 4
SHARES = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)


class Seeing(nn.Module):
    """A network that notes with which labels it is called."""

    def __init__(self, makes_images: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.makes_images, self.seen = makes_images, list[Tensor]()

    def forward(self, values: Tensor, labels: Tensor | None = None, float32: bool = False) -> Tensor:
        assert labels is not None
        assert len(labels) == len(values)
        self.seen.append(labels)
        if self.makes_images:
            return (self.weight * values[:, :1, None, None]).expand(-1, 1, SIDE, SIDE)
        return (self.weight * values).square().sum((1, 2, 3))


def labels_of(count: int) -> list[Tensor]:
    """The labels of the first batches."""
    found = (staged.labels for staged in islice(batches(), count))
    return [labels for labels in found if labels is not None]


def batches() -> Iterator[Staged]:
    generator = torch.Generator().manual_seed(1)
    while True:
        labels = torch.randint(CLASSES, (BATCH,), generator=generator)
        yield Staged(torch.rand(BATCH, 1, SIDE, SIDE, generator=generator), None, labels)


def labelled_step(**options: Any) -> Any:
    """A step of networks that note their labels."""
    mlp = {"name": "mlp", "width": 8, "layers": 1, "latent": LATENT}
    networks = patch.multiple(
        "tests.training.test_step",
        build_generator=lambda *_: Seeing(True),
        build_critic=lambda *_: Seeing(False),
    )
    with networks:
        step = training_step(config(**{"model": mlp, **options}))
    step.class_shares, step.runtime.device = SHARES, torch.device("cpu")
    return step


def parts_of(labels: Tensor, schedule: dict[str, Any]) -> set[tuple[int, ...]]:
    """The labels that the networks may be called with together."""
    cuts = [part for part, _, _ in parts(BATCH, schedule.get("micro_batch"))]
    return {tuple(batch[part].tolist()) for batch in labels.split(BATCH) for part in cuts}


@pytest.mark.parametrize(
    "objective", [{"name": "hinge"}, {"name": "gradient_penalty"}, {"name": "hinge", "r1": 1.0, "r2": 1.0}]
)
@pytest.mark.parametrize("schedule", [{}, {"micro_batch": 2}])
def test_generated_images_of_critic_updates_have_the_labels_of_the_real_ones(
    objective: dict[str, Any], schedule: dict[str, Any]
) -> None:
    step = labelled_step(objective=objective, schedule={"critic_updates": 3, **schedule})
    critic, generator = step.state.critic.module, step.state.generator.module
    step.take(batches())
    by_critic, by_generator = critic.seen, generator.seen
    drawn = torch.cat(by_generator)
    real = torch.cat(labels_of(3))
    assert torch.equal(drawn[: 3 * BATCH], real)
    assert len(drawn) == 4 * BATCH
    # Whether a critic update scores real images, generated ones or those of a penalty, it does so with these labels.
    for labels in by_critic[: -1 if schedule == {} else -2]:
        versions = labels.reshape(-1, min(len(labels), schedule.get("micro_batch", BATCH)))
        assert {tuple(each) for each in versions.tolist()} <= parts_of(real, schedule)


def test_pairs_and_reused_images_have_the_labels_of_the_last_real_images() -> None:
    expected = labels_of(2)[-1]
    for options in ({"objective": {"name": "relativistic"}}, {"schedule": {"reuse_fakes": True}}):
        schedule = {"critic_updates": 2, **options.get("schedule", {})}
        step = labelled_step(**{**options, "schedule": schedule})
        step.take(batches())
        assert torch.equal(step.state.generator.module.seen[-1], expected)


def test_labels_of_generator_updates_are_those_of_the_global_batch_on_any_ranks() -> None:
    step = labelled_step()
    counts = torch.zeros(CLASSES)
    for number in range(300):
        step.state.counters.step = number
        labels = step.inputs(batches()).generator_draw.labels
        counts += torch.bincount(labels, minlength=CLASSES)
        if number < 5:
            thirds = []
            for rank in range(3):
                third = labelled_step()
                third.rows = RankRows.of_rank(rank, 3, BATCH)
                third.state.counters.step = number
                thirds.append(third.inputs(batches()).generator_draw.labels)
            assert torch.equal(torch.cat(thirds), labels)
    torch.testing.assert_close(counts / counts.sum(), SHARES.float(), atol=0.03, rtol=0)
    uniform = labelled_step(model={"name": "mlp", "conditional": True, "labels": "uniform", "latent": LATENT})
    assert uniform._label_shares.tolist() == [0.25] * 4


def test_fixed_inputs_hold_the_labels() -> None:
    step = labelled_step(schedule={"critic_updates": 2})
    source = batches()
    places = fixed(step.inputs(source), torch.device("cpu"))
    held: Any = [*(staged.labels for staged in places.batches), places.generator_draw.labels]
    step.state.counters.step = 9
    again = step.inputs(source)
    refill(places, again)
    new: Any = [*labels_of(4)[2:], again.generator_draw.labels]
    for place, value in zip(held, new, strict=True):
        assert torch.equal(place, value)
    take_step(step.parts, places)


def test_uniform_labels_cannot_be_paired() -> None:
    from pipeline.objectives import build_objective
    from pipeline.training.step import check_objective

    found = config(model={"name": "mlp", "conditional": True, "labels": "uniform"})
    paired = build_objective(config(objective={"name": "relativistic"}).objective)
    with pytest.raises(ConfigError, match=r"model.labels: uniform cannot be used with the objective Relativ"):
        check_objective(paired, found)


OPTIONS: dict[str, Any] = {
    "model": {"name": "dcgan", "width": 4, "latent": 8, "conditional": True},
    "objective": {"name": "gradient_penalty"},
    "schedule": {"steps": 6, "global_batch": 16, "critic_updates": 2},
    "monitor": {"log_every": 2, "sample_every": 6, "validation_every": 3, "grid": 3, "plots": False},
    "checkpoint": {"every": 100},
    "quality": {"every": 6, "metrics": ["fid"], "samples": 128},
}


def train(root: Path, shards: Path, name: str, **options: Any) -> Path:
    config = {"name": name, "run_root": str(root), "data": {"shards": str(shards), "validation": 0.1}}
    pipeline.train({**OPTIONS, **config, **options})
    return root / name


@pytest.fixture(scope="module")
def run(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run on digits, never stopped."""
    return train(tmp_path_factory.mktemp("runs"), digits, "whole")


def test_a_run_that_is_stopped_before_a_step_is_recorded_ends_with_the_same_bits(
    run: Path, digits: Path, tmp_path: Path
) -> None:
    watch = Observer.watch

    def stop(self: Observer, seen: Any) -> bool:
        if self.state.counters.step == 4:
            raise StopRequested("a signal")
        return watch(self, seen)

    with patch.object(Observer, "watch", stop), pytest.raises(StopRequested):
        train(tmp_path, digits, "stopped")
    (saved,) = list_checkpoints(tmp_path / "stopped" / "checkpoints")
    assert saved.step == 4
    stopped = train(tmp_path, digits, "stopped")
    assert_same_bits(read_tensors(newest(run)), read_tensors(newest(stopped)))
    ours, theirs = ([line.get("critic/loss") for line in read_metrics(each)] for each in (run, stopped))
    assert ours == theirs
    assert any(ours)


def test_grids_have_a_row_for_each_latent_and_a_column_for_each_class(run: Path) -> None:
    from PIL import Image

    picture = Image.open(run / "samples" / "step_00000006.png")
    # 16 pixels are shown as 32, with a frame of 2.
    assert picture.size == (10 * 34 + 2, 3 * 34 + 2)
    assert "wasserstein/validation" in {name for line in read_metrics(run) for name in line}
    assert any(name.startswith("quality/fid") for line in read_metrics(run) for name in line)


def test_a_loaded_generator_draws_images_of_classes(run: Path) -> None:
    generator = load_generator(run)
    assert generator.classes == [str(digit) for digit in range(10)]
    latents = torch.randn(3, generator.latent)
    chosen = generator.draw(latents, torch.tensor([7, 1, 7]))
    in_turn, alone = generator.sample(4, classes=["7", 1]), generator.sample(2, classes=[1])
    torch.testing.assert_close(in_turn[1], alone[1])
    torch.testing.assert_close(generator(latents, torch.tensor([7, 1, 7])).detach(), chosen)
    assert torch.equal(generator.sample(12), generator.sample(12, classes=range(10)))
    with pytest.raises(ConfigError, match="was given no labels"):
        generator.draw(latents)
    with pytest.raises(ConfigError, match=r"class cat: the generator knows no such class. It knows 0, 1, 2"):
        generator.sample(3, classes=["cat"])


def test_a_run_with_other_classes_is_not_resumed(run: Path, digits: Path) -> None:
    from pipeline.errors import CheckpointError

    with pytest.raises(CheckpointError, match=r"classes: .* in the checkpoint, absent now"):
        train(run.parent, digits, "whole", model={**OPTIONS["model"], "conditional": False})
