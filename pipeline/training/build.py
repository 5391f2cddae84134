"""Builds the parts of a run from its options, and connects them."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.config import dump_config
from pipeline.cores import share_of_cores
from pipeline.data.reading.cache import CACHES, Choice, Node, ResidentImages, choose_cache, decode_all
from pipeline.data.reading.class_labels import class_shares
from pipeline.data.reading.loader import Loader, mirror
from pipeline.data.reading.order import Order
from pipeline.data.reading.reader import ShardReader
from pipeline.data.reading.run_order import build_order, class_names, describe_sources, describe_validation
from pipeline.data.reading.stream import Ids
from pipeline.durable import write_text
from pipeline.models import build_critic, build_generator
from pipeline.monitor.charts import Layout, Logged, layout
from pipeline.monitor.console import Console
from pipeline.monitor.differences import compared_options
from pipeline.monitor.files import AlarmLines, JsonLines, PngFiles
from pipeline.monitor.grids import image_grid
from pipeline.monitor.own_metrics import write_own_metrics
from pipeline.monitor.own_sink import OwnSink
from pipeline.monitor.recorder import Recorder
from pipeline.monitor.sinks import Sinks
from pipeline.monitor.tensorboard import TensorBoard
from pipeline.noise import Noise, RankRows
from pipeline.objectives import Objective, build_objective
from pipeline.options import OptimizerOptions
from pipeline.pixels import on_white
from pipeline.quality.asked_classes import AskedClasses
from pipeline.quality.best import Best
from pipeline.quality.evaluation import Evaluation
from pipeline.quality.real_images import RealImages
from pipeline.ranks.thread_count import ThreadCount
from pipeline.run.initial_weights import freeze_named_layers, load_initial_weights
from pipeline.training.augmentation import build_augmentation
from pipeline.training.context import RunContext
from pipeline.training.describe import describe_environment, describe_images
from pipeline.training.graphed_step import GraphedStep, captures_steps
from pipeline.training.observer import VALIDATION_BATCHES, Observer
from pipeline.training.state import TrainingState, build_optimizer, seed_weights
from pipeline.training.step import TrainingStep
from pipeline.training.trainer import Trainer
from pipeline.training.updates import Player
from pipeline.wording import counted

MOST_THREADS = 16


def build_trainer(run: RunContext, first_step: int, first_recorded: int | None = None) -> Trainer:
    """A trainer at step 0, with fresh weights that are the same on all ranks, ready to be restored.

    `first_step`, counted from 1, is the first step that it trains, and `first_recorded` the first that it records, by
    default the same. All ranks call it together; the caller closes the trainer.
    """
    config, runtime = run.config, run.runtime
    noise = Noise(config.seed, runtime.device)
    state = build_state(run, noise, is_new=first_step == 1)
    loader, order = build_loader(run, run.critic_rows)
    shares = build_class_shares(run, order)
    objective = build_objective(config.objective)
    evaluation = build_evaluation(run, loader, order, config.seed) if config.quality.every else None
    recorder = Recorder(config.monitor.smoothing, runtime.device)
    # Converting a batch to float32 counts as waiting for data: nothing else runs at that time.
    to_batch = recorder.waiting_for_data()(loader.to_batch)
    step = TrainingStep(config, runtime, state, objective, noise, run.rows, run.critic_rows, to_batch, shares)
    if captures_steps(config, runtime):
        run.say("each step is launched as one CUDA graph")
        step.run = GraphedStep(step.parts, config.schedule.critic_updates, runtime.device)
    step.warm_up(loader.image_shape)
    sinks, console = open_records(run, state, objective, loader, order, first_recorded or first_step)
    observer = Observer(
        run=run,
        state=state,
        objective=objective,
        loader=loader,
        held_out=order.first_held_out(VALIDATION_BATCHES * config.schedule.global_batch),
        noise=noise,
        recorder=recorder,
        evaluation=evaluation,
        best=Best.of(config.quality, config.data.flip),
        sinks=sinks,
        console=console,
    )
    adapts = config.runtime.threads == "adapt"
    is_alone_on_cpu = run.runtime.world_size == 1 and run.runtime.device.type == "cpu"
    threads = ThreadCount(adapts) if adapts or is_alone_on_cpu else None
    return Trainer(run=run, state=state, step=step, loader=loader, observer=observer, threads=threads)


def open_records(
    run: RunContext, state: TrainingState, objective: Objective, loader: Loader, order: Order, first_step: int
) -> tuple[Sinks, Console]:
    """The main rank's sinks and progress bar, with options and environment already recorded; empty on other ranks."""
    if not run.runtime.is_main:
        return Sinks([]), Console(0, 0, is_shown=False)
    config, grid = run.config, run.config.monitor.grid
    environment = describe_environment(run.runtime)
    write_text(run.directory.environment, environment)
    write_own_metrics(run.directory.path, config.quality)
    with ExitStack() as if_it_fails:
        console = Console(first_step - 1, config.schedule.steps, is_shown=True)
        if_it_fails.callback(console.close)
        charts = layout(Logged.by(config, objective, state.critic.module))
        sinks = build_sinks(run, first_step, charts)
        if_it_fails.callback(sinks.close)
        sinks.text(first_step - 1, "run/config", dump_config(config))
        sinks.text(first_step - 1, "run/environment", environment)
        sinks.options(first_step - 1, compared_options(config))
        if first_step == 1:
            sinks.images(
                0,
                "samples/real",
                image_grid(loader.read_pixels(np.resize(order.first(grid**2), grid**2)), grid),
            )
        if_it_fails.pop_all()
    return sinks, console


