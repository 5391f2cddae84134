"""Judging a generator: samples and real images become features on all ranks, and figures on the main one.

Images go in chunks of 64, which the ranks take in turn. Each chunk's latents depend on the seed and its number
alone, and each is computed by itself, so any number of ranks compares the same samples.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.data.reading.order import Ids
from pipeline.errors import ConfigError, NonFiniteError, PipelineError
from pipeline.noise import Noise, Purpose
from pipeline.options import FeatureKind, Metric, QualityOptions
from pipeline.pixels import to_uint8
from pipeline.quality.class_balance import class_distance, class_histogram, covered_modes
from pipeline.quality.features import Features, NoFeatures, load_features
from pipeline.quality.features.classifier import ClassifierFeatures
from pipeline.quality.features.pixels import PixelFeatures
from pipeline.quality.frechet import Gaussian, frechet_distance, gaussian
from pipeline.quality.kernel_distance import kernel_distance
from pipeline.quality.neighbours import (
    SCALE_NEIGHBOURS,
    copied_share,
    natural_distance,
    nearest,
    precision_recall_density_coverage,
)
from pipeline.quality.sliced_wasserstein import SMALLEST_IMAGE, RealPatches

CHUNK = 64
READ = 1024
NEIGHBOURS = 5
KERNEL_SUBSETS, KERNEL_SUBSET_SIZE = 100, 1000
SECONDS_BETWEEN_MEETINGS = 1.0
MOST_SLICED = 2048
"""Images that the sliced Wasserstein distance compares; it needs them whole, not their features."""

OF_FEATURES: frozenset[Metric] = frozenset(
    {"fid", "kid", "precision", "recall", "density", "coverage", "copied"}
)

Result = TypeVar("Result")
Draw = Callable[[Tensor], Tensor]
"""From latents (count, latent) to images, float32 (count, channels, height, width) in [-1, 1]."""


class Ranks(Protocol):
    """The processes that evaluate together."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool: ...

    def gather(self, values: Tensor) -> Tensor: ...

    def gather_objects(self, value: Any) -> list[Any]: ...

    def all_agree(self, error: Exception | None) -> None: ...


@dataclass(frozen=True)
class RealImages:
    """The images that samples are compared with."""

    read: Callable[[Ids], Tensor]
    """From ids to uint8 (count, channels, height, width) on the device."""
    shape: tuple[int, int, int]
    """(channels, height, width)"""
    compared: Ids
    """A random part of the training images, or all."""
    training: Ids
    """All training images."""
    held_out: Ids


class Collected(NamedTuple):
    """A set of images, on the host, as the metrics need it."""

    features: Tensor
    """float32 (count, dimensions); no columns where no metric needs them"""
    images: Tensor
    """uint8 (count or fewer, channels, height, width)"""
    probabilities: Tensor
    """float32 (count, classes); no columns without a classifier"""


