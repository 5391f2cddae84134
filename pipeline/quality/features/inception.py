"""Features of the Inception network, by which the Frechet Inception distance is defined (Heusel et al. 2017).

The network and its weights, converted from TensorFlow's of 2015, are torch-fidelity's; figures agree with those
that papers give only where these weights are used.
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

BATCH = 50


@dataclass(frozen=True)
class InceptionFeatures:
    """The 2,048 values before the network's last layer."""

    network: Any
    name: str
    """With the first digits of the weights file's SHA-256: those of torch-fidelity's own are in its name, too."""

    @classmethod
    def load(cls, weights: Path | None, device: torch.device) -> Self:
        """The network with the weights of a file, or of torch-fidelity's own download, which is kept.

        Raises ConfigError without the library or the file, DataError where nothing can be downloaded,
        CheckpointError for a file that is no such weights; nothing in it is executed.
        """
        try:
            from torch_fidelity import feature_extractor_inceptionv3 as inception
        except ImportError:
            raise ConfigError(
                "features: inception needs a library that is missing. Install it: pip install "
                "'wgan-pipeline[inception]'. Or use features: pixels or classifier."
            ) from None
        path = weights or _download(inception.URL_INCEPTION_V3)
        state, digest = _read(path)
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
                f"{path} holds other weights than those of torch-fidelity's Inception network "
                f"({str(error).splitlines()[0]}). Name the file {Path(inception.URL_INCEPTION_V3).name}."
            ) from None
        return cls(network.to(device), f"inception {digest[:8]}")

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (count, 1 or 3, height, width) to float32 (count, 2048). The network resizes to 299 pixels."""
        coloured = images.expand(-1, 3, -1, -1)
        return torch.cat([self.network(part)[0] for part in torch.split(coloured, BATCH)])


def _read(path: Path) -> tuple[dict[str, Tensor], str]:
    """A file's tensors by their names, and its SHA-256."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}, the file of the Inception network's weights, cannot be read: {error.strerror or error}. Name "
            "one that can."
        ) from None
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path} cannot be read as tensors ({(str(error) or 'it ends early').splitlines()[0]}). Only plain weights "
            "are read, for other content could run code. Name another file, or delete it if it was downloaded."
        ) from None
    is_plain = isinstance(state, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    )
    if not is_plain:
        raise CheckpointError(
            f"{path} holds a {type(state).__name__}, and weights are tensors by their names. Name the file of the "
            "Inception network's weights, or delete it if it was downloaded."
        )
    return dict(state), hashlib.sha256(content).hexdigest()


def _download(url: str) -> Path:
    """The file of the weights, fetched unless an earlier download has left it."""
    path = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
    if path.exists():
        return path
    digest = path.stem.rsplit("-", 1)[-1]
    way_out = (
        f"Fetch {url} elsewhere, and name the file as the weights; or use features: pixels or classifier."
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
            f"What {url} gives is not the Inception network's weights: its SHA-256 does not begin with {digest} "
            f"({error}). Something in between may have answered in its place. {way_out}"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{path.parent} cannot keep the Inception network's weights: {error.strerror or error}. {advice(error)}, "
            "with the environment variable TORCH_HOME."
        ) from None
    return path
