"""Every option of a run, with its default and its bounds: one class for each part of the pipeline.

This file imports neither torch nor anything that does, so that a wrong option is refused at once.
How options are read and combined stands in config.py.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Norm = Literal["none", "batch", "layer", "instance"]
ClipScope = Literal["all", "weights", "convolutions", "all_but_gains"]
Rounds = Literal["joint", "alternating"]
FeatureKind = Literal["pixels", "classifier", "inception"]
Metric = Literal[
    "fid", "kid", "precision", "recall", "density", "coverage", "copied", "swd", "modes", "class_distance"
]

HIGHER_IS_BETTER: frozenset[Metric] = frozenset({"precision", "recall", "density", "coverage", "modes"})

ClassName = Annotated[str, BeforeValidator(lambda name: str(name) if type(name) is int else name)]
"""The name of a class, which may be written as a number: the digit 7."""


class Options(BaseModel):
    """What all parts share: unknown keys are refused, values are not converted, nothing changes later."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class RemoteOptions(Options):
    """How shards at a URL are fetched: whole, into a directory that the jobs of a machine may share."""

    directory: str = Field(
        default="~/.cache/wgan-pipeline/shards", min_length=1, description="where fetched shards are kept"
    )
    capacity_gb: float = Field(
        default=100.0, gt=0, description="the most they may take, in 10^9 bytes; least recently used go first"
    )
    parallel: int = Field(default=4, ge=1, le=64, description="how many are fetched at once by each rank")
    stall_seconds: float = Field(
        default=30.0, gt=0, description="silence after which a connection is given up and made again"
    )
    deadline_seconds: float = Field(
        default=600.0, gt=0, description="time after which a shard that cannot be had stops the run"
    )


class DataOptions(Options):
    """Where the images are and how they are read."""

    shards: str = Field(
        min_length=1,
        description="directory made by `wgan shards make`, or its URL: https://, s3://, gs:// or hf://",
    )
    cache: Literal["auto", "device", "host", "none"] = Field(
        default="auto",
        description="where decoded images stay: in the device's memory, in host memory that the ranks of a "
        "node share, or nowhere (decode each batch); auto takes the first that fits",
    )
    workers: int | None = Field(
        default=None,
        ge=0,
        le=64,
        description="threads of each rank that decode ahead, for cache: none; 0 decodes in the loop, null takes the "
        "machine's cores",
    )
    shuffle_shards: int = Field(
        default=64,
        ge=1,
        description="how many shards, drawn at random, are shuffled together at sample level",
    )
    streams: int = Field(
        default=1,
        ge=1,
        le=65536,
        description="equal parts that the set is cut into, each batch drawing equally from all; ranks whose number "
        "divides it read only their own parts",
    )
    classes: list[ClassName] | None = Field(
        default=None, min_length=1, description="names of the classes to train on; null takes all images"
    )
    validation: float = Field(
        default=0.0, ge=0.0, le=0.5, description="share of the samples held out for wasserstein/validation"
    )
    flip: bool = Field(
        default=False, description="mirror each image left to right with probability 1/2, anew in each epoch"
    )
    verify: Literal["hashes", "sizes"] = Field(
        default="hashes", description="what is checked of every local shard before training starts"
    )
    remote: RemoteOptions = RemoteOptions()


class NetworkOptions(Options):
    """What every architecture has. Norms that one cannot choose stand as class variables with its fixed value."""

    latent: int = Field(default=100, ge=1, le=4096, description="dimensions of the latent")
    sync_batch_norm: bool = Field(
        default=True, description="batch statistics over all ranks; off: over each rank's own samples"
    )


class DcganOptions(NetworkOptions):
    """The DCGAN pair (models/dcgan.py), for square images of 8 pixels and more."""

    name: Literal["dcgan"] = "dcgan"
    width: int = Field(
        default=64, ge=4, le=1024, description="channels beside the image; doubled at each halving"
    )
    max_width: int = Field(default=512, ge=4, le=4096, description="most channels of any layer")
    generator_norm: Norm = Field(default="batch", description="normalisation between the generator's layers")
    critic_norm: Norm = Field(default="none", description="normalisation between the critic's layers")
    spectral_norm: bool = Field(
        default=False, description="divide each of the critic's weights by its largest singular value"
    )


class MlpOptions(NetworkOptions):
    """Fully connected networks (models/mlp.py), for square images of any size."""

    name: Literal["mlp"]
    generator_norm: ClassVar[Norm] = "none"
    critic_norm: ClassVar[Norm] = "none"
    width: int = Field(default=512, ge=1, le=16384, description="units of each hidden layer")
    layers: int = Field(default=4, ge=1, le=64, description="hidden layers of each network")
    spectral_norm: bool = Field(
        default=False, description="divide each of the critic's weights by its largest singular value"
    )


