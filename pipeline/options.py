"""Every option of a run, with its default and its bounds: one class for each part of the pipeline.

This file does not import torch, so that a wrong option is refused at once. config.py reads and combines options.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pipeline.metric_table import METRICS
from pipeline.option_data import DataOptions
from pipeline.option_objective import ObjectiveOptions, WassersteinOptions
from pipeline.option_types import (
    Batch,
    Count,
    LocalPath,
    Magnitude,
    MetricName,
    Options,
    RunName,
    Seconds,
    Threads,
    option,
)
from pipeline.plugins import IMPORT_PATH

Norm = Literal["none", "batch", "layer", "instance"]
Rounds = Literal["joint", "alternating"]
AugmentKind = Literal["flip", "rotate", "shift", "colour", "cutout"]
FeatureKind = Literal["pixels", "classifier", "inception"]


SPECTRAL_NORM: bool = option(False, "divide each of the critic's weights by its largest singular value")


class NetworkOptions(Options):
    """The options of every architecture. A norm that cannot be chosen is a class variable with its fixed value."""

    latent: int = option(100, "dimensions of a latent vector", ge=1, le=4096)
    sync_batch_norm: bool = option(
        True, "batch norm statistics over all ranks; false: over the samples of each rank"
    )
    conditional: bool = option(
        False, "networks that know the classes of images, from the labels of the shards"
    )
    labels: Literal["data", "uniform"] = option(
        "data",
        "of images that the generator is trained on: as frequent as in the training images, or all alike",
    )


class OwnNetworkOptions(NetworkOptions):
    """The base for the options of networks of your own (docs/extending.md). Say here if they have batch norm."""

    generator_norm: ClassVar[Norm] = "none"
    critic_norm: ClassVar[Norm] = "none"
    spectral_norm: ClassVar[bool] = False


class DcganOptions(NetworkOptions):
    """The DCGAN networks (models/dcgan.py), for images of at least 8 pixels a side."""

    name: Literal["dcgan"] = "dcgan"
    width: int = option(64, "channels at the image's resolution; doubled at each halving", ge=4, le=1024)
    max_width: int = option(512, "largest number of channels of a layer", ge=4, le=4096)
    generator_norm: Norm = option("batch", "normalization between the generator's layers")
    critic_norm: Norm = option("none", "normalization between the critic's layers")
    spectral_norm: bool = SPECTRAL_NORM


class MlpOptions(NetworkOptions):
    """Fully connected networks (models/mlp.py), for images of any size."""

    name: Literal["mlp"]
    generator_norm: ClassVar[Norm] = "none"
    critic_norm: ClassVar[Norm] = "none"
    width: int = option(512, "units of each hidden layer", ge=1, le=16384)
    layers: int = option(4, "hidden layers of each network", ge=1, le=64)
    spectral_norm: bool = SPECTRAL_NORM


class ResnetOptions(NetworkOptions):
    """The residual networks of the WGAN-GP paper (models/resnet.py), for 32, 64 and 128 pixels."""

    name: Literal["resnet"]
    generator_norm: ClassVar[Norm] = "batch"
    latent: int = option(128, "dimensions of a latent vector", ge=1, le=4096)
    width: int = option(
        128,
        "at 32 pixels: channels of each block (the paper: 128); at 64 and 128 pixels: channels at the "
        "image's resolution (the paper: 64), doubled at each halving up to 8 times as many",
        ge=4,
        le=1024,
    )
    critic_norm: Literal["none", "layer"] = option(
        "none", "normalization before the ReLUs of the critic's blocks, except the first block at 32 pixels"
    )
    spectral_norm: bool = SPECTRAL_NORM
    attention: bool = option(
        False, "self-attention on the maps of 16 x 16 (32 x 32 for images from 64 pixels)"
    )


class R3ganOptions(NetworkOptions):
    """Residual networks of grouped convolutions without norms, after R3GAN (models/r3gan.py)."""

    name: Literal["r3gan"]
    generator_norm: ClassVar[Norm] = "none"
    critic_norm: ClassVar[Norm] = "none"
    spectral_norm: ClassVar[bool] = False
    latent: int = option(64, "dimensions of a latent vector", ge=1, le=4096)
    width: int = option(
        128, "channels at the image's resolution; doubled at each halving", ge=16, le=1024, multiple_of=16
    )
    max_width: int = option(512, "largest number of channels of a stage", ge=16, le=4096, multiple_of=16)
    blocks: int = option(2, "residual blocks of each stage", ge=1, le=16)


class WganMnistOptions(NetworkOptions):
    """The networks of the reference systems wgan-mnist and wgan-digit7 (models/wgan_mnist.py)."""

    name: Literal["wgan_mnist"]
    generator_norm: ClassVar[Norm] = "batch"
    critic_norm: ClassVar[Norm] = "batch"
    spectral_norm: ClassVar[bool] = False
    latent: int = option(50, "dimensions of a latent vector", ge=1, le=4096)


class WganDcganOptions(NetworkOptions):
    """The networks of the reference system wgan-dcgan (models/wgan_dcgan.py)."""

    name: Literal["wgan_dcgan"]
    generator_norm: ClassVar[Norm] = "batch"
    critic_norm: ClassVar[Norm] = "none"
    spectral_norm: ClassVar[bool] = False


class GanBceOptions(NetworkOptions):
    """The networks of the reference system gan-bce (models/gan_bce.py)."""

    name: Literal["gan_bce"]
    generator_norm: ClassVar[Norm] = "batch"
    critic_norm: ClassVar[Norm] = "batch"
    spectral_norm: ClassVar[bool] = False


class AugmentOptions(Options):
    """Changes of what the critic sees, of real and generated images alike (training/augmentation.py)."""

    kinds: list[AugmentKind] = option([], "flip, rotate, shift, colour, cutout, in the order of their use")
    probability: float = option(
        1.0, "of each kind for each image; with a target: at the start", ge=0.0, le=1.0
    )
    target: float | None = option(
        None,
        "adapt the probability until real images score above generated ones in this share of pairs; null: no",
        gt=0.5,
        lt=1.0,
    )
    adapt_images: Count = option(500_000, "real images of a change from 0 to 1, at the quickest")


class LearningRateOptions(Options):
    """How a learning rate changes, counted in real images seen (training/schedule.py)."""

    decay: Literal["constant", "linear", "cosine"] = option("constant", "the way from lr to lr_end")
    lr_end: float = option(0.0, "learning rate at the end of the decay", ge=0.0, le=1e20)
    decay_images: Count | None = option(None, "real images of the decay; null: until schedule.steps")
    warm_up_images: int = option(0, "real images of a linear rise from 0 to lr", ge=0, le=10**12)


class RmspropOptions(LearningRateOptions):
    """RMSprop, the optimizer of the WGAN paper."""

    name: Literal["rmsprop"] = "rmsprop"
    lr: Magnitude = option(5e-5, "learning rate, after a warm-up and before a decay")
    alpha: float = option(0.99, "decay of the average of squared gradients", ge=0.0, lt=1.0)
    eps: Magnitude = 1e-8


class AdamOptions(LearningRateOptions):
    """Adam, the optimizer of the WGAN-GP paper."""

    name: Literal["adam"]
    lr: Magnitude = option(1e-4, "learning rate, after a warm-up and before a decay")
    beta1: float = Field(default=0.0, ge=0.0, lt=1.0)
    beta2: float = Field(default=0.9, ge=0.0, lt=1.0)
    eps: Magnitude = 1e-8
    amsgrad: bool = option(False, "use the largest average of squared gradients so far")


class BurstOptions(Options):
    """Steps with more critic updates, as in the code published by the WGAN authors."""

    first_steps: int = option(25, "the first steps of the run, which all have a burst", ge=0, le=10**9)
    every: int = option(500, "steps between later bursts; 0 for none", ge=0, le=10**9)
    critic_updates: int = option(100, "critic updates in a step with a burst", ge=1, le=100_000)


class ScheduleOptions(Options):
    """The length of a run, and what a step consists of. A step is one generator update."""

    steps: Count = Field(description="generator updates in the whole run")
    global_batch: Batch = option(64, "samples of an update, over all ranks")
    micro_batch: Batch | None = option(None, "samples that a rank passes through a network at once, at most")
    critic_updates: int = option(5, "critic updates of each step (n_critic)", ge=1, le=1000)
    critic_batch: Batch | None = option(None, "real images of a critic update, and fakes; null: global_batch")
    critic_rounds: Rounds = option(
        "joint",
        "joint: a critic update is one optimizer step on real and generated images; alternating: one step "
        "on real images, then one on generated images",
    )
    reuse_fakes: bool = option(
        False, "train the generator on the fakes of the step's last critic update, not new ones"
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


class SinkOptions(Options):
    """A sink of your own (docs/extending.md), in addition to TensorBoard and the files."""

    name: str = Field(pattern=IMPORT_PATH.pattern, description="its import path, package.module:Name")


class MonitorOptions(Options):
    """What a run logs, and how often (in steps)."""

    log_every: Count = option(20, "steps between scalars in TensorBoard and metrics.jsonl")
    sample_every: Count = option(
        200, "steps between image grids and weight histograms; the first ones at 1/16, 1/8, 1/4 and 1/2 of it"
    )
    validation_every: Count = option(200, "steps between Wasserstein estimates on held-out images")
    grid: int = option(8, "rows and columns of the image grids", ge=1, le=32)
    smoothing: float = option(0.9, "most weight of the past in the smoothed estimate", ge=0.0, lt=1.0)
    sinks: list[SinkOptions] = option(
        [], "sinks of your own: a list of {name: package.module:Name, option: ...}"
    )
    plots: bool = option(True, "draw curves.png and training.gif in the run directory at the end")


class QualityOptions(Options):
    """How the quality of samples is measured, during training and by `wgan evaluate`."""

    every: Count | None = option(None, "steps between evaluations during training; null: none")
    metrics: list[MetricName] = option(
        ["fid", "precision", "recall", "swd"],
        f"one or more of {', '.join(METRICS)}; `wgan evaluate --help` explains them",
        min_length=1,
    )
    features: FeatureKind = option(
        "pixels",
        "what images are compared by. pixels: their frequencies, needs no weights; classifier: made by "
        "`wgan features train`; inception: the network that published figures use",
    )
    classifier: LocalPath | None = option(None, "file made by `wgan features train SHARDS`")
    inception: LocalPath | None = option(None, "file with the weights of torch-fidelity; null downloads them")
    samples: int = option(2048, "generated images of an evaluation; real ones at most", ge=128, le=10**6)
    keep_best: MetricName | None = option(None, "metric whose best checkpoint is saved and kept")
    patience: Count | None = option(None, "end the run after this many evaluations without a new best")


class CheckpointOptions(Options):
    """When a checkpoint is saved, and which ones are kept (in steps)."""

    every: Count = 1000
    keep_last: Count = option(2, "number of newest checkpoints to keep")
    keep_every: Count | None = option(None, "also keep every checkpoint at a multiple of this")


class InitOptions(Options):
    """Fine-tuning: weights to start from instead of random ones."""

    generator: LocalPath | None = option(None, "a run (newest checkpoint), a checkpoint or a .safetensors")
    critic: LocalPath | None = option(None, "the same for the critic")
    strict: bool = option(True, "false: load only the tensors that fit, for example at another image size")
    freeze_generator: int = option(0, "first layers (from the latent) that are not trained", ge=0, le=1000)
    freeze_critic: int = option(0, "first layers (from the image) that are not trained", ge=0, le=1000)


class RuntimeOptions(Options):
    """Processes and device."""

    processes: int | None = option(None, "number of ranks; any other number is an error", ge=1, le=4096)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Threads | Literal["adapt"] | None = option(
        None,
        "torch's CPU threads in each rank; null: its share; adapt: fewer beside busy processes (one rank)",
    )
    timeout_seconds: Seconds = option(600.0, "how long a rank waits for the other ranks")
    digest_every: Count = option(100, "steps between comparisons of the whole state across ranks")
    cuda_graph: bool | Literal["auto"] = option("auto", "one CUDA graph per step; auto: where it is possible")


ModelOptions = Annotated[
    DcganOptions
    | MlpOptions
    | ResnetOptions
    | R3ganOptions
    | WganMnistOptions
    | WganDcganOptions
    | GanBceOptions,
    Field(discriminator="name"),
]
OptimizerOptions = Annotated[RmspropOptions | AdamOptions, Field(discriminator="name")]


class Config(Options):
    """All options of a run."""

    name: RunName = Field(description="of the run directory in run_root")
    run_root: LocalPath = "runs"
    seed: int = Field(default=0, ge=0, lt=2**63)
    precision: Literal["auto", "float32", "tf32", "bf16", "fp16"] | None = option(
        None,
        "of forward and backward passes; auto: bf16 if the device supports it, else float32; tf32: float32 with "
        "factors that GPUs round to 11 bits; null: the launcher's choice, else float32",
    )
    ema_decay: float = option(0.999, "decay of the generator's moving average (EMA) per step", ge=0.0, lt=1.0)
    ema_half_life: Count | None = option(
        None, "in place of ema_decay: real images after which a generator's share in the average has halved"
    )
    critic_grad_clip: Magnitude | None = option(None, "largest gradient norm; null: not limited")
    generator_grad_clip: Magnitude | None = option(None, "largest gradient norm; null: not limited")
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
    augment: AugmentOptions = AugmentOptions()
    profile: bool = option(False, "record in trace.json and profile.json where a step spends its time")
