"""Settings of the whole process that a run changes. They are restored at its end, since a notebook has other work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

from pipeline.exact_arithmetic import arithmetic_given_back
from pipeline.ranks.devices import gpus_in_use

SINGLETONS = (PartialState, AcceleratorState, GradientState)
"""Accelerate keeps one of each for a process: a second run would keep the first one's device and precision."""
LIBRARIES = (
    "ACCELERATE_",
    "GLOO_",
    "KINETO_",
    "LD_LIBRARY_PATH",
    "NCCL_",
    "OMP_",
    "PYTORCH_",
    "TORCHINDUCTOR_",
    "TORCH_FR_",
    "TORCH_NCCL_",
)
"""How the names of environment variables begin that a run, or a library in it, sets."""


@contextmanager
def settings_given_back() -> Iterator[None]:
    """At the end restore torch's settings and random numbers, Accelerate's state and the environment variables.

    Within it gradients are computed, even if the caller has switched them off.
    """
    with (
        _torch_settings(),
        _environment(),
        _accelerate_state(),
        torch.random.fork_rng(gpus_in_use()),
        torch.enable_grad(),
    ):
        yield


@contextmanager
def _torch_settings() -> Iterator[None]:
    threads = torch.get_num_threads()
    try:
        with arithmetic_given_back():
            yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


@contextmanager
def _environment() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        # Only these: another thread of the program may have set variables of its own meanwhile.
        for name in [name for name in {*before, *os.environ} if name.startswith(LIBRARIES)]:
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]


@contextmanager
def _accelerate_state() -> Iterator[None]:
    before = [dict(singleton._shared_state) for singleton in SINGLETONS]
    for singleton in SINGLETONS:
        singleton._shared_state.clear()
    try:
        yield
    finally:
        for singleton, state in zip(SINGLETONS, before, strict=True):
            singleton._shared_state.clear()
            singleton._shared_state.update(state)
