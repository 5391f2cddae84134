"""The resolutions that can be halved twice."""

from __future__ import annotations

import pytest

from pipeline.errors import ConfigError
from pipeline.models import build_critic, build_generator
from pipeline.models.quartering import quarter
from pipeline.models.sides import Resolution, described
from pipeline.options import GanBceOptions, ModelOptions, WganDcganOptions, WganMnistOptions


def test_resolutions_must_be_multiples_of_4_from_8() -> None:
    sides = {}
    for resolution in range(1, 130):
        try:
            sides[resolution] = quarter(resolution, "x")
        except ConfigError:
            assert resolution < 8 or resolution % 4
    assert sides == {resolution: (resolution // 4, resolution // 4) for resolution in range(8, 130, 4)}


@pytest.mark.parametrize(
    "options",
    [
        WganMnistOptions(name="wgan_mnist"),
        WganDcganOptions(name="wgan_dcgan"),
        GanBceOptions(name="gan_bce"),
    ],
    ids=lambda options: options.name,
)
@pytest.mark.parametrize(
    ("resolution", "nearest"),
    [(4, 8), (9, 8), (27, 28), (29, 28), (30, 32), ((28, 30), [28, 32]), ((90, 160), [92, 160])],
)
def test_other_resolutions_are_refused_with_the_nearest_valid_one(
    options: ModelOptions, resolution: Resolution, nearest: int | list[int]
) -> None:
    found = f"^model.name: {options.name} does not support images of {described(resolution)}:"
    for build in (build_generator, build_critic):
        with pytest.raises(ConfigError, match=found) as caught:
            build(options, resolution, 1)
        assert str(caught.value).endswith(f"Set data.resolution: {nearest}.")
