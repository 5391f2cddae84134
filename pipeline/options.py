"""Every option of a run, with its default and its bounds: one class for each part of the pipeline.

This file imports neither torch nor anything that does, so that a wrong option is refused at once.
How options are read and combined stands in config.py.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Norm = Literal["none", "batch", "layer", "instance"]


class Options(BaseModel):
    """What all parts share: unknown keys are refused, values are not converted, nothing changes later."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class DataOptions(Options):
    """Where the images are and how they are read."""

    shards: str = Field(min_length=1, description="directory made by `wgan shards make`")
    cache: Literal["auto", "device", "host", "none"] = Field(
        default="auto",
        description="where decoded images stay: in the device's memory, in host memory that the ranks of a "
        "node share, or nowhere (decode each batch); auto takes the first that fits",
    )
    workers: int = Field(
        default=0, ge=0, le=64, description="decoding processes of each rank, for cache: none"
    )
    shuffle_shards: int = Field(
        default=64,
        ge=1,
        description="how many shards, drawn at random, are shuffled together at sample level",
    )
    validation: float = Field(
        default=0.0, ge=0.0, le=0.5, description="share of the samples held out for wasserstein/validation"
    )
    verify: Literal["hashes", "sizes"] = Field(
        default="hashes", description="what is checked of every shard before training starts"
    )


class DcganOptions(Options):
    """The DCGAN pair (models/dcgan.py), for square images of 4, 5, 6 or 7 times a power of two pixels."""

    name: Literal["dcgan"] = "dcgan"
    latent: int = Field(default=100, ge=1, le=4096, description="dimensions of the latent")
    width: int = Field(
        default=64, ge=4, le=1024, description="channels beside the image; doubled at each halving"
    )
    max_width: int = Field(default=512, ge=4, le=4096, description="most channels of any layer")
    generator_norm: Norm = Field(default="batch", description="normalisation between the generator's layers")
    critic_norm: Norm = Field(default="none", description="normalisation between the critic's layers")
    sync_batch_norm: bool = Field(
        default=True, description="batch statistics over all ranks; off: over each rank's own samples"
    )


class WassersteinOptions(Options):
    """Wasserstein loss with weight clipping (objectives/wasserstein.py)."""

    name: Literal["wasserstein"] = "wasserstein"
    clip: float = Field(
        default=0.01, gt=0.0, description="half width of the box that holds every critic weight"
    )


class GradientPenaltyOptions(Options):
    """Wasserstein loss with gradient penalty (objectives/gradient_penalty.py)."""

    name: Literal["gradient_penalty"]
    weight: float = Field(default=10.0, gt=0.0, description="factor of the penalty, lambda in the paper")


class RmspropOptions(Options):
    """RMSprop, the optimizer of the WGAN paper."""

    name: Literal["rmsprop"] = "rmsprop"
    lr: float = Field(default=5e-5, gt=0.0, description="learning rate at step 0")
    alpha: float = Field(default=0.99, ge=0.0, lt=1.0, description="decay of the squared gradient's average")
    eps: float = Field(default=1e-8, gt=0.0)
    decay: Literal["constant", "linear"] = Field(
        default="constant", description="linear: from lr at step 0 to 0 at schedule.steps"
    )


class AdamOptions(Options):
    """Adam, the optimizer of the WGAN-GP paper."""

    name: Literal["adam"]
    lr: float = Field(default=1e-4, gt=0.0, description="learning rate at step 0")
    beta1: float = Field(default=0.0, ge=0.0, lt=1.0)
    beta2: float = Field(default=0.9, ge=0.0, lt=1.0)
    eps: float = Field(default=1e-8, gt=0.0)
    decay: Literal["constant", "linear"] = Field(
        default="constant", description="linear: from lr at step 0 to 0 at schedule.steps"
    )


class BurstOptions(Options):
    """Longer rounds of critic training, as in the WGAN authors' published code."""

    first_steps: int = Field(default=25, ge=0, description="steps at the start of the run that get a burst")
    every: int = Field(default=500, ge=0, description="and every so many steps after; 0 for none")
    critic_updates: int = Field(default=100, ge=1, description="critic updates in a burst")


class ScheduleOptions(Options):
    """How long a run is, and what a step consists of. A step is one generator update."""

    steps: int = Field(ge=1, description="generator updates in the whole run")
    global_batch: int = Field(default=64, ge=1, description="samples of one update, over all ranks")
    micro_batch: int | None = Field(
        default=None, ge=1, description="most samples that a rank puts through the networks at once"
    )
    critic_updates: int = Field(
        default=5, ge=1, le=1000, description="critic updates of each step (n_critic)"
    )
    bursts: BurstOptions | None = None


class MonitorOptions(Options):
    """What is written about a run, and how often (in steps)."""

    log_every: int = Field(default=20, ge=1, description="scalars to TensorBoard and metrics.jsonl")
    sample_every: int = Field(default=200, ge=1, description="image grids and weight histograms")
    validation_every: int = Field(default=200, ge=1, description="Wasserstein estimate on held-out images")
    grid: int = Field(default=8, ge=1, le=32, description="rows and columns of the image grids")
    smoothing: float = Field(
        default=0.9,
        ge=0.0,
        lt=1.0,
        description="weight of the past in wasserstein/estimate_smooth, per logged point",
    )


class CheckpointOptions(Options):
    """When the run is saved, and what is kept (in steps)."""

    every: int = Field(default=1000, ge=1)
    keep_last: int = Field(default=2, ge=1, description="newest checkpoints that stay")
    keep_every: int | None = Field(
        default=None, ge=1, description="checkpoints at multiples of this stay for good"
    )


class RuntimeOptions(Options):
    """The processes and the device."""

    processes: int | None = Field(
        default=None, ge=1, description="ranks that the run must have; another number is an error"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    timeout_seconds: float = Field(default=600.0, gt=0.0, description="how long a rank waits for the others")
    digest_every: int = Field(
        default=100, ge=1, description="steps between comparisons of all state across ranks"
    )


ModelOptions = DcganOptions
ObjectiveOptions = Annotated[WassersteinOptions | GradientPenaltyOptions, Field(discriminator="name")]
OptimizerOptions = Annotated[RmspropOptions | AdamOptions, Field(discriminator="name")]


class Config(Options):
    """A run, complete."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="names the run's directory below run_root"
    )
    run_root: str = Field(default="runs", min_length=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    precision: Literal["float32", "bf16", "fp16"] | None = Field(
        default=None, description="of the networks' forward and backward; null takes the launcher's choice"
    )
    ema_decay: float = Field(
        default=0.999, ge=0.0, lt=1.0, description="of the generator's moving average, per step"
    )
    critic_grad_clip: float | None = Field(default=None, gt=0.0, description="largest gradient norm")
    generator_grad_clip: float | None = Field(default=None, gt=0.0, description="largest gradient norm")
    data: DataOptions
    model: ModelOptions = DcganOptions()
    objective: ObjectiveOptions = WassersteinOptions()
    critic_optimizer: OptimizerOptions = RmspropOptions()
    generator_optimizer: OptimizerOptions = RmspropOptions()
    schedule: ScheduleOptions
    monitor: MonitorOptions = MonitorOptions()
    checkpoint: CheckpointOptions = CheckpointOptions()
    runtime: RuntimeOptions = RuntimeOptions()
