"""Collects samples and real images over the ranks, and lets the metrics compare them on the main one.

Images are processed in chunks of 64, which the ranks take in turn. The latents of a chunk depend only on the seed and
its number, and each chunk is computed by itself, so any number of ranks compares the same samples. The main rank gets
them all, and compares them on its device; the other ranks keep nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.data.reading.stream import Ids
from pipeline.errors import ConfigError, NonFiniteError
from pipeline.metric_table import Metric, Needs, find_metric, find_metrics, name_of_features, needs_of
from pipeline.models.class_inputs import given
from pipeline.noise import Noise, Purpose, labels_from
from pipeline.options import QualityOptions
from pipeline.pixels import on_white, to_uint8
from pipeline.quality.class_balance import RealClasses, real_classes
from pipeline.quality.features import Features, NoFeatures, load_features
from pipeline.quality.features.classifier import ClassifierFeatures
from pipeline.quality.metrics import MOST_IMAGES, NEIGHBOURS, measure_all, measure_by_class
from pipeline.quality.neighbours import nearest
from pipeline.quality.ranks import Ranks, on_all_ranks, on_main_rank, stop_together, tensors_of_main_rank
from pipeline.quality.real_images import RealImages
from pipeline.quality.sets import NO_LABELS, Collected, RealSets, Rows, Sets
from pipeline.ranks.failures import memory_shortage
from pipeline.wording import counted

CHUNK = 64

LESS_MEMORY = (
    "That was an evaluation, which holds samples, real images and their features. Lower quality.samples, or remove "
    "some of quality.metrics (--samples and --metrics of `wgan evaluate`). While a run trains, its own memory is "
    "needed too: set quality.every: null, and evaluate its checkpoints afterwards."
)

Draw = Callable[..., Tensor]
"""From latents (count, latent) to images, float32 (count, channels, height, width) in [-1, 1].

