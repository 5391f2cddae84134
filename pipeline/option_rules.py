"""Options that are each allowed but cannot work together: one generator of messages for each section."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.metric_table import Metric, find_metric, find_metrics
from pipeline.options import AugmentOptions, Config
from pipeline.wording import counted

MAKE_CLASSIFIER = (
    "Make one with `wgan features train SHARDS --out FILE`, and name the file in quality.classifier"
)
REFERENCE_NETWORKS = ("wgan_mnist", "wgan_dcgan", "gan_bce")


def contradictions(config: Config) -> list[str]:
    """What is wrong with options that are each allowed, as "section.option: message"."""
    rules = (
        _model,
        _objective,
        _schedule,
        _moving,
        _augment,
        _data,
        _precision,
        _checkpoint,
        _init_from,
        _quality,
    )
    return [message for rule in rules for message in rule(config)]


def penalty_precision(config: Config) -> str | None:
    """The precision that the objective's penalty asks for; None if it has no such option."""
    objective = config.objective
    return objective.precision if objective.name == "gradient_penalty" else None


def _penalty(config: Config) -> str | None:
    """The option that gives the critic's loss a penalty on the slope; None if there is none."""
    objective = config.objective
    if objective.name == "gradient_penalty":
        return "objective.name: gradient_penalty"
    # A plug-in has only the options that it declares.
    names = [name for name in ("r1", "r2") if getattr(objective, name, None) is not None]
    return f"objective.{' and objective.'.join(names)}" if names else None


def _model(config: Config) -> Iterator[str]:
    model, objective = config.model, config.objective
    if model.critic_norm == "batch" and (penalty := _penalty(config)):
        yield (
            f"model.critic_norm: batch norm does not work with {penalty}. The penalty is on the gradient of each "
            "sample alone, and batch norm makes it depend on the other samples. Use none, layer or instance"
        )
    if model.conditional and model.name in REFERENCE_NETWORKS:
        yield (
            f"model.conditional: the networks of {model.name} take no labels, like those of the reference system. Use "
            "dcgan, mlp, resnet or r3gan, or set it to false"
        )
    if model.labels != "data" and not model.conditional:
        yield (
            f"model.labels: {model.labels} is about the classes of generated images, and this run knows of none. Set "
            "model.conditional: true, or leave it out"
        )
    if model.labels != "data" and (objective.name == "relativistic" or config.schedule.reuse_fakes):
        which = "schedule.reuse_fakes" if config.schedule.reuse_fakes else "objective.name: relativistic"
        yield (
            f"model.labels: {model.labels} does not work with {which}, where generated images have the labels of the "
            "real images beside them. Leave it out; data.balance gives real images equal shares"
        )
    if model.name in ("dcgan", "r3gan") and model.max_width < model.width:
        yield f"model.max_width: {model.max_width} is less than model.width {model.width}. Raise it"
    if objective.name == "wasserstein" and model.spectral_norm:
        yield (
            "model.spectral_norm: does not work with objective.name: wasserstein, because spectral norm scales the "
            "clipped weights up again. Use hinge, gradient_penalty or another objective, or set it to false"
        )


def _objective(config: Config) -> Iterator[str]:
    objective = config.objective
    if objective.name == "wasserstein" and objective.scope == "convolutions" and config.model.name == "mlp":
        yield (
            "objective.scope: convolutions clips nothing with model.name: mlp, which has no convolutions. Use all or "
            "weights"
        )
    if getattr(objective, "r1", None) is None and getattr(objective, "r2", None) is None:
        for name, default in (("r_every", 1), ("r_method", "exact")):
            if getattr(objective, name, default) != default:
                yield (
                    f"objective.{name}: is about R1 and R2, and this run has neither. Set objective.r1 or "
                    "objective.r2, or leave it out"
                )
    if getattr(objective, "class_loss", None) is not None:
        yield from _class_loss(config)
    if objective.name == "least_squares" and not objective.a < objective.c <= objective.b:
        yield (
            "objective.a, b, c: a < c <= b is required. Otherwise the critic does not score real images above "
            "generated ones, or the generator does not try to raise its score. Published values are pearson "
            "(-1, 1, 0) and binary (0, 1, 1)"
        )


