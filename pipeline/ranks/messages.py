"""What ranks tell each other besides tensors: JSON, sent as bytes in tensors.

PyTorch's own collectives for Python objects send pickles, and reading a pickle can run any code. The ports of ranks
on several machines are not authenticated, so a rank never unpickles what it receives.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import BY_NAME, PeerLostError, PipelineError


def encode(value: Any) -> Tensor:
    """The value as JSON: uint8 (bytes,). Raises TypeError if JSON has no form for it."""
    return torch.frombuffer(bytearray(json.dumps(value).encode("ascii")), dtype=torch.uint8)


def decode(content: Tensor, rank: int) -> Any:
    """The value in uint8 (bytes,) from `rank`: tuples have become lists. Raises PeerLostError if it is not JSON."""
    try:
        return json.loads(content.numpy().tobytes())
    except (ValueError, RecursionError):
        raise PeerLostError(
            f"Rank {rank} sent {len(content)} bytes that are not JSON, so the ranks cannot work together. Start all "
            "ranks with the same version of this package, on a network that you trust."
        ) from None


def encode_error(error: BaseException) -> list[str]:
    """The name of an error's class, the nearest one in pipeline.errors if it has one, and its message."""
    names = [kind.__name__ for kind in type(error).__mro__ if BY_NAME.get(kind.__name__) is kind]
    return [(names or [type(error).__name__])[0], str(error)]


def decode_error(name: str, message: str, rank: int) -> Exception:
    """The error of another rank, of the class in pipeline.errors with this name; a RuntimeError if it has none."""
    kind: type[PipelineError] | type[RuntimeError] = BY_NAME.get(name, RuntimeError)
    text = f"rank {rank}: {message}"
    return kind(text) if kind is RuntimeError else kind(*text.split("\n"))