def build_sinks(run: RunContext, first_step: int, charts: Layout) -> Sinks:
    """All sinks of a run that records from `first_step` on, the user's own last. Raises ConfigError.

    `charts` are those of TensorBoard's custom scalars.
    """
    directory = run.directory
    return Sinks(
        [
            TensorBoard(directory.path, first_step, charts),
            JsonLines(directory.metrics, first_step),
            AlarmLines(directory.alarms, first_step),
            PngFiles(directory.samples, "samples/ema", first_step),
            *(OwnSink(options, directory.path, first_step) for options in run.config.monitor.sinks),
        ]
    )


def build_evaluation(
    run: RunContext, loader: Loader, order: Order, seed: int, show_progress: bool = False
) -> Evaluation:
    """An evaluation of samples, drawn with `seed`, against the run's images.

    Raises ConfigError, DataError or CheckpointError.
    """
    real = real_images(run, loader, order)
    return Evaluation(run.config.quality, real, run.runtime, run.config.model.latent, seed, show_progress)


def real_images(run: RunContext, loader: Loader, order: Order) -> RealImages:
    """The images that samples are compared with, as training sees them: half of them mirrored if data.flip mirrors.

    A copy may be one of an image or of its mirror image, so with data.flip both are training images.
    """
    count = run.shards.manifest.count
    channels, height, width = loader.image_shape
    compared = order.first(run.config.quality.samples)
    drawn = order.first(2 * len(compared))

    def training_ids() -> Ids:
        training = order.training_ids()
        return np.concatenate([training, training + count]) if run.config.data.flip else training

    def read(ids: Ids) -> Tensor:
        # The number of a mirrored image is that of the image, plus the number of all images.
        images = loader.read_pixels(ids % count)
        return on_white(mirror(images, torch.from_numpy(ids >= count).to(images.device)))

    return RealImages(
        read=read,
        shape=(min(channels, 3), height, width),
        compared=compared,
        others=drawn[~np.isin(drawn, compared)],
        training=training_ids,
        held_out=order.held_out_ids,
        held_out_count=order.held_out_count,
        asked=build_asked_classes(run, order),
        classes=lambda ids: class_names(ids, run.shards),
    )