class ResnetOptions(NetworkOptions):
    """The residual networks of the WGAN-GP paper (models/resnet.py), for 32, 64 and 128 pixels."""

    name: Literal["resnet"]
    generator_norm: ClassVar[Norm] = "batch"
    latent: int = Field(default=128, ge=1, le=4096, description="dimensions of the latent")
    width: int = Field(
        default=128,
        ge=4,
        le=1024,
        description="channels of each block at 32 pixels (the paper: 128); at 64 and 128 those beside the image "
        "(64), doubled inwards up to 8-fold",
    )
    critic_norm: Literal["none", "layer"] = Field(
        default="none",
        description="normalisation before the ReLUs of the critic's blocks, but for the first block at 32 pixels",
    )
    spectral_norm: bool = Field(
        default=False, description="divide each of the critic's weights by its largest singular value"
    )


class WganMnistOptions(NetworkOptions):
    """The pair of the reference systems wgan-mnist and wgan-digit7 (models/wgan_mnist.py)."""

    name: Literal["wgan_mnist"]
    generator_norm: ClassVar[Norm] = "batch"
    critic_norm: ClassVar[Norm] = "batch"
    spectral_norm: ClassVar[bool] = False
    latent: int = Field(default=50, ge=1, le=4096, description="dimensions of the latent")


class WganDcganOptions(NetworkOptions):
    """The pair of the reference system wgan-dcgan (models/wgan_dcgan.py)."""

    name: Literal["wgan_dcgan"]
    generator_norm: ClassVar[Norm] = "batch"
    critic_norm: ClassVar[Norm] = "none"
    spectral_norm: ClassVar[bool] = False


class GanBceOptions(NetworkOptions):
    """The pair of the reference system gan-bce (models/gan_bce.py)."""

    name: Literal["gan_bce"]
    generator_norm: ClassVar[Norm] = "batch"
    critic_norm: ClassVar[Norm] = "batch"
    spectral_norm: ClassVar[bool] = False


class WassersteinOptions(Options):
    """Wasserstein loss with weight clipping (objectives/wasserstein.py)."""

    name: Literal["wasserstein"] = "wasserstein"
    clip: float = Field(
        default=0.01, gt=0.0, description="half width of the box that holds the critic's weights"
    )
    scope: ClipScope = Field(
        default="all",
        description="which weights: all parameters; weights, without biases and norms; convolutions, "
        "their kernels only; or all_but_gains, everything but the gains of norms",
    )


class GradientPenaltyOptions(Options):
    """Wasserstein loss with gradient penalty (objectives/gradient_penalty.py)."""

    name: Literal["gradient_penalty"]
    weight: float = Field(default=10.0, gt=0.0, description="factor of the penalty, lambda in the paper")
    sides: Literal["two", "one"] = Field(
        default="two", description="two: gradient norms other than 1 cost; one: only those above 1"
    )


class LeastSquaresOptions(Options):
    """Least squares loss (objectives/least_squares.py). Two codings (a, b, c) are published:
    pearson (-1, 1, 0), the default here, and binary (0, 1, 1)."""

    name: Literal["least_squares"]
    a: float = Field(
        default=-1.0,
        description="what the critic's score of generated images should be (a, b, c: -1, 1, 0 pearson; 0, 1, 1 binary)",
    )
    b: float = Field(default=1.0, description="what its score of real images should be")
    c: float = Field(default=0.0, description="what the generator wants its images' score to be")


class CrossEntropyOptions(Options):
    """Binary cross entropy, the loss of the first GAN (objectives/cross_entropy.py)."""

    name: Literal["cross_entropy"]
    generator: Literal["non_saturating", "saturating"] = Field(
        default="non_saturating",
        description="minimise -log D(fake), or log(1 - D(fake)), whose gradient vanishes where D is sure",
    )
    labels: Literal["real_is_one", "real_is_zero"] = Field(
        default="real_is_one",
        description="the critic's target for real images; generated ones have the other",
    )


class HingeOptions(Options):
    """Hinge loss (objectives/hinge.py)."""

    name: Literal["hinge"]


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
    amsgrad: bool = Field(default=False, description="divide by the largest squared average so far")
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
    critic_batch: int | None = Field(
        default=None,
        ge=1,
        description="real images of a critic update, and as many generated ones; null: global_batch",
    )
    critic_rounds: Rounds = Field(
        default="joint",
        description="joint: a critic update is one optimizer step on real and generated images together; "
        "alternating: a step on the real ones, then one on the generated",
    )
    reuse_fakes: bool = Field(
        default=False,
        description="the generator trains on the images of the step's last critic update, not on new ones",
    )
    bursts: BurstOptions | None = None

    @property
    def real_images(self) -> int:
        """Real images of one critic update, over all ranks."""
        return self.critic_batch or self.global_batch

    @property
    def optimizer_steps(self) -> int:
        """Optimizer steps, on both networks, of an ordinary step of the run."""
        rounds = 1 if self.critic_rounds == "joint" else 2
        return self.critic_updates * rounds + 1


