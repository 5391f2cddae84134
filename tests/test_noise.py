"""Random draws: the same for any number of ranks, never the same twice."""

from __future__ import annotations

import itertools

import pytest
import torch

from pipeline.noise import Noise, Purpose, RankRows

CPU = torch.device("cpu")
WHOLE = RankRows(0, 12, 12)


def draw(
    seed: int = 0,
    purpose: Purpose = Purpose.CRITIC,
    step: int = 0,
    update: int = 0,
    rows: RankRows = WHOLE,
    latent: int = 5,
) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = Noise(seed, CPU).draw(purpose, step, update, rows, latent)
    assert drawn.augmentation is None
    return drawn.latents, drawn.uniform


def test_uniform_numbers_are_those_of_the_ranks_rows() -> None:
    whole = Noise(3, CPU).uniform(Purpose.CRITIC_AUGMENTATION, 5, 1, WHOLE, 7)
    part = Noise(3, CPU).uniform(Purpose.CRITIC_AUGMENTATION, 5, 1, RankRows(4, 3, 12), 7)
    assert torch.equal(part, whole[4:7])
    assert 0 <= whole.min() < whole.max() < 1
    others = [
        Noise(3, CPU).uniform(Purpose.CRITIC_AUGMENTATION, 5, 2, WHOLE, 7),
        Noise(3, CPU).uniform(Purpose.GENERATOR_AUGMENTATION, 5, 1, WHOLE, 7),
    ]
    assert not any(torch.equal(whole, other) for other in others)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 12])
def test_the_ranks_rows_put_together_are_the_draw_of_one_process(world_size: int) -> None:
    latents, uniform = draw(step=3, update=1)
    slices = [RankRows.of_rank(rank, world_size, 12) for rank in range(world_size)]
    parts = [draw(step=3, update=1, rows=rows) for rows in slices]
    assert torch.equal(torch.cat([part[0] for part in parts]), latents)
    assert torch.equal(torch.cat([part[1] for part in parts]), uniform)


def test_shapes_and_types_are_those_of_the_ranks_rows() -> None:
    latents, uniform = draw(rows=RankRows(4, 3, 12))
    assert (latents.shape, latents.dtype) == ((3, 5), torch.float32)
    assert (uniform.shape, uniform.dtype) == ((3,), torch.float32)


def test_no_latent_comes_twice_in_any_rank_step_update_or_purpose() -> None:
    rows = [
        tuple(row)
        for purpose, step, update, rank in itertools.product(Purpose, range(5), range(4), range(3))
        for row in draw(0, purpose, step, update, RankRows.of_rank(rank, 3, 12))[0].tolist()
    ]
    assert len(rows) == len(Purpose) * 5 * 4 * 12
    assert len(set(rows)) == len(rows)


def test_step_and_update_do_not_stand_in_for_each_other() -> None:
    draws = {(step, update): draw(step=step, update=update)[0] for step in range(6) for update in range(6)}
    for (one, first), (other, second) in itertools.combinations(draws.items(), 2):
        assert not torch.equal(first, second), (one, other)


def test_seeds_have_draws_of_their_own() -> None:
    draws = {tuple(draw(seed)[0].flatten().tolist()) for seed in [*range(50), 2**32, 2**62, 2**63 - 1]}
    assert len(draws) == 53


def test_a_draw_depends_on_its_arguments_alone() -> None:
    noise, expected = Noise(1, CPU), draw(seed=1, step=7)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for step in (3, 7, 2, 7):
        found = noise.draw(Purpose.CRITIC, step, 0, WHOLE, 5)
        if step == 7:
            assert torch.equal(found[0], expected[0])
            assert torch.equal(found[1], expected[1])
    assert torch.equal(torch.get_rng_state(), before)


def test_latents_are_standard_normal_and_shares_uniform() -> None:
    latents, uniform = draw(rows=RankRows(0, 20_000, 20_000), latent=10)
    # Standard errors are 0.002 and below.
    assert abs(latents.mean().item()) < 0.01
    assert abs(latents.std().item() - 1) < 0.01
    assert abs((latents**4).mean().item() - 3) < 0.1
    assert torch.corrcoef(latents.T).fill_diagonal_(0).abs().max() < 0.05
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(uniform.mean().item() - 0.5) < 0.01
    assert abs(uniform.var().item() - 1 / 12) < 0.005


def test_latents_of_successive_updates_are_independent() -> None:
    rows = RankRows(0, 64, 64)
    updates = torch.stack([draw(update=update, rows=rows)[0].flatten() for update in range(20)])
    assert torch.corrcoef(updates).fill_diagonal_(0).abs().max() < 0.25


def test_slices_divide_the_batch_without_gap_or_overlap() -> None:
    for world_size in (1, 2, 3, 4, 6, 12):
        rows = [RankRows.of_rank(rank, world_size, 12) for rank in range(world_size)]
        covered = [place for part in rows for place in range(part.first, part.first + part.count)]
        assert covered == list(range(12))