def _class_loss(config: Config) -> Iterator[str]:
    if not config.model.conditional:
        yield (
            "objective.class_loss: is about classes, and the networks of this run know of none. Set model.conditional: "
            "true, or leave it out"
        )
    if config.objective.name == "cross_entropy" and config.objective.labels == "real_is_zero":
        yield (
            "objective.class_loss: does not work with objective.labels: real_is_zero, where images of a class have low "
            "scores of it. Use real_is_one"
        )


def _schedule(config: Config) -> Iterator[str]:
    schedule, processes = config.schedule, config.runtime.processes
    needs_both = (
        "objective.name: relativistic" if config.objective.name == "relativistic" else _penalty(config)
    )
    if needs_both and schedule.critic_rounds == "alternating":
        yield (
            f"schedule.critic_rounds: alternating does not work with {needs_both}, which needs real and generated "
            "images in the same update. Use joint"
        )
    if config.objective.name == "relativistic" and schedule.real_images != schedule.global_batch:
        yield (
            f"schedule.critic_batch: {schedule.critic_batch} does not work with objective.name: relativistic, which "
            f"pairs real images with the {schedule.global_batch} images of a generator update. Leave it out"
        )
    if schedule.reuse_fakes and schedule.real_images != schedule.global_batch:
        yield (
            f"schedule.reuse_fakes: a critic update has {counted(schedule.real_images, 'generated image')} "
            f"(schedule.critic_batch), and a generator update needs {schedule.global_batch} "
            "(schedule.global_batch). Make them equal"
        )
    if processes is None:
        return
    batches = {"global_batch": schedule.global_batch, "critic_batch": schedule.critic_batch}
    for name, batch in batches.items():
        if batch is not None and batch % processes != 0:
            yield (
                f"schedule.{name}: {batch} is not a multiple of runtime.processes {processes}. Every rank takes an "
                "equal part of each batch"
            )


def _moving(config: Config) -> Iterator[str]:
    """What changes in the course of a run: learning rates and the moving average."""
    if config.ema_half_life is not None and config.ema_decay != Config.model_fields["ema_decay"].default:
        yield (
            f"ema_half_life: takes the place of ema_decay, and both are set ({config.ema_half_life:,} images and "
            f"{config.ema_decay}). Leave one of them out"
        )
    for name in ("critic_optimizer", "generator_optimizer"):
        options = getattr(config, name)
        if options.decay == "constant" and (options.decay_images is not None or options.lr_end != 0):
            yield (
                f"{name}.decay: is constant, so lr_end and decay_images mean nothing. Use linear or cosine, or leave "
                "them out"
            )


def _augment(config: Config) -> Iterator[str]:
    augment = config.augment
    if not augment.kinds and augment != AugmentOptions():
        yield (
            "augment.kinds: is empty, so nothing is augmented. Name some, as in augment.kinds=[colour,shift,cutout], "
            "or leave out the other options of augment"
        )
    if augment.target is None and augment.adapt_images != AugmentOptions().adapt_images:
        yield (
            "augment.adapt_images: is about a probability that adapts, and this one does not. Set augment.target, or "
            "leave it out"
        )
    if augment.target is not None and config.schedule.critic_rounds == "alternating":
        yield (
            "augment.target: does not work with schedule.critic_rounds: alternating, where no update scores real and "
            "generated images with one critic. Use joint, or augment without a target"
        )
    if repeated := sorted({kind for kind in augment.kinds if augment.kinds.count(kind) > 1}):
        yield f"augment.kinds: {', '.join(repeated)} is named twice. Name each kind once"