class MonitorOptions(Options):
    """What is written about a run, and how often (in steps)."""

    log_every: int = Field(default=20, ge=1, description="scalars to TensorBoard and metrics.jsonl")
    sample_every: int = Field(
        default=200,
        ge=1,
        description="image grids and weight histograms; at the start also at 1/16, 1/8, 1/4 and 1/2 of it",
    )
    validation_every: int = Field(default=200, ge=1, description="Wasserstein estimate on held-out images")
    grid: int = Field(default=8, ge=1, le=32, description="rows and columns of the image grids")
    smoothing: float = Field(
        default=0.9,
        ge=0.0,
        lt=1.0,
        description="weight of the past in wasserstein/estimate_smooth, per logged point",
    )
    plots: bool = Field(
        default=True, description="curves.png and training.gif in the run's directory, at the end"
    )


class QualityOptions(Options):
    """How good the samples are, measured while training and by `wgan evaluate`."""

    every: int | None = Field(
        default=None, ge=1, description="steps between evaluations while training; null for none"
    )
    metrics: list[Metric] = Field(
        default=["fid", "precision", "recall", "swd"],
        min_length=1,
        description="fid, kid, precision, recall, density, coverage and copied compare features; swd (sliced "
        "Wasserstein distance) compares pixels; modes and class_distance count a classifier's classes",
    )
    features: FeatureKind = Field(
        default="pixels",
        description="pixels: along their main directions, no weights needed; classifier: of "
        "`wgan features train`; inception: of the network that published figures use",
    )
    classifier: str | None = Field(
        default=None, min_length=1, description="file made by `wgan features train SHARDS`"
    )
    inception: str | None = Field(
        default=None, min_length=1, description="file of torch-fidelity's weights; null downloads them"
    )
    samples: int = Field(
        default=2048, ge=128, description="generated images, and at most as many real ones, of an evaluation"
    )
    keep_best: Metric | None = Field(
        default=None, description="a metric whose best checkpoint is saved and stays"
    )
    patience: int | None = Field(
        default=None, ge=1, description="evaluations without a new best after which the run ends early"
    )


class CheckpointOptions(Options):
    """When the run is saved, and what is kept (in steps)."""

    every: int = Field(default=1000, ge=1)
    keep_last: int = Field(default=2, ge=1, description="newest checkpoints that stay")
    keep_every: int | None = Field(
        default=None, ge=1, description="checkpoints at multiples of this stay for good"
    )


class InitOptions(Options):
    """Weights to start from, instead of random ones: fine-tuning."""

    generator: str | None = Field(
        default=None,
        min_length=1,
        description="weights to start from: a run (its newest checkpoint), a checkpoint or a .safetensors file",
    )
    critic: str | None = Field(default=None, min_length=1, description="the same for the critic")
    freeze_generator: int = Field(
        default=0, ge=0, description="its first layers, from the latent on, that keep the weights they have"
    )
    freeze_critic: int = Field(
        default=0, ge=0, description="its first layers, from the image on, that keep the weights they have"
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
    cuda_graph: bool = Field(
        default=False, description="launch each ordinary step as one CUDA graph: on one GPU, not in fp16"
    )


ModelOptions = Annotated[
    DcganOptions | MlpOptions | ResnetOptions | WganMnistOptions | WganDcganOptions | GanBceOptions,
    Field(discriminator="name"),
]
ObjectiveOptions = Annotated[
    WassersteinOptions | GradientPenaltyOptions | LeastSquaresOptions | CrossEntropyOptions | HingeOptions,
    Field(discriminator="name"),
]
OptimizerOptions = Annotated[RmspropOptions | AdamOptions, Field(discriminator="name")]


class Config(Options):
    """A run, complete."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="names the run's directory below run_root"
    )
    run_root: str = Field(default="runs", min_length=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    precision: Literal["auto", "float32", "bf16", "fp16"] | None = Field(
        default=None,
        description="of the networks' forward and backward; auto takes bf16 where the device computes in it, else "
        "float32; null takes the launcher's choice, else float32",
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
    quality: QualityOptions = QualityOptions()
    checkpoint: CheckpointOptions = CheckpointOptions()
    runtime: RuntimeOptions = RuntimeOptions()
    init_from: InitOptions = InitOptions()
    profile: bool = Field(
        default=False,
        description="record a few steps: trace.json and profile.json say where a step's time goes",
    )
