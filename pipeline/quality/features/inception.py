"""Features of the Inception network, which define the Frechet Inception distance (Heusel et al. 2017).

The network and its weights are torch-fidelity's, converted from those that TensorFlow published in 2015. Only with
these weights can figures be compared with those in papers.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Self
from urllib.error import URLError

import torch
from torch import Tensor

from pipeline.durable import advice
from pipeline.errors import CheckpointError, ConfigError, DataError
from pipeline.regular_files import read_regular

BATCH, MOST_BYTES = 50, 1 << 30


@dataclass(frozen=True)
class InceptionFeatures:
    """The 2,048 inputs of the network's last layer."""

    network: Any
    name: str
    """The word "inception" and the first 8 digits of the SHA-256 of the weights file."""

    @classmethod
    def load(cls, weights: Path | None, device: torch.device) -> Self:
        """The network with weights from a file, or with torch-fidelity's, which are downloaded once and kept.

        No code in the file is run. Raises ConfigError if the library or the file is missing, DataError if the download
        fails, CheckpointError if the file does not contain the network's weights.
        """
        try:
            from torch_fidelity import feature_extractor_inceptionv3 as inception
        except ImportError:
            raise ConfigError(
                "features: inception needs the torch-fidelity library, which is not installed. Run pip install "
                "'wgan-pipeline[inception]', or use features: pixels or classifier."
            ) from None
        path = weights or _download(inception.URL_INCEPTION_V3)
        state, digest = _read(path)
        # The library unpickles its file, which could run code. So it gets a copy of tensors that were read safely.
        content = io.BytesIO()
        torch.save(state, content)
        content.seek(0)
        try:
            network = inception.FeatureExtractorInceptionV3(
                "inception", ["2048"], feature_extractor_weights_path=content
            )
        except RuntimeError as error:
            raise CheckpointError(
                f"{path} does not contain the weights of torch-fidelity's Inception network "
                f"({str(error).splitlines()[0]}). Name the file {Path(inception.URL_INCEPTION_V3).name}."
            ) from None
        return cls(network.to(device), f"inception {digest[:8]}")

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (count, 1 or 3, height, width) to float32 (count, 2048). The network resizes to 299 pixels."""
        coloured = images.expand(-1, 3, -1, -1)
        return torch.cat([self.network(part)[0] for part in torch.split(coloured, BATCH)])


def _read(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file by their names, and its SHA-256."""
    try:
        content = read_regular(path, MOST_BYTES)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror or error}. Name a file with the weights of the Inception network."
        ) from None
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path} cannot be read as tensors ({(str(error) or 'it ends early').splitlines()[0]}). Nothing but "
            "tensors is read, because other content could run code. Name another file, or delete this one if it "
            "was downloaded."
        ) from None
    is_plain = isinstance(state, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    )
    if not is_plain:
        raise CheckpointError(
            f"{path} contains an object of type {type(state).__name__}, and weights are a dict of tensors by name. "
            "Name a file with the weights of the Inception network, or delete this one if it was downloaded."
        )
    return dict(state), hashlib.sha256(content).hexdigest()


def _download(url: str) -> Path:
    """The file with the weights, which is downloaded unless it is already there."""
    path = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
    if path.exists():
        return path
    digest = path.stem.rsplit("-", 1)[-1]
    way_out = (
        f"Download {url} on another machine and name the file in quality.inception, or use features: pixels or "
        "classifier."
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), digest, progress=True)
    except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
        raise DataError(
            f"The Inception network's weights cannot be downloaded ({error}). {way_out}"
        ) from None
    except RuntimeError as error:
        raise DataError(
            f"The file from {url} is not the Inception network's weights: its SHA-256 does not begin with {digest} "
            f"({error}). A proxy may have answered instead of the server. {way_out}"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"The Inception network's weights cannot be written to {path.parent}: {error.strerror or error}. "
            f"{advice(error)}, or set the environment variable TORCH_HOME to another directory."
        ) from None
    return path
