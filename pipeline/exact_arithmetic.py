"""Float32 that is computed as float32: no TF32, and only kernels that add in the same order every time.

TF32 is what tensor cores make of float32: they round the factors of products to 11 bits.

A run sets it for as long as it lasts, because a resumed run must give the same bits. What is computed outside of a run
(samples, a classifier) sets it for itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def use_exact_arithmetic() -> None:
    """Set it for this process."""
    # For GPUs and CPUs alike. Without the second line, cuDNN's convolutions use TF32.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True


@contextmanager
def tf32() -> Iterator[None]:
    """Let GPUs compute products of float32 matrices and convolutions in TF32 within, in the same order as before."""
    with arithmetic_given_back():
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        yield


@contextmanager
def arithmetic_given_back() -> Iterator[None]:
    """At the end, compute as before."""
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.deterministic
    precision = torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        cudnn.allow_tf32, cudnn.deterministic = before


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Set it within."""
    with arithmetic_given_back():
        use_exact_arithmetic()
        yield