def tag(metric: Metric, features: FeatureKind) -> str:
    """The name of a metric's curve: a distance between features is named after them."""
    return f"quality/{metric}_{features}" if metric in OF_FEATURES else f"quality/{metric}"


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
        """Raises ConfigError, DataError or CheckpointError, on all ranks, where the features cannot be had."""
        self._options, self._real, self._ranks = options, real, ranks
        self._latent, self._seed, self._show_progress = latent, seed, show_progress and ranks.is_main
        self._collected: dict[str, Collected] = {}
        self._are_finite = True
        self.classifier = self._on_all_ranks(self._check)
        self.features: Features
        if OF_FEATURES & set(options.metrics):
            self.features = self._build_features()
        elif options.features == "classifier" and self.classifier is not None:
            self.features = NoFeatures(self.classifier.name)
        else:
            self.features = NoFeatures(options.features)
        # Neighbours need features also where no metric does, and get them when they are asked for.
        self._neighbours_by = self.features
        self._check_same_on_all_ranks(self.features)

    def _check(self) -> ClassifierFeatures | None:
        """The classifier, where the options name one, once all is known to be there that the metrics need."""
        options, compared = self._options, self._real.compared
        _, height, width = self._real.shape
        if "swd" in options.metrics and min(height, width) < SMALLEST_IMAGE:
            raise ConfigError(
                f"swd compares patches of images of {SMALLEST_IMAGE} pixels or more, and these have {width}x{height}. "
                "Leave it out of the metrics."
            )
        if len(compared) <= NEIGHBOURS:
            raise ConfigError(
                f"{len(compared)} training images are too few to compare samples with; {NEIGHBOURS + 1} are the least."
            )
        if "copied" in options.metrics and len(self._real.held_out) <= SCALE_NEIGHBOURS:
            raise ConfigError(
                f"copied compares samples with held-out images, and {len(self._real.held_out)} are held out; "
                f"{SCALE_NEIGHBOURS + 1} are the least, some hundreds better. Train with a larger data.validation, or "
                "leave it out of the metrics."
            )
        if options.classifier is None:
            return None
        classifier = ClassifierFeatures.load(Path(options.classifier), self._ranks.device)
        classifier.check_images(self._real.shape)
        return classifier

    def _build_features(self) -> Features:
        options, compared = self._options, self._real.compared
        if options.features == "pixels":
            # One machine's directions for all: another one may round otherwise, and find others.
            batches = np.array_split(compared, -(-len(compared) // READ))
            return self._on_main_rank(lambda: PixelFeatures.of(map(self._real.read, batches)))
        return self._on_all_ranks(lambda: load_features(options, self.classifier, self._ranks.device))

    def _check_same_on_all_ranks(self, features: Features) -> None:
        """Raise ConfigError unless all ranks judge by the same weights, wherever each has its files."""
        ours = [features.name, *([] if self.classifier is None else [self.classifier.name])]
        first, *others = self._ranks.gather_objects(", ".join(dict.fromkeys(ours)))
        for rank, theirs in enumerate(others, 1):
            if theirs != first:
                raise ConfigError(
                    f"Rank {rank} judges samples by {theirs}, and rank 0 by {first}: figures of both together would "
                    "mean nothing. Give all ranks files of the same content."
                )

    @property
    def counts(self) -> dict[str, int]:
        """How many generated and real images are compared."""
        return {"samples": self._options.samples, "real": len(self._real.compared)}

    def measure(self, draw: Draw) -> dict[Metric, float]:
        """The figures of a generator's samples, the same on all ranks. Raises NonFiniteError."""
        self._are_finite = True
        fake, real = self.samples(draw), self.reference
        if not all(self._ranks.gather_objects(self._are_finite)):
            raise NonFiniteError(
                "The generator draws images that are not finite, so no figure of them means anything. Judge an "
                "earlier checkpoint."
            )
        known = self._known_images() if "copied" in self._options.metrics else None
        return self._on_main_rank(lambda: self._compare(fake, real, known))

    def _on_all_ranks(self, find: Callable[[], Result]) -> Result:
        """What each rank finds for itself. What fails on one is raised on all of them."""
        found: list[Result] = []
        error = None
        try:
            found.append(find())
        except PipelineError as failure:
            error = failure
        self._ranks.all_agree(error)
        return found[0]

    def _on_main_rank(self, find: Callable[[], Result]) -> Result:
        """What one rank finds, on all of them, which meet each second: nobody waits so long that it gives up."""
        ranks = self._ranks
        with ThreadPoolExecutor(1) as pool:
            work = pool.submit(find) if ranks.is_main else None
            is_done = False
            while not is_done:
                if work is not None:
                    wait([work], SECONDS_BETWEEN_MEETINGS)
                is_done = ranks.gather_objects(work is not None and work.done())[0]
        found: Result = ranks.gather_objects(
            self._on_all_ranks(lambda: None if work is None else work.result())
        )[0]
        return found

    def samples(self, draw: Draw) -> Collected:
        """The generated images that are compared."""
        return self._collect(
            self._options.samples,
            lambda chunk: self._draw(draw, chunk),
            "samples",
            self.features,
            self._options.metrics,
        )

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
        places = self._on_main_rank(lambda: nearest(ours, training, min(each, len(training)))[1])
        found = self._real.read(self._real.training[places.flatten().numpy()]).cpu()
        return torch.cat([samples.cpu()[:, None], found.view(*places.shape, *found.shape[1:])], 1)

    def _draw(self, draw: Draw, chunk: int) -> Tensor:
        source = Noise(self._seed, torch.device("cpu")).seeded(Purpose.QUALITY, 0, chunk)
        latents = torch.randn(CHUNK, self._latent, generator=source)
        images = draw(latents.to(self._ranks.device))
        self._are_finite = self._are_finite and bool(images.isfinite().all())
        return to_uint8(images)

    @property
    def reference(self) -> Collected:
        """The real images that they are compared with."""
        return self._collect_real(self._real.compared, "real images", self.features, self._options.metrics)

    def _known_images(self) -> tuple[Tensor, Tensor]:
        """The features of all training images, and of those that are held out."""
        return (
            self._training_features(self.features),
            self._collect_real(self._real.held_out, "held-out images", self.features).features,
        )

    def _training_features(self, features: Features) -> Tensor:
        return self._collect_real(self._real.training, "training images", features).features

    @cached_property
    def _natural_distance(self) -> float:
        return natural_distance(*self._known_images())

    @cached_property
    def _gaussian(self) -> Gaussian:
        return gaussian(self.reference.features)

    @cached_property
    def _real_patches(self) -> RealPatches:
        fakes = min(self._options.samples, MOST_SLICED)
        return RealPatches.of(self.reference.images, fakes, self._seed)

    def _collect_real(
        self, ids: Ids, what: str, features: Features, metrics: Collection[Metric] = ()
    ) -> Collected:
        """All ranks read these together, once."""

        def read(chunk: int) -> Tensor:
            # A rank whose turn lies beyond the end reads some images again, which are cut off later.
            return self._real.read(ids[np.arange(chunk * CHUNK, (chunk + 1) * CHUNK) % len(ids)])

        if what not in self._collected:
            self._collected[what] = self._collect(len(ids), read, what, features, metrics)
        return self._collected[what]

    def _collect(
        self,
        count: int,
        read: Callable[[int], Tensor],
        what: str,
        features: Features,
        metrics: Collection[Metric],
    ) -> Collected:
        """`count` images, in the order of the chunks that `read` gives by their numbers, for these metrics."""
        world_size = self._ranks.world_size
        judge = self.classifier if {"modes", "class_distance"} & set(metrics) else None
        most_images = MOST_SLICED if "swd" in metrics else 0
        parts: list[Collected] = []
        turns = range(-(-count // (CHUNK * world_size)))
        for turn in tqdm(turns, desc=what, leave=False, disable=None if self._show_progress else True):
            images = read(turn * world_size + self._ranks.rank)
            keeps_images = turn * world_size * CHUNK < most_images
            parts.append(
                Collected(
                    features(images).cpu(),
                    images.cpu() if keeps_images else images[:0].cpu(),
                    torch.zeros(CHUNK, 0) if judge is None else judge.probabilities(images).cpu(),
                )
            )
        found, kept, probabilities = (self._gather(kind)[:count] for kind in zip(*parts, strict=True))
        return Collected(found, kept[:most_images], probabilities)

    def _gather(self, chunks: Sequence[Tensor]) -> Tensor:
        """The chunks of all ranks, back in turn."""
        ours = torch.stack([chunk for chunk in chunks if len(chunk)] or list(chunks[:1]))
        if ours.numel() == 0:
            return ours.flatten(0, 1)
        return self._ranks.gather(ours).transpose(0, 1).flatten(0, 2)

    def _compare(
        self, fake: Collected, real: Collected, known: tuple[Tensor, Tensor] | None
    ) -> dict[Metric, float]:
        wanted = self._options.metrics
        figures: dict[Metric, float] = {}
        if "fid" in wanted:
            figures["fid"] = frechet_distance(self._gaussian, gaussian(fake.features))
        if "kid" in wanted:
            size = min(KERNEL_SUBSET_SIZE, len(fake.features), len(real.features))
            # Where a subset is the whole set, one is enough.
            subsets = 1 if size == max(len(fake.features), len(real.features)) else KERNEL_SUBSETS
            figures["kid"] = kernel_distance(real.features, fake.features, subsets, size, self._seed).mean
        if {"precision", "recall", "density", "coverage"} & set(wanted):
            found = precision_recall_density_coverage(real.features, fake.features, NEIGHBOURS)._asdict()
            figures |= {name: found[name] for name in ("precision", "recall", "density", "coverage")}
        if known is not None:
            figures["copied"] = copied_share(fake.features, *known, self._natural_distance)
        if "swd" in wanted:
            levels = self._real_patches.distances(fake.images)
            figures["swd"] = sum(levels.values()) / len(levels)
        if self.classifier is not None and fake.probabilities.shape[1]:
            ours, theirs = class_histogram(fake.probabilities), class_histogram(real.probabilities)
            figures["modes"] = float(covered_modes(ours, theirs))
            figures["class_distance"] = class_distance(ours, theirs)
        return {metric: figures[metric] for metric in wanted}