def build_state(run: RunContext, noise: Noise, is_new: bool) -> TrainingState:
    """Networks, their optimizers, and the generator's moving average.

    The weights depend on the seed alone, or are those that init_from names if the run is new.
    """
    config, runtime = run.config, run.runtime
    form = (run.shards.size, run.shards.image_shape[0], len(run.classes))
    seed_weights(noise)
    generator = runtime.place(build_generator(config.model, *form))
    critic = runtime.place(build_critic(config.model, *form))
    ema = runtime.place(build_generator(config.model, *form)).requires_grad_(False)
    if is_new:
        start_from_saved(run, generator, critic)
    elif config.init_from.generator or config.init_from.critic:
        run.say("init_from is ignored: the run resumes from its own checkpoint")
    freeze_named_layers(config.init_from, generator, critic)
    if config.model.sync_batch_norm:
        runtime.synchronize_batch_norm(generator)
        runtime.synchronize_batch_norm(critic)
    is_captured = captures_steps(config, runtime)

    def player(network: nn.Module, options: OptimizerOptions) -> Player:
        optimizer = build_optimizer(network, options, is_captured)
        return Player(network, *runtime.prepare(network, optimizer, is_captured))

    state = TrainingState(
        generator=player(generator, config.generator_optimizer),
        critic=player(critic, config.critic_optimizer),
        ema=ema.eval(),
        augmentation=build_augmentation(config.augment, runtime.device),
    )
    # DDP has just given all ranks the weights of rank 0.
    ema.load_state_dict(generator.state_dict())
    state.generator.largest_grad_norm = config.generator_grad_clip
    state.critic.largest_grad_norm = config.critic_grad_clip
    return state


def start_from_saved(run: RunContext, generator: nn.Module, critic: nn.Module) -> None:
    """Load the weights that init_from names, on all ranks or on none, and say what was loaded."""
    images = run.shards.image_shape
    with run.runtime.agreement():
        for line in load_initial_weights(run.config.init_from, generator, critic, images, run.warn):
            run.say(line)


def build_loader(run: RunContext, rows: RankRows) -> tuple[Loader, Order]:
    """The images, read from the fastest place that holds them, and their order."""
    config, runtime = run.config, run.runtime
    order = build_order(config, run.shards)
    run.say(describe_images(config, order.epoch_size, run.shards.manifest.count, order.held_out_count))
    for line in describe_sources(order, config, run.shards):
        run.say(line)
    if remark := describe_validation(config, order):
        run.say(remark)
    reader = ShardReader(run.shards, config.seed)
    images = build_images(run, reader)
    workers = 0
    if images is reader:
        wanted = config.data.workers
        workers = decoding_threads(reader, runtime.local_world_size) if wanted is None else wanted
        run.say(
            f"each rank decodes images in {counted(workers, 'thread')}"
            if workers
            else "images are decoded in the training loop"
        )
    flip_seed = config.seed if config.data.flip else None
    return Loader(images, order, rows, runtime.device, workers, flip_seed), order


def build_class_shares(run: RunContext, order: Order) -> Tensor | None:
    """How frequent each class is, float64 (classes,) on the host; None without classes. Raises DataError."""
    if not run.classes:
        return None
    return torch.from_numpy(class_shares(order, run.classes, run.config.data.place))


def build_asked_classes(run: RunContext, order: Order) -> AskedClasses | None:
    """The classes that evaluations draw samples of; None without classes. Raises DataError."""
    shares = build_class_shares(run, order)
    if shares is None or order.labels is None:
        return None
    return AskedClasses(tuple(run.classes), shares, order.labels)


def decoding_threads(reader: ShardReader, local_ranks: int) -> int:
    """How many threads decode images: the rank's share of the cores, less one for the training loop; fewer if small."""
    threads = min(MOST_THREADS, share_of_cores(local_ranks) - 1, reader.useful_threads or MOST_THREADS)
    return max(1, threads)


def build_images(run: RunContext, reader: ShardReader) -> ShardReader | ResidentImages:
    """The reader itself, or all its images in memory. All ranks make the same choice."""
    runtime, wanted, size = run.runtime, run.config.data.cache, run.shards.decoded_bytes
    if reader.changes_by_epoch:
        run.say("cache: none (random crops are drawn anew in each epoch)")
        return reader
    choice: Choice | None = None
    with runtime.agreement():
        choice = choose_cache(wanted, size, runtime.local_world_size, runtime.device)
    # Ranks can see different amounts of free memory; the choice of the one with the least works on all.
    cache, reason = max(runtime.gather_json(choice), key=lambda found: CACHES.index(found[0]))
    run.say(f"cache: {cache} ({reason})")
    if cache == "none":
        return reader
    node = Node(
        rank=runtime.local_rank,
        size=runtime.local_world_size,
        first_rank=runtime.rank - runtime.local_rank,
        exchange=runtime.gather_json,
        all_agree=runtime.all_agree,
    )
    images = decode_all(reader, node, runtime.is_main)
    return images.to(runtime.device) if cache == "device" else images
