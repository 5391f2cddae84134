"""Features of the Inception network, by which the Frechet Inception distance is defined (Heusel et al. 2017).

The network and its weights, converted from TensorFlow's of 2015, are torch-fidelity's; figures agree with those
that papers give only where these weights are used.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.error import URLError

import torch
from torch import Tensor

from pipeline.errors import CheckpointError, ConfigError, DataError

BATCH = 50


@dataclass(frozen=True)
class InceptionFeatures:
    """The 2,048 values before the network's last layer."""

    network: Any
    name: ClassVar[str] = "inception 2015-12-05"

    @classmethod
    def load(cls, weights: Path | None, device: torch.device) -> Self:
        """The network with the weights of a file, or of torch-fidelity's own download, which is kept.

        Raises ConfigError without the library, DataError offline, CheckpointError for a file that is no such
        weights; nothing in it is executed.
        """
        try:
            from torch_fidelity import feature_extractor_inceptionv3 as inception
        except ImportError:
            raise ConfigError(
                "features: inception needs a library that is missing. Install it: pip install "
                "'wgan-pipeline[inception]'. Or use features: pixels or classifier."
            ) from None
        state = _read(weights) if weights is not None else _download(inception.URL_INCEPTION_V3)
        # The library would unpickle whatever it is given: it gets tensors that were read safely.
        content = io.BytesIO()
        torch.save(state, content)
        content.seek(0)
        try:
            network = inception.FeatureExtractorInceptionV3(
                "inception", ["2048"], feature_extractor_weights_path=content
            )
        except RuntimeError as error:
            raise CheckpointError(
                f"{weights} holds other weights than those of torch-fidelity's Inception network "
                f"({str(error).splitlines()[0]}). Name the file {Path(inception.URL_INCEPTION_V3).name}."
            ) from None
        return cls(network.to(device))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (count, 1 or 3, height, width) to float32 (count, 2048). The network resizes to 299 pixels."""
        coloured = images.expand(-1, 3, -1, -1)
        return torch.cat([self.network(part)[0] for part in torch.split(coloured, BATCH)])


def _read(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(f"{path}, named for the Inception network's weights, does not exist.") from None
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path} cannot be read as tensors ({str(error).splitlines()[0]}). Only plain weights are read, for "
            "other content could run code."
        ) from None


def _download(url: str) -> Any:
    try:
        return torch.hub.load_state_dict_from_url(
            url, map_location="cpu", check_hash=True, weights_only=True, progress=True
        )
    except (URLError, TimeoutError, ConnectionError) as error:
        raise DataError(
            f"The Inception network's weights cannot be downloaded ({error}). Fetch {url} elsewhere, and name the "
            "file as the weights; or use features: pixels or classifier."
        ) from None
