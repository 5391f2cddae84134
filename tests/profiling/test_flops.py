"""FLOPs of a step against sums computed by hand, and the highest rate of this machine."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.options import Config
from pipeline.profiling.flops import count_flops, forward_flops, measure_rates, step_flops

LATENT, WIDTH, BATCH, UPDATES = 10, 32, 6, 3
PIXELS = 8 * 8
MLP = {"name": "mlp", "latent": LATENT, "width": WIDTH, "layers": 2}
MLP_GENERATOR = 2 * (LATENT * WIDTH + WIDTH * WIDTH + WIDTH * PIXELS)
MLP_CRITIC = 2 * (PIXELS * WIDTH + WIDTH * WIDTH + WIDTH)


def config(**sections: Any) -> Config:
    schedule = {"steps": 1, "global_batch": BATCH, "critic_updates": UPDATES, **sections.pop("schedule", {})}
    return Config.model_validate({"name": "run", "data": {"shards": "x"}, "schedule": schedule, **sections})


def test_a_fully_connected_step_has_the_flops_of_its_matrix_products() -> None:
    flops = step_flops(config(model=MLP), 8, 1)
    # Forward, gradients of weights, gradients of inputs; the last are not needed for images and latents.
    assert flops == {
        "fakes": UPDATES * BATCH * MLP_GENERATOR,
        "critic updates": UPDATES * 2 * BATCH * (3 * MLP_CRITIC - 2 * PIXELS * WIDTH),
        "generator update": BATCH * (3 * MLP_GENERATOR - 2 * LATENT * WIDTH + 2 * MLP_CRITIC),
    }


def test_a_gradient_penalty_adds_a_forward_pass_and_a_double_backward() -> None:
    plain = step_flops(config(model=MLP), 8, 1)
    penalised = step_flops(config(model=MLP, objective={"name": "gradient_penalty"}), 8, 1)
    hidden = MLP_CRITIC - 2 * WIDTH
    # The double backward passes through the products of the first backward, one of them with a constant factor,
    # and through the hidden layers, but not to the images, because it starts from their gradient.
    extra = 2 * MLP_CRITIC + (2 * MLP_CRITIC - 2 * WIDTH) + 2 * hidden - 2 * PIXELS * WIDTH
    assert penalised["critic updates"] == plain["critic updates"] + UPDATES * BATCH * extra
    assert penalised["fakes"] == plain["fakes"]
    assert penalised["generator update"] == plain["generator update"]


def test_a_convolution_network_has_the_flops_of_its_kernels_at_every_pixel() -> None:
    small = config(model={"name": "dcgan", "latent": LATENT, "width": 8})
    first = 2 * 8 * 8 * 16 * 8
    critic = first + 2 * 4 * 4 * 16 * 8 * 16 + 2 * 4 * 4 * 16
    generator = 2 * LATENT * 4 * 4 * 16 + 2 * 4 * 4 * 16 * 16 * 8 + 2 * 8 * 8 * 16 * 8
    assert forward_flops(small, 16, 1) == {"generator": generator, "critic": critic}
    assert step_flops(small, 16, 1) == {
        "fakes": UPDATES * BATCH * generator,
        "critic updates": UPDATES * 2 * BATCH * (3 * critic - first),
        "generator update": BATCH * (3 * generator - 2 * LATENT * 4 * 4 * 16 + 2 * critic),
    }


def test_rectangles_count_both_sides() -> None:
    small = config(model={"name": "dcgan", "latent": LATENT, "width": 8})
    critic = 2 * 8 * 12 * 16 * 8 + 2 * 4 * 6 * 16 * 8 * 16 + 2 * 4 * 6 * 16
    assert forward_flops(small, (16, 24), 1)["critic"] == critic
    assert step_flops(small, (16, 24), 1).keys() == step_flops(small, 16, 1).keys()


def test_a_critic_batch_counts_only_for_critic_updates_and_their_fakes() -> None:
    plain = step_flops(config(model=MLP), 8, 1)
    doubled = step_flops(config(model=MLP, schedule={"critic_batch": 2 * BATCH}), 8, 1)
    assert doubled["fakes"] == 2 * plain["fakes"]
    assert doubled["critic updates"] == 2 * plain["critic updates"]
    assert doubled["generator update"] == plain["generator update"]


def test_alternating_rounds_add_one_pass_over_the_last_real_images() -> None:
    small = {"name": "dcgan", "latent": LATENT, "width": 8}
    joint = step_flops(config(model=small), 16, 1)
    alternating = step_flops(config(model=small, schedule={"critic_rounds": "alternating"}), 16, 1)
    extra = BATCH * forward_flops(config(model=small), 16, 1)["critic"]
    assert alternating["critic updates"] - joint["critic updates"] == extra


@pytest.mark.slow
def test_counting_draws_no_random_numbers_and_allocates_no_weights() -> None:
    before = torch.get_rng_state()
    huge = config(model={**MLP, "width": 16384, "layers": 64})
    assert step_flops(huge, 8, 1)["critic updates"] > 1e12
    assert torch.equal(torch.get_rng_state(), before)


def test_an_architecture_without_a_network_for_the_resolution_is_refused() -> None:
    with pytest.raises(ConfigError, match="resnet does not support images of 8x8"):
        step_flops(config(model={"name": "resnet"}), 8, 1)


def test_a_product_is_counted_as_two_operations_for_each_pair_of_factors() -> None:
    assert count_flops(lambda: torch.ones(3, 5) @ torch.ones(5, 7)) == 2 * 3 * 5 * 7
    assert count_flops(lambda: torch.ones(3, 5) + 1) == 0


def test_rates_are_plausible_and_measuring_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    rates = measure_rates(torch.device("cpu"), "float32")
    # A core does more than a hundred million operations per second, and no machine does a quintillion.
    assert rates.keys() == {"matrix products", "convolutions"}
    assert all(1e8 < rate < 1e18 for rate in rates.values())
    assert torch.equal(torch.get_rng_state(), before)
