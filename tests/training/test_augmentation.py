"""Augmentation: each kind against its definition, how it adapts, and that it leaks nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.options import AugmentKind, AugmentOptions
from pipeline.training.augmentation import KINDS, NUMBERS, Augmentation, augment
from tests.ranks import Ranks, assert_same_bits, newest, read_metrics, read_tensors

SIZE = (3, 8, 8)
ALL: list[AugmentKind] = ["flip", "rotate", "shift", "colour", "cutout"]


def images(batch: int = 6, size: tuple[int, int, int] = SIZE) -> Tensor:
    return torch.rand(batch, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def numbers(batch: int = 6) -> Tensor:
    return torch.rand(batch, NUMBERS, generator=torch.Generator().manual_seed(1))


def changed(kind: AugmentKind, *values: float, size: tuple[int, int, int] = SIZE) -> tuple[Tensor, Tensor]:
    """An image, and the same changed by this kind with these numbers."""
    image, (first, count, _) = images(1, size), KINDS[kind]
    assert len(values) == count
    drawn = torch.zeros(1, NUMBERS)
    drawn[0, first + 1 : first + 1 + count] = torch.tensor(values)
    return image[0], augment(image, drawn, 1.0, [kind])[0]


def test_every_kind_has_its_own_numbers() -> None:
    taken = [column for first, count, _ in KINDS.values() for column in range(first, first + count + 1)]
    assert sorted(taken) == list(range(NUMBERS))


def test_flips_and_turns_move_pixels_as_they_say() -> None:
    before, after = changed("flip", 0.49)
    assert torch.equal(after, before.flip(2))
    before, after = changed("flip", 0.51)
    assert torch.equal(after, before)
    for turns in range(4):
        before, after = changed("rotate", turns / 4 + 0.1)
        assert torch.equal(after, torch.rot90(before, turns, (1, 2)))
    before, after = changed("rotate", 0.9, size=(1, 8, 12))
    assert torch.equal(after, before.flip(1, 2))
    before, after = changed("rotate", 0.3, size=(1, 8, 12))
    assert torch.equal(after, before)


@pytest.mark.parametrize("size", [(3, 16, 16), (1, 8, 24)])
def test_a_shift_is_of_at_most_an_eighth_and_brings_in_grey(size: tuple[int, int, int]) -> None:
    height, width = size[1:]
    before, after = changed("shift", 0.0, 0.999, size=size)
    up, right = round(height / 8), round(width / 8)
    assert torch.equal(after[:, : height - up, right:], before[:, up:, : width - right])
    assert (after[:, height - up :] == 0).all()
    assert (after[:, :, :right] == 0).all()
    before, after = changed("shift", 0.5, 0.5, size=size)
    assert torch.equal(after, before)


def test_colours_change_by_their_formulas_and_transparency_does_not() -> None:
    before, after = changed("colour", 0.75, 0.5, 0.5, size=(4, 8, 8))
    torch.testing.assert_close(after[:3], before[:3] + 0.25)
    assert torch.equal(after[3], before[3])
    before, after = changed("colour", 0.5, 0.0, 0.5)
    torch.testing.assert_close(after, before.mean(0).expand_as(before))
    before, after = changed("colour", 0.5, 0.5, 1.0)
    torch.testing.assert_close(after, before.mean() + 1.5 * (before - before.mean()))
    before, after = changed("colour", 0.5, 0.9, 0.5, size=(1, 8, 8))
    torch.testing.assert_close(after, before)


def test_a_cutout_is_a_grey_box_of_half_of_each_side() -> None:
    before, after = changed("cutout", 0.5, 0.25)
    box = torch.zeros(8, 8, dtype=torch.bool)
    box[2:6, 0:4] = True
    assert (after[:, box] == 0).all()
    assert torch.equal(after[:, ~box], before[:, ~box])


def test_probability_0_changes_nothing_and_each_image_is_changed_by_itself() -> None:
    assert torch.equal(augment(images(), numbers(), 0.0, ALL), images())
    whole = augment(images(), numbers(), 0.6, ALL)
    assert not torch.equal(whole, images())
    part = augment(images()[2:5], numbers()[2:5], torch.tensor(0.6), ALL)
    assert torch.equal(whole[2:5], part), "a rank's part is what one process makes of these rows"


def test_changes_can_be_differentiated() -> None:
    drawn, start = numbers(3), images(3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment(x, drawn, 1.0, ALL), start)
    shifted = augment(start, drawn, 1.0, ["shift", "flip", "rotate"])
    (gradient,) = torch.autograd.grad(shifted.sum(), start)
    assert set(gradient.unique().tolist()) <= {0.0, 1.0}, "each pixel goes to one place at most"


@pytest.mark.parametrize(("probability", "least"), [(0.5, 0.4), (0.79, 0.15), (1.0, 0.0)])
def test_turned_images_tell_how_the_others_were_turned(probability: float, least: float) -> None:
    """The shares of the four turns go through a matrix, which can be inverted unless every image is turned."""
    image = torch.arange(4.0).view(1, 1, 2, 2)
    poses = [torch.rot90(image, turns, (2, 3)) for turns in range(4)]
    many = 4000
    drawn = torch.rand(many, NUMBERS, generator=torch.Generator().manual_seed(5))
    matrix = torch.stack(
        [
            torch.stack(
                [
                    (augment(pose.expand(many, 1, 2, 2), drawn, probability, ["rotate"]) == other)
                    .flatten(1)
                    .all(1)
                    .float()
                    .mean()
                    for other in poses
                ]
            )
            for pose in poses
        ]
    )
    torch.testing.assert_close(matrix.sum(1), torch.ones(4))
    smallest = torch.linalg.svdvals(matrix).min().item()
    assert smallest == pytest.approx(1 - probability, abs=0.03)
    assert smallest >= least


def test_the_probability_moves_towards_its_target_and_stays_within_its_bounds() -> None:
    options = AugmentOptions(kinds=["flip"], target=0.8, probability=0.5, adapt_images=1000)
    adapted = Augmentation(options, torch.tensor(0.5))
    place = adapted.probability.data_ptr()
    found = []
    for share in (0.9, 0.1, 0.5, 0.8):
        adapted.adapt(torch.tensor(share), images=256)
        found.append(adapted.probability.item())
    assert found == pytest.approx([0.756, 1.0, 0.744, 0.744])
    for _ in range(5):
        adapted.adapt(torch.tensor(0.5), images=256)
    assert adapted.probability.item() == 0.0
    assert adapted.probability.data_ptr() == place


def test_a_run_with_probability_0_has_the_bits_of_one_without(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    ranks.run(1, [config, "name=plain", "schedule.steps=4"])
    ranks.run(1, [config, "name=never", "schedule.steps=4", f"augment={{kinds: {ALL}, probability: 0}}"])
    assert_same_bits(read_tensors(newest(tmp_path / "plain")), read_tensors(newest(tmp_path / "never")))


def test_an_adapted_run_goes_on_with_its_probability(ranks: Ranks, config: str, tmp_path: Path) -> None:
    adapted = [
        "augment={kinds: [colour, cutout], target: 0.8, probability: 0.3, adapt_images: 4000}",
        "monitor.log_every=2",
    ]
    ranks.run(1, [config, *adapted, "name=whole", "schedule.steps=14"])
    for steps in (6, 14):
        ranks.run(1, [config, *adapted, "name=resumed", f"schedule.steps={steps}"])
    whole, resumed = (read_tensors(newest(tmp_path / name)) for name in ("whole", "resumed"))
    assert_same_bits(whole, resumed)
    moved = [line["augmentation/probability"] for line in read_metrics(tmp_path / "resumed")]
    assert moved == [line["augmentation/probability"] for line in read_metrics(tmp_path / "whole")]
    assert len(set(moved)) > 2
