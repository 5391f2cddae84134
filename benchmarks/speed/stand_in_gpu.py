"""A GPU that only knows shapes: a training step of any size runs on it in milliseconds, without one.

It is torch's "meta" device, with what else only GPUs have: kernels of batch norm over ranks, and optimizers whose state
is all on the device. Tensors on it have no content, so whatever reads one on the host fails, as does an operation on
tensors of two devices. The group of ranks is torch's fake one, in which every exchange ends at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from pipeline.models import gpu_batch_norm

DEVICE = torch.device("meta")


def _statistics(x: Tensor, *others: Tensor | float | None) -> tuple[Tensor, Tensor]:
    return _of_channels(x), _of_channels(x)


def _normalised(x: Tensor, *others: Tensor | float) -> Tensor:
    return torch.empty_like(x)


def _reduced_gradient(gradient: Tensor, x: Tensor, *others: Tensor | bool) -> tuple[Tensor, ...]:
    return tuple(_of_channels(x) for _ in range(4))


def _of_channels(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))


def _nothing(*_: object, **__: object) -> None:
    """An operation in place."""


KERNELS = {
    "batch_norm_stats": _statistics,
    "batch_norm_gather_stats_with_counts": _statistics,
    "batch_norm_update_stats": _statistics,
    "batch_norm_elemt": _normalised,
    "batch_norm_backward_reduce": _reduced_gradient,
    "batch_norm_backward_elemt": _normalised,
    "_fused_adam_.tensor_lr": _nothing,
}


@contextmanager
def stand_in_gpu(ranks: int = 1, has_kernels: bool = True) -> Iterator[torch.device]:
    """Within, the device exists, with its kernels of batch norm over ranks, and this process is rank 0 of `ranks`."""
    library = torch.library.Library("aten", "IMPL")
    for name, function in KERNELS.items():
        library.impl(name, function, "Meta")
    with ExitStack() as stack:
        stack.callback(library._destroy)  # type: ignore[no-untyped-call]
        stack.enter_context(patch.object(gpu_batch_norm, "has_kernels", lambda _: has_kernels))
        for module in ("rmsprop", "adam"):
            optimizer = f"torch.optim.{module}._get_capturable_supported_devices"
            stack.enter_context(patch(optimizer, lambda *_, **__: [DEVICE.type]))
        stack.enter_context(patch("torch.optim.adam._device_dtype_check_for_fused", lambda *_, **__: None))
        for name in ("_has_foreach_support", "_device_has_foreach_support"):
            stack.enter_context(patch(f"torch.nn.utils.clip_grad.{name}", lambda *_: True))
        # Mixed precision needs a device with content; shapes do not depend on it.
        stack.enter_context(patch.object(torch, "autocast", lambda *_, **__: nullcontext()))
        if ranks > 1:
            dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
            stack.callback(dist.destroy_process_group)
        yield DEVICE