If there are classes, it is also given `labels`, int64 (count,).
"""


class Comparison(NamedTuple):
    """What an evaluation finds of a generator."""

    figures: dict[str, float]
    """By the names of the metrics."""
    by_class: dict[str, dict[str, float | None]]
    """Those of each class asked for by its name, of metrics that have such; None for a class that is left out."""


class Floor(NamedTuple):
    """Real images compared with other real images, which shows what figures a perfect generator can have."""

    images: int
    """How many each set has. With fewer images, most figures are worse."""
    figures: dict[str, float]


class Evaluation:
    """Measures the chosen metrics of any generator against the same real images."""

    def __init__(
        self,
        options: QualityOptions,
        real: RealImages,
        ranks: Ranks,
        latent: int,
        seed: int,
        show_progress: bool = False,
    ) -> None:
        """Raises ConfigError, DataError or CheckpointError, on all ranks, if a metric lacks what it needs."""
        self._options, self._real, self._ranks = options, real, ranks
        self._latent, self._seed, self._show_progress = latent, seed, show_progress and ranks.is_main
        self._needs = needs_of(options.metrics)
        self._collected: dict[str, Collected] = {}
        self._real_sets: RealSets | None = None
        self._are_finite = True
        self._classes: RealClasses | None = None
        self._columns: tuple[int, ...] = ()
        self._asked_names = real.asked.names if real.asked is not None else ()
        self.left_out: set[str] = set()
        """Classes of too few images for metrics that compare the features of each class."""
        self.classifier = on_all_ranks(ranks, self._check_and_load_classifier)
        self.features = self._choose_features()
        # Pictures of neighbours need features even if no metric does; they are built on request.
        self._neighbours_by = self.features
        self._check_same_on_all_ranks(self.features)

    @property
    def counts(self) -> dict[str, int]:
        """How many generated and real images are compared."""
        return {"samples": self._options.samples, "real": len(self._real.compared)}

    def measure(self, draw: Draw) -> dict[str, float]:
        """The figures of a generator's samples by the names of the metrics, the same on all ranks.

        All ranks call it together. Raises NonFiniteError or OutOfMemoryError.
        """
        return self.compare(draw).figures

    @memory_shortage(LESS_MEMORY)
    def compare(self, draw: Draw) -> Comparison:
        """The figures of a generator's samples, also those of each class, as `measure` finds them."""
        self._are_finite = True
        fake, real = self.samples(draw), self._collect_real_sets()
        if not all(self._ranks.gather_json(self._are_finite)):
            raise NonFiniteError(
                "The generator draws images with values that are not finite (NaN or infinity), so no metric can "
                "measure them. Evaluate an earlier checkpoint."
            )
        names, sets = self._options.metrics, Sets(real, fake)
        figures, by_class = on_main_rank(
            self._ranks, lambda: (measure_all(names, sets), measure_by_class(names, sets))
        )
        named = {name: dict(zip(self._asked_names, found, strict=True)) for name, found in by_class.items()}
        return Comparison(figures, named)

    @memory_shortage(LESS_MEMORY)
    def floor(self) -> Floor:
        """Figures of real images against others, without those of metrics that need held-out images.

        Two halves are compared if there are fewer than twice as many real images as samples. All ranks call it
        together.
        """
        drawn = np.concatenate([self._real.compared, self._real.others])
        count = min(len(self._real.compared), len(drawn) // 2)
        first, second = drawn[:count], drawn[count : 2 * count]
        names = [name for name in self._options.metrics if self._has_floor(find_metric(name), first, second)]
        if count <= NEIGHBOURS or not names:
            return Floor(count, {})
        is_whole = count == len(self._real.compared)
        one = (
            self.reference
            if is_whole
            else self._collect_real(first, "half of the real images", self.features, self._needs)
        )
        other = self._collect_real(second, "other real images", self.features, self._needs)
        nothing = one.features[:0]
        real = replace(
            self._collect_real_sets(), compared=one, training=nothing, held_out=nothing, samples=count
        )
        return Floor(count, on_main_rank(self._ranks, lambda: measure_all(names, Sets(real, other))))

    @property
    def classes(self) -> RealClasses:
        """The classes of the real images, for metrics that count classes. All ranks ask for it together."""
        if self._classes is None:
            probabilities = self.reference.probabilities
            found = on_main_rank(self._ranks, lambda: self._find_classes(probabilities))
            self._classes = RealClasses(found[0], tuple(found[1]))
        return self._classes

    def samples(self, draw: Draw) -> Collected:
        """The generated images that are compared, on the main rank. All ranks collect them together."""
        found = self._collect(
            self._options.samples,
            lambda chunk: self._draw(draw, chunk),
            "samples",
            self.features,
            self._needs,
        )
        # They are a function of the seed: no rank needs to send them.
        is_needed = self._needs.labels and self._ranks.is_main
        return found._replace(labels=self._labels_of_samples()) if is_needed else found

    @property
    def reference(self) -> Collected:
        """The real images that they are compared with, on the main rank. All ranks collect them together, once."""
        return self._collect_real(self._real.compared, "real images", self.features, self._needs)

    @memory_shortage(LESS_MEMORY)
    def nearest_training_images(self, draw: Draw, count: int, each: int) -> Tensor:
        """The first samples (up to 64), each followed by the training images nearest to it by the features.

        uint8 (count, 1 + each, channels, height, width), on the host. All ranks call it together.
        """
        samples = self._draw(draw, 0)[:count]
        if isinstance(self._neighbours_by, NoFeatures):
            self._neighbours_by = self._build_features()
            self._check_same_on_all_ranks(self._neighbours_by)
        features = self._neighbours_by
        ours, training = features(samples).cpu(), self._training_features(features)
        (places,) = tensors_of_main_rank(
            self._ranks, lambda: nearest(ours, training, min(each, len(training)))[1:]
        )
        found = self._real.read(self._real.training()[places.flatten().numpy()]).cpu()
        return torch.cat([samples.cpu()[:, None], found.view(*places.shape, *found.shape[1:])], 1)

    def _check_and_load_classifier(self) -> ClassifierFeatures | None:
        """The classifier, if the options name one, after a check that everything is there that the metrics need."""
        options, compared = self._options, self._real.compared
        self._check_needs()
        self.left_out = self._check_classes()
        if len(compared) <= NEIGHBOURS:
            raise ConfigError(
                f"{counted(len(compared), 'training image')} cannot be compared with samples: at least "
                f"{NEIGHBOURS + 1} are needed. Train on more images."
            )
        if options.classifier is None:
            return None
        classifier = ClassifierFeatures.load(Path(options.classifier), self._ranks.device)
        classifier.check_images(self._real.shape)
        if self._real.asked is not None and any(
            metric.needs.classes and metric.needs.labels for metric in find_metrics(options.metrics)
        ):
            self._columns = self._real.asked.columns(classifier.about.classes)
        return classifier

    def _check_classes(self) -> set[str]:
        """The classes that metrics of features by class leave out. Raises ConfigError if they leave out all."""
        asked, chosen = self._real.asked, [*filter(_compares_classes, find_metrics(self._options.metrics))]
        if asked is None or not chosen:
            return set()
        return asked.left_out(chosen[0].name, self._labels_of(self._real.compared), self._labels_of_samples())

    def _labels_of(self, ids: Ids) -> Tensor:
        """int64 (ids,); none if the generator takes no labels."""
        return NO_LABELS if self._real.asked is None else torch.from_numpy(self._real.asked.labels(ids))

    def _has_floor(self, metric: Metric, first: Ids, second: Ids) -> bool:
        """Whether these two sets of real images have what a metric compares of samples."""
        if _compares_classes(metric) and self._real.asked is not None:
            return self._real.asked.too_few(self._labels_of(first), self._labels_of(second)) <= self.left_out
        return not metric.needs.held_out

    def _check_needs(self) -> None:
        """Raise ConfigError if a metric cannot measure these images."""
        _, height, width = self._real.shape
        held_out = self._real.held_out_count
        for metric in find_metrics(self._options.metrics):
            if min(height, width) < metric.needs.side:
                raise ConfigError(
                    f"{metric.name} needs images of at least {metric.needs.side} x {metric.needs.side} pixels, and "
                    f"these have {width}x{height}. Remove it from quality.metrics."
                )
            if metric.needs.classes and self._options.classifier is None:
                raise ConfigError(
                    f"{metric.name} needs a classifier. Make one with `wgan features train SHARDS --out FILE` and "
                    "name it in quality.classifier."
                )
            if metric.needs.labels and self._real.asked is None:
                raise ConfigError(
                    f"{metric.name} is about classes that samples are asked for, and this run has none. Leave it out."
                )
            if held_out < metric.needs.held_out:
                raise ConfigError(
                    f"{metric.name} needs at least {metric.needs.held_out} held-out images, better some hundreds, and "
                    f"there are {held_out}. Train with a larger data.validation, or remove it from quality.metrics."
                )

    def _choose_features(self) -> Features:
        """Those that the options name if a metric needs any, else only their name."""
        if self._needs.features:
            return self._build_features()
        if self._options.features == "classifier" and self.classifier is not None:
            return NoFeatures(self.classifier.name)
        return NoFeatures(name_of_features(self._options.features))

    def _build_features(self) -> Features:
        shape, device = self._real.shape, self._ranks.device
        return on_all_ranks(self._ranks, lambda: load_features(self._options, self.classifier, shape, device))

    def _check_same_on_all_ranks(self, features: Features) -> None:
        """Raise ConfigError unless all ranks compare by the same weights, wherever each has its files."""
        ours = [features.name, *([] if self.classifier is None else [self.classifier.name])]
        first, *others = self._ranks.gather_json(", ".join(dict.fromkeys(ours)))
        for rank, theirs in enumerate(others, 1):
            if theirs != first:
                raise ConfigError(
                    f"Rank {rank} compares samples by {theirs}, and rank 0 by {first}: their figures cannot be "
                    "combined. Give all ranks files with the same content."
                )

    def _labels_of_samples(self) -> Tensor:
        """int64 (samples,); none if the generator takes no labels."""
        count = self._options.samples
        found = [
            labels for chunk in range(-(-count // CHUNK)) if (labels := self._inputs(chunk)[1]) is not None
        ]
        return torch.cat(found)[:count] if found else NO_LABELS

    def _inputs(self, chunk: int) -> tuple[Tensor, Tensor | None]:
        """The latents of a chunk and, if the generator takes any, the labels; on the host."""
        source = Noise(self._seed, torch.device("cpu")).seeded(Purpose.QUALITY, 0, chunk)
        latents = torch.randn(CHUNK, self._latent, generator=source)
        labels = None
        if self._real.asked is not None:
            labels = labels_from(torch.rand(CHUNK, generator=source), self._real.asked.shares)
        return latents, labels

    def _draw(self, draw: Draw, chunk: int) -> Tensor:
        latents, labels = self._inputs(chunk)
        device = self._ranks.device
        images = given(draw, None if labels is None else labels.to(device))(latents.to(device))
        self._are_finite = self._are_finite and bool(images.isfinite().all())
        return on_white(to_uint8(images))

    def _collect_real_sets(self) -> RealSets:
        """Everything real that the metrics need. All ranks collect it together, once."""
        if self._real_sets is not None:
            return self._real_sets
        compared = self.reference
        training = held_out = compared.features[:0]
        if self._needs.held_out:
            training = self._training_features(self.features)
            held_out = self._collect_real(self._real.held_out(), "held-out images", self.features).features
        unseen: tuple[int, ...] = ()
        if self._needs.classes and self.classifier is not None:
            known = self.classifier.about.classes
            unseen = tuple(known.index(name) for name in self.classes.unseen if name in known)
        self._real_sets = RealSets(
            compared=compared,
            training=training,
            held_out=held_out,
            samples=self._options.samples,
            seed=self._seed,
            unseen=unseen,
            asked=self._asked_names,
            columns=self._columns,
            device=self._ranks.device,
        )
        return self._real_sets

    def _find_classes(self, probabilities: Tensor) -> RealClasses:
        assert self.classifier is not None, "metrics that count classes need one"
        about = self.classifier.about
        predicted = [about.classes[number] for number in probabilities.argmax(1).tolist()]
        labels = self._real.classes(self._real.compared)
        labelled = [
            (guess, label) for guess, label in zip(predicted, labels, strict=True) if label is not None
        ]
        return real_classes(
            [guess for guess, _ in labelled] or predicted,
            [label for _, label in labelled],
            about.recall_by_class,
        )

    def _training_features(self, features: Features) -> Tensor:
        return self._collect_real(self._real.training(), "training images", features).features

    def _collect_real(self, ids: Ids, what: str, features: Features, needs: Needs | None = None) -> Collected:
        """All ranks read these together, once."""

        def read(chunk: int) -> Tensor:
            # The last chunk reads some images a second time; they are cut off later.
            return self._real.read(ids[np.arange(chunk * CHUNK, (chunk + 1) * CHUNK) % len(ids)])

        if what not in self._collected:
            needs = needs or Needs()
            found = self._collect(len(ids), read, what, features, needs)
            is_labelled = needs.labels and self._ranks.is_main
            self._collected[what] = found._replace(labels=self._labels_of(ids)) if is_labelled else found
        return self._collected[what]

    def _collect(
        self,
        count: int,
        read: Callable[[int], Tensor],
        what: str,
        features: Features,
        needs: Needs,
    ) -> Collected:
        """`count` images, in the order of the chunks that `read` returns for their numbers, on the main rank.

        Each rank sends it a chunk at a time, so no other one holds more than that.
        """
        ranks, chunks = self._ranks, -(-count // CHUNK)
        classifier = self.classifier if needs.classes else None
        most_images = min(count, MOST_IMAGES) if needs.images else 0
        found, kept, probabilities = Rows(count), Rows(most_images), Rows(count)
        firsts = range(0, chunks, ranks.world_size)
        for first in tqdm(firsts, desc=what, leave=False, disable=None if self._show_progress else True):
            stop_together(ranks)
            senders = min(ranks.world_size, chunks - first)
            if ranks.rank >= senders:
                continue  # all chunks have been computed
            images, place = read(first + ranks.rank), first * CHUNK
            found.put(place, ranks.to_main(features(images), senders))
            if place < most_images:
                kept.put(place, ranks.to_main(images, senders))
            if classifier is not None:
                probabilities.put(place, ranks.to_main(classifier.probabilities(images), senders))
        return Collected(found.all, kept.all, probabilities.all)


def _compares_classes(metric: Metric) -> bool:
    return metric.needs.features and metric.needs.labels
