"""From options to the parts of a run, wired together."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from pipeline.config import dump_config, flatten
from pipeline.data.format.manifest import Manifest, check_hashes
from pipeline.data.format.shard_set import ShardSet
from pipeline.data.reading.cache import CACHES, Choice, Node, ResidentImages, choose_cache, decode_all
from pipeline.data.reading.loader import Loader
from pipeline.data.reading.order import Order, build_order
from pipeline.data.reading.reader import ShardReader
from pipeline.data.threads import available_cores
from pipeline.durable import write_text
from pipeline.errors import ConfigError
from pipeline.models import build_critic, build_generator
from pipeline.monitor.console import Console
from pipeline.monitor.files import AlarmLines, JsonLines, PngFiles
from pipeline.monitor.grids import image_grid
from pipeline.monitor.recorder import Recorder
from pipeline.monitor.sinks import Sinks
from pipeline.monitor.tensorboard import TensorBoard
from pipeline.noise import Noise, RankRows
from pipeline.objectives import build_objective
from pipeline.options import Config, InitOptions
from pipeline.quality.best import Best
from pipeline.quality.evaluation import Evaluation, RealImages
from pipeline.ranks.runtime import Runtime
from pipeline.ranks.stopping import StopSignals
from pipeline.run.checkpoint import Checkpoint
from pipeline.run.directory import RunDirectory
from pipeline.run.initial_weights import freeze_named_layers, load_initial_weights
from pipeline.training.graphed_step import GraphedStep
from pipeline.training.observer import Observer
from pipeline.training.state import TrainingState, build_optimizer, seed_weights
from pipeline.training.step import TrainingStep
from pipeline.training.trainer import Trainer
from pipeline.training.updates import Player

MOST_THREADS = 16
PACKAGES = ("torch", "torchvision", "accelerate", "tensorboard", "numpy", "wgan-pipeline")


def check_same_on_all_ranks(config: Config, identity: dict[str, Any], runtime: Runtime) -> None:
    """Raise ConfigError unless all ranks were started for the same run on the same data.

    Each machine reads its own config, and DDP would make equal weights of unequal runs.
    """
    ours = {**flatten(config.model_dump(mode="json")), **identity}
    # Where things lie is each machine's own.
    for name in (
        "data.shards",
        "data.remote.directory",
        "run_root",
        "init_from.generator",
        "init_from.critic",
        # An evaluation compares what is in them.
        "quality.classifier",
        "quality.inception",
    ):
        del ours[name]
    for rank, theirs in enumerate(runtime.gather_objects(ours)):
        differences = [
            f"{name} is {theirs.get(name)} there and {value} here"
            for name, value in ours.items()
            if theirs.get(name) != value
        ]
        if differences:
            raise ConfigError(
                f"Rank {rank} was started otherwise than rank {runtime.rank}: {'; '.join(differences)}. "
                "Start all ranks with the same config, arguments and shards."
            )


def check_batches(config: Config, runtime: Runtime) -> None:
    """Raise ConfigError unless every rank can take an equal part of each batch."""
    schedule = config.schedule
    for name, batch in (("global_batch", schedule.global_batch), ("critic_batch", schedule.real_images)):
        if batch % runtime.world_size:
            raise ConfigError(
                f"schedule.{name}: {batch} cannot be cut into {runtime.world_size} equal parts, one for each rank. "
                "Choose a multiple of the number of processes."
            )


def check_cuda_graph(config: Config, runtime: Runtime) -> None:
    """Raise ConfigError where steps cannot be captured as a CUDA graph and are to be."""
    if not config.runtime.cuda_graph:
        return
    wrong = [
        (runtime.device.type != "cuda", "needs a GPU, and this run is on the CPU"),
        (
            config.profile,
            "does not go with profile=true, which cannot tell the parts of a captured step apart",
        ),
        (runtime.world_size > 1, f"is for one process, and there are {runtime.world_size}"),
        (
            runtime.precision == "fp16",
            "does not go with fp16, whose scaler asks the device at each step; use bf16",
        ),
    ]
    if found := [text for is_wrong, text in wrong if is_wrong]:
        raise ConfigError(f"runtime.cuda_graph {', and '.join(found)}. Leave runtime.cuda_graph out.")


def check_data(config: Config, shards: ShardSet, runtime: Runtime) -> None:
    """Raise DataError unless every shard has its hash. The ranks of a machine share the work.

    Shards at a URL are checked when they are fetched.
    """
    if config.data.verify != "hashes" or shards.directory is None:
        return
    share = shards.manifest.shards[runtime.local_rank :: runtime.local_world_size]
    with runtime.agreement():
        check_hashes(shards.directory, share, show_progress=runtime.is_main)


def build_trainer(
    config: Config,
    shards: ShardSet,
    directory: RunDirectory,
    runtime: Runtime,
    stop: StopSignals,
    identity: dict[str, Any],
    first_step: int,
    best: Best,
    say: Callable[[str], None],
) -> Trainer:
    """A trainer at step 0, with fresh weights that are the same on all ranks, and the best evaluation so far."""
    noise = Noise(config.seed, runtime.device)
    rows, critic_rows = (
        RankRows.of_rank(runtime.rank, runtime.world_size, batch)
        for batch in (config.schedule.global_batch, config.schedule.real_images)
    )
    state = build_state(config, shards.manifest, runtime, noise, is_new=first_step == 1, say=say)
    loader, order = build_loader(config, shards, runtime, critic_rows, say)
    objective = build_objective(config.objective)
    observer = Observer(
        config=config,
        runtime=runtime,
        state=state,
        objective=objective,
        loader=loader,
        held_out=order.held_out_ids(),
        noise=noise,
        rows=rows,
        recorder=Recorder(config.monitor.smoothing, runtime.device),
        checkpoints=directory.checkpoints,
        evaluation=build_evaluation(config, loader, order, runtime, config.seed)
        if config.quality.every
        else None,
        best=best,
    )
    # The loop has nothing else to do while it makes floats of a batch.
    to_images = observer.recorder.waiting_for_data()(loader.to_images)
    kind = GraphedStep if config.runtime.cuda_graph else TrainingStep
    step = kind(config, runtime, state, objective, noise, rows, critic_rows, to_images)
    step.rehearse(loader.image_shape)
    trainer = Trainer(
        config=config,
        runtime=runtime,
        state=state,
        step=step,
        loader=loader,
        observer=observer,
        checkpoints=directory.checkpoints,
        identity=identity,
        stop=stop,
    )
    if runtime.is_main:
        start_records(observer, directory, order, first_step)
    return trainer


def start_records(observer: Observer, directory: RunDirectory, order: Order, first_step: int) -> None:
    """Open what the main rank writes to, and record what the run is made of."""
    config, grid = observer.config, observer.config.monitor.grid
    environment = describe_environment(observer.runtime)
    write_text(directory.environment, environment)
    observer.console = Console(first_step - 1, config.schedule.steps, is_shown=True)
    observer.sinks = build_sinks(directory, first_step)
    observer.sinks.text(first_step - 1, "run/config", dump_config(config))
    observer.sinks.text(first_step - 1, "run/environment", environment)
    observer.sinks.options(first_step - 1, compared_options(config))
    if first_step == 1:
        real = observer.loader.read_pixels(order.first(grid**2))
        observer.sinks.images(0, "samples/real", image_grid(real, grid))


def compared_options(config: Config) -> dict[str, Any]:
    """The options in which runs differ to some purpose, by their dotted names."""
    parts = config.model_dump(
        mode="json", exclude={"name", "run_root", "monitor", "checkpoint", "runtime", "profile"}
    )
    return {name: value for name, value in flatten(parts).items() if not name.startswith("data.remote.")}


def build_evaluation(
    config: Config, loader: Loader, order: Order, runtime: Runtime, seed: int, show_progress: bool = False
) -> Evaluation:
    """What compares samples with the run's images. Raises ConfigError, DataError or CheckpointError.

    `seed` is that of the samples.
    """
    training = order.training_ids()
    real = RealImages(
        read=loader.read_pixels,
        shape=loader.image_shape,
        compared=order.first(min(config.quality.samples, len(training))),
        training=training,
        held_out=order.held_out_ids(),
    )
    return Evaluation(config.quality, real, runtime, config.model.latent, seed, show_progress)


def build_state(
    config: Config,
    manifest: Manifest,
    runtime: Runtime,
    noise: Noise,
    is_new: bool,
    say: Callable[[str], None],
) -> TrainingState:
    """Networks, their optimizers, and the generator's average.

    The weights depend on the seed alone, or are those that init_from names where the run is new.
    """
    resolution, channels = square_resolution(manifest), manifest.channels
    seed_weights(noise)
    generator = runtime.place(build_generator(config.model, resolution, channels))
    critic = runtime.place(build_critic(config.model, resolution, channels))
    ema = runtime.place(build_generator(config.model, resolution, channels)).requires_grad_(False)
    if is_new:
        start_from_saved(config.init_from, generator, critic, runtime, say)
    elif config.init_from.generator or config.init_from.critic:
        say("init_from is not read: the run continues from its own checkpoint")
    freeze_named_layers(config.init_from, generator, critic)
    if config.model.sync_batch_norm:
        runtime.synchronize_batch_norm(generator)
        runtime.synchronize_batch_norm(critic)
    is_captured = config.runtime.cuda_graph
    state = TrainingState(
        generator=Player(
            generator,
            *runtime.prepare(generator, build_optimizer(generator, config.generator_optimizer, is_captured)),
        ),
        critic=Player(
            critic, *runtime.prepare(critic, build_optimizer(critic, config.critic_optimizer, is_captured))
        ),
        ema=ema.eval(),
    )
    # Only now, when DDP has given all ranks the same weights.
    ema.load_state_dict(generator.state_dict())
    state.generator.largest_grad_norm = config.generator_grad_clip
    state.critic.largest_grad_norm = config.critic_grad_clip
    return state


def start_from_saved(
    options: InitOptions,
    generator: nn.Module,
    critic: nn.Module,
    runtime: Runtime,
    say: Callable[[str], None],
) -> None:
    """Load the weights that the options name, on all ranks or on none, and say what was loaded."""
    with runtime.agreement():
        for line in load_initial_weights(options, generator, critic):
            say(line)


def build_loader(
    config: Config, shards: ShardSet, runtime: Runtime, rows: RankRows, say: Callable[[str], None]
) -> tuple[Loader, Order]:
    """The images where they are read fastest, and the order they come in."""
    order = build_order(config, shards)
    reader = ShardReader(shards)
    images = build_images(config, reader, runtime, say)
    workers = 0
    if images is reader:
        workers = decoding_threads(config.data.workers, runtime.local_world_size)
        say(f"decoding in {workers} threads for each rank" if workers else "decoding in the loop")
    flip_seed = config.seed if config.data.flip else None
    return Loader(images, order, rows, runtime.device, workers, flip_seed), order


def decoding_threads(wanted: int | None, local_ranks: int) -> int:
    """As many as the options want; else the rank's share of the cores, less one for the loop itself."""
    if wanted is not None:
        return wanted
    return min(MOST_THREADS, max(1, available_cores() // local_ranks - 1))


def build_images(
    config: Config, reader: ShardReader, runtime: Runtime, say: Callable[[str], None]
) -> ShardReader | ResidentImages:
    """The reader itself, or all its images in memory. All ranks choose alike."""
    size, wanted = reader.manifest.decoded_bytes, config.data.cache
    choice: Choice | None = None
    with runtime.agreement():
        choice = choose_cache(wanted, size, runtime.local_world_size, runtime.device)
    # Free memory differs between ranks and moments; what suits the poorest suits all.
    cache, reason = max(runtime.gather_objects(choice), key=lambda found: CACHES.index(found[0]))
    say(f"{reader.manifest.count:,} images; cache: {cache} ({reason})")
    if cache == "none":
        return reader
    node = Node(
        rank=runtime.local_rank,
        size=runtime.local_world_size,
        first_rank=runtime.rank - runtime.local_rank,
        exchange=runtime.gather_objects,
        all_agree=runtime.all_agree,
    )
    images = decode_all(reader, node, runtime.is_main)
    return images.to(runtime.device) if cache == "device" else images


def build_sinks(directory: RunDirectory, first_step: int) -> Sinks:
    """What the main rank writes to."""
    return Sinks(
        [
            TensorBoard(directory.path, first_step),
            JsonLines(directory.metrics, first_step),
            AlarmLines(directory.alarms, first_step),
            PngFiles(directory.samples, "samples/ema", first_step),
        ]
    )


def square_resolution(manifest: Manifest) -> int:
    """The side of the images in pixels. Raises ConfigError where they are not square."""
    height, width = manifest.resolution
    if height != width:
        raise ConfigError(f"The shards hold {width}x{height} images; the networks take square ones.")
    return height


def describe_environment(runtime: Runtime) -> str:
    """Versions and set-up as JSON. No environment variable is in it."""
    content = {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "setup": runtime.describe(),
        "revision": _revision(),
    }
    return json.dumps(content, indent=1) + "\n"


def describe_setup(trainer: Trainer, directory: RunDirectory, checkpoint: Checkpoint | None) -> str:
    """What a run is about to do, in a few lines."""
    setup, config = trainer.runtime.describe(), trainer.config
    start = f"continuing from {checkpoint.path}" if checkpoint else "a new run"
    generator, critic = (
        sum(p.numel() for p in player.module.parameters())
        for player in (trainer.state.generator, trainer.state.critic)
    )
    return (
        f"{directory.path}: {start}, to step {config.schedule.steps}\n"
        f"{setup['world_size']} x {setup['device_name']} ({setup['backend']}), {setup['precision']}, "
        f"{setup['threads']} threads each, batch {config.schedule.global_batch} = {setup['world_size']} x "
        f"{trainer.step.rows.count}\n"
        f"{config.model.name}: generator {generator:,} and critic {critic:,} parameters; "
        f"{config.objective.name}, {config.schedule.critic_updates} critic updates a step\n"
        f"watch: tensorboard --logdir {directory.path}"
    )


def _revision() -> str | None:
    """The git revision of this code, where it is a checkout."""
    here = Path(__file__).parents[2]
    result = (
        subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
        if (here / ".git").exists()
        else None
    )
    return result.stdout.strip() if result and result.returncode == 0 else None