def _data(config: Config) -> Iterator[str]:
    data, schedule = config.data, config.schedule
    if data.shards is None and data.mix is None:
        yield "data.shards: is required, or data.mix"
    if data.shards is not None and data.mix is not None:
        yield "data.mix: names the sets instead of data.shards. Set data.shards: null, or remove data.mix"
    if data.balance is not None and len(data.mix or []) > 1:
        yield (
            "data.balance: classes have equal shares, so the weights of data.mix would mean nothing. Remove one of the "
            "two"
        )
    if data.workers and data.cache in ("device", "host"):
        yield (
            f"data.workers: with data.cache: {data.cache} nothing is decoded during training, so "
            f"{counted(data.workers, 'worker')} would have no work. Set data.workers: 0, or data.cache: none"
        )
    if data.has_pattern and data.resolution is None:
        yield (
            "data.resolution: is required for tar files of other programs, whose images have any size. Give a side, or "
            "[height, width]"
        )
    if data.fit == "random_crop" and data.cache in ("device", "host"):
        yield (
            f"data.fit: random_crop draws another part of each image in each epoch, and data.cache: {data.cache} keeps "
            "one. Set data.cache: none, or data.fit: crop"
        )
    for batch in sorted({schedule.global_batch, schedule.real_images}):
        if batch % data.streams != 0:
            yield (
                f"data.streams: a batch of {batch} cannot be drawn equally from {counted(data.streams, 'stream')}. "
                "Choose a number that divides schedule.global_batch (and critic_batch)"
            )


def _precision(config: Config) -> Iterator[str]:
    if config.precision in ("fp16", "tf32") and config.runtime.device == "cpu":
        yield f"precision: {config.precision} needs a GPU. With runtime.device: cpu use bf16 or float32"
    if penalty_precision(config) == "tf32":
        if config.runtime.device == "cpu":
            yield "objective.precision: tf32 needs a GPU. With runtime.device: cpu use float32 or run"
        if config.precision == "float32":
            yield (
                "objective.precision: tf32 would round all of a run in float32, not only the penalty. Set precision: "
                "tf32, or precision: bf16 for a run whose penalty alone is in TF32"
            )


def _checkpoint(config: Config) -> Iterator[str]:
    checkpoint = config.checkpoint
    if checkpoint.keep_every is not None and checkpoint.keep_every % checkpoint.every != 0:
        yield (
            f"checkpoint.keep_every: {checkpoint.keep_every} is not a multiple of checkpoint.every "
            f"{checkpoint.every}, so no checkpoint would ever be kept for it"
        )


def _init_from(config: Config) -> Iterator[str]:
    start = config.init_from
    for network in ("generator", "critic"):
        if getattr(start, f"freeze_{network}") > 0 and getattr(start, network) is None:
            yield (
                f"init_from.freeze_{network}: the frozen layers would keep their random weights. Name trained weights "
                f"in init_from.{network}, or set it to 0"
            )


def _quality(config: Config) -> Iterator[str]:
    quality = config.quality
    if quality.features == "classifier" and quality.classifier is None:
        yield f"quality.features: classifier needs a trained classifier. {MAKE_CLASSIFIER}"
    for metric in find_metrics(quality.metrics):
        yield from _needs(metric, config)
    yield from _best(config)


def _needs(metric: Metric, config: Config) -> Iterator[str]:
    quality = config.quality
    if metric.needs.classes and quality.classifier is None:
        yield f"quality.metrics: {metric.name} needs a classifier. {MAKE_CLASSIFIER}"
    if metric.needs.labels and not config.model.conditional:
        yield (
            f"quality.metrics: {metric.name} is about the classes that samples were asked for, and the networks of "
            "this run know of none. Train with model.conditional: true, or remove it"
        )
    if metric.needs.held_out > 0 and quality.every is not None and config.data.validation == 0:
        yield (
            f"quality.metrics: {metric.name} needs held-out images, and data.validation is 0. Set it, for example to "
            "0.05"
        )


def _best(config: Config) -> Iterator[str]:
    quality = config.quality
    if quality.keep_best is not None:
        if quality.keep_best not in quality.metrics:
            yield f"quality.keep_best: {quality.keep_best} is not one of quality.metrics. Add it there"
        elif find_metric(quality.keep_best).better is None:
            yield (
                f"quality.keep_best: for {quality.keep_best} neither higher nor lower is better. Name another metric"
            )
        if quality.every is None:
            yield "quality.keep_best: needs evaluations during training. Set quality.every"
    elif quality.patience is not None:
        yield "quality.patience: is the time to wait for a new best. Name the metric in quality.keep_best"
