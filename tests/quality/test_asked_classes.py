"""Whether samples show the classes that were asked for: generators whose figures are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.pixels import to_float
from pipeline.quality.asked_classes import mean_of_classes, shares_as_asked
from pipeline.quality.evaluation import Comparison, Evaluation
from pipeline.quality.features.classifier import About, Classifier, ClassifierFeatures, save
from pipeline.quality.features.pixels import PixelFeatures
from pipeline.quality.frechet import frechet_distance, gaussian
from pipeline.quality.real_images import RealImages
from tests.quality.together import ASKED, DIGITS, LABELS, Rank, Together, draw, on_ranks, options, real

BY_LABEL = [torch.from_numpy(np.flatnonzero(label == LABELS)) for label in range(10)]
KNOWN = tuple("9876543210")
"""The classes of the classifier: in another order than those of the run."""


def perfect(latents: Tensor, labels: Tensor) -> Tensor:
    """A real image of the class that is asked for."""
    places = latents[:, 0].abs().mul(1000).long()
    rows = [
        BY_LABEL[label][place % len(BY_LABEL[label])] for label, place in zip(labels, places, strict=True)
    ]
    return to_float(DIGITS[torch.stack(rows)])


def deaf(latents: Tensor, labels: Tensor) -> Tensor:
    """A real image of any class."""
    return perfect(latents, latents[:, 1].abs().mul(1000).long() % 10)


def off_by_one(latents: Tensor, labels: Tensor) -> Tensor:
    """A real image of the next class."""
    return perfect(latents, (labels + 1) % 10)


class Oracle:
    """Knows every digit, but takes each 3 for an 8."""

    def __init__(self) -> None:
        self.labels = {
            image.numpy().tobytes(): int(label) for image, label in zip(DIGITS, LABELS, strict=True)
        }

    def __call__(self, images: Tensor) -> Tensor:
        found = [self.labels[image.numpy().tobytes()] for image in images]
        columns = [KNOWN.index(str(8 if label == 3 else label)) for label in found]
        return torch.nn.functional.one_hot(torch.tensor(columns), 10).float()


@pytest.fixture
def classifier(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    oracle, path = Oracle(), tmp_path_factory.mktemp("oracle") / "c.safetensors"
    save(Classifier(1, 8, 8, 10), About(1, 8, 8, KNOWN, "0" * 64, 1, 0, 0.9), path)
    monkeypatch.setattr(ClassifierFeatures, "probabilities", lambda _, images: oracle(images))
    return str(path)


def compare(
    generator: object, *metrics: str, images: RealImages | None = None, **changes: object
) -> Comparison:
    chosen = options(metrics, **{"samples": 1000, **changes})
    evaluation = Evaluation(chosen, images or real(asked=ASKED), Rank(0, Together(1)), 4, 0)
    return evaluation.compare(generator)  # type: ignore[arg-type]


def test_a_perfect_generator_has_the_accuracy_of_the_classifier(classifier: str) -> None:
    """On the classes that it is asked for, which are as many 3s as of others; the floor is that on real images."""
    found = compare(perfect, "class_asked", classifier=classifier)
    assert found.by_class["class_asked"] == {str(label): float(label != 3) for label in range(10)}
    assert found.figures["class_asked"] == pytest.approx(0.9, abs=0.03)
    evaluation = Evaluation(
        options(["class_asked"], classifier=classifier), real(asked=ASKED), Rank(0, Together(1)), 4, 0
    )
    assert evaluation.floor().figures["class_asked"] == pytest.approx((LABELS[250:500] != 3).mean())


def test_samples_of_any_class_are_as_asked_by_chance(classifier: str) -> None:
    share = compare(deaf, "class_asked", classifier=classifier).figures["class_asked"]
    # Of the digits drawn, 3s look like 8s: 0.1 in the mean; three standard deviations of 1,000 samples.
    assert share == pytest.approx(0.1, abs=0.03)
    assert compare(off_by_one, "class_asked", classifier=classifier).figures["class_asked"] == 0


def test_shares_are_of_the_labels_and_not_of_the_columns() -> None:
    probabilities = torch.eye(3)[[2, 2, 0, 1]]
    assert shares_as_asked(probabilities, torch.tensor([0, 0, 1, 1]), (2, 0, 1)) == [1, 0.5, None]
    assert mean_of_classes([1, 0.5, None]) == 0.75


def test_the_distance_within_classes_is_the_mean_of_those_of_each(classifier: str) -> None:
    """It sees classes that are swapped, which the distance of all images does not."""
    figures = [compare(generator, "fid", "intra_fid").figures for generator in (perfect, deaf, off_by_one)]
    good, any_class, swapped = figures
    assert swapped["fid"] < 1.5 * good["fid"]
    assert good["intra_fid"] < any_class["intra_fid"] / 3
    assert any_class["intra_fid"] < swapped["intra_fid"]
    found = compare(lambda latents, labels: to_float(DIGITS[500 + labels]), "intra_fid").by_class["intra_fid"]
    features = PixelFeatures((1, 8, 8), torch.device("cpu"))
    for label in (0, 7):
        chosen = features(DIGITS[:500][LABELS[:500] == label])
        alike = features(DIGITS[500 + label].expand(20, 1, 8, 8))
        expected = frechet_distance(gaussian(chosen), gaussian(alike))
        assert found[str(label)] == pytest.approx(expected, rel=1e-5)


def test_classes_of_few_images_are_left_out(classifier: str) -> None:
    """19 real images of the 4 are too few, and 20 of the 5 are enough."""
    kept = [*BY_LABEL[4][:19].tolist(), *BY_LABEL[5][:20].tolist(), *BY_LABEL[6].tolist()]
    images = replace(real(asked=ASKED), compared=np.array(kept))
    found = compare(perfect, "intra_fid", images=images)
    measured = {name for name, value in found.by_class["intra_fid"].items() if value is not None}
    assert measured == {"5", "6"}
    values = found.by_class["intra_fid"]
    assert found.figures["intra_fid"] == pytest.approx((values["5"] + values["6"]) / 2)  # type: ignore[operator]
    with pytest.raises(
        ConfigError, match=r"intra_fid compares classes of at least 20 samples .* Raise quality"
    ):
        compare(perfect, "intra_fid", images=replace(real(asked=ASKED), compared=np.arange(100)))


def test_any_number_of_ranks_finds_the_same_of_each_class(classifier: str) -> None:
    chosen = options(["class_asked", "intra_fid"], classifier=classifier)
    found = [
        each
        for size in (1, 3)
        for each in on_ranks(
            size, lambda rank: Evaluation(chosen, real(asked=ASKED), rank, 4, 0).compare(perfect)
        )
    ]
    assert all(each == found[0] for each in found)


def test_what_cannot_be_said_of_classes_is_refused(classifier: str) -> None:
    strangers = replace(ASKED, names=(*ASKED.names[:9], "ten"))
    with pytest.raises(ConfigError, match=r"class_asked needs a classifier that knows .* does not know ten"):
        compare(perfect, "class_asked", images=real(asked=strangers), classifier=classifier)
    for name in ("class_asked", "intra_fid"):
        with pytest.raises(ConfigError, match=f"{name} is about classes that samples are asked for"):
            compare(draw, name, images=real(), classifier=classifier)
