"""The parts of a step, marked in a profiler's trace."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, get_args

import torch

Phase = Literal[
    "data",
    "latents",
    "fakes",
    "forward",
    "backward",
    "optimizer",
    "clip",
    "averaging",
    "logging",
    "digest",
    "saving",
]
PHASES: tuple[Phase, ...] = get_args(Phase)

_is_profiling = torch._C._autograd._profiler_enabled
_UNMARKED = nullcontext()


def phase(name: Phase) -> AbstractContextManager[Any]:
    """A context that marks this part of a step in a profiler's trace. It does nothing while no profiler runs.

    Phases must not be nested, so that their times can be added up.
    """
    return torch.profiler.record_function(name) if _is_profiling() else _UNMARKED
