"""The ranks of a run. Only this file, `requested` and `process` use Accelerate.

Everywhere else, rank and world size are integers. Accelerate starts the process group, wraps modules in DDP and
applies mixed precision. Data order, checkpoints and gradient accumulation over two networks are done elsewhere.
"""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import (
    DistributedType,
    GradScalerKwargs,
    InitProcessGroupKwargs,
    check_cuda_p2p_ib_support,
)
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.errors import CheckpointError, ConfigError, PipelineError
from pipeline.exact_arithmetic import tf32, use_exact_arithmetic
from pipeline.models.norms import BatchNorm2d
from pipeline.option_rules import penalty_precision
from pipeline.options import Config
from pipeline.ranks import devices, meeting
from pipeline.ranks.averaging import average, gather_on_devices, mean_over_ranks
from pipeline.ranks.failures import as_meeting_failure
from pipeline.ranks.host_memory import keep_freed_memory
from pipeline.ranks.interface import choose_interface
from pipeline.ranks.launcher import follow_launcher
from pipeline.ranks.messages import decode, decode_error, encode, encode_error
from pipeline.ranks.requested import no_data_parallelism, refuse_sharded_training, requested_processes
from pipeline.ranks.speaker import has_launcher
from pipeline.ranks.variables import Place, read_place

PRECISIONS = {"float32": "no", "tf32": "no", "bf16": "bf16", "fp16": "fp16"}
"""Accelerate's name for mixed precision of each; in TF32 nothing is mixed."""


class Runtime:
    """This process as one of the ranks: its rank, device and precision, and the collective operations."""

    def __init__(self, config: Config) -> None:
        """Join the process group. Raises ConfigError if ranks, device or precision are not what was asked for."""
        requested, place = requested_processes(), read_place()
        torch.set_num_threads(devices.rank_threads(config.runtime.threads, place.local_world_size or 1))
        device = devices.chosen_device(config)
        precision = devices.fastest_precision(device) if config.precision == "auto" else config.precision
        refuse_sharded_training()
        self._precision_chosen_by = "config" if config.precision else "launcher"
        on_cpu = device.type == "cpu"
        if on_cpu:
            # Without it, Accelerate does not connect ranks that torchrun starts on CPUs.
            os.environ["ACCELERATE_USE_CPU"] = "1"
            keep_freed_memory()
        elif not check_cuda_p2p_ib_support():
            # On these GPUs Accelerate raises an error unless both are set, and only its own launcher sets them.
            for name in ("NCCL_P2P_DISABLE", "NCCL_IB_DISABLE"):
                os.environ.setdefault(name, "1")
        follow_launcher()
        choose_interface(place)
        use_exact_arithmetic()
        timeout = timedelta(seconds=config.runtime.timeout_seconds)
        if has_launcher():
            # Accelerate would form the group with a store that the network can reach.
            meeting.form_group("gloo" if on_cpu else "nccl", timeout)
        self._accelerator = Accelerator(
            cpu=on_cpu,
            mixed_precision=PRECISIONS[precision] if precision else None,
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=timeout),
                # The scaler counts the steps of both optimizers.
                GradScalerKwargs(growth_interval=2000 * config.schedule.optimizer_steps),
            ],
        )
        self.precision = precision or _precision_named(self._accelerator.mixed_precision)
        """The precision of forward and backward passes: float32, tf32, bf16 or fp16."""
        self._penalty_precision = penalty_precision(config)
        self.rank: int = self._accelerator.process_index
        self.world_size: int = self._accelerator.num_processes
        self.local_rank: int = self._accelerator.local_process_index
        self.device: torch.device = self._accelerator.device
        self.is_main = self.rank == 0
        self._check(config, requested)
        # Votes and messages have a group of their own on the host, so that they never wait for gradients.
        self._control: Any = dist.new_group(backend="gloo", timeout=timeout) if self.world_size > 1 else None
        self.local_world_size = self._count_neighbours(place)
        self.machine_threads = devices.machine_threads(torch.get_num_threads(), self.local_world_size)
        """torch's threads of all ranks of this machine: what one of them may use while the others wait for it."""

    def _count_neighbours(self, place: Place) -> int:
        """How many ranks this machine has. Raises ConfigError if two of them have the same GPU."""
        homes = self.gather_json([socket.gethostname(), devices.device_identity(self.device)])
        shared = [rank for rank, home in enumerate(homes) if home[1] and homes.index(home) < rank]
        if shared:
            first, second = homes.index(homes[shared[0]]), shared[0]
            host, gpu = homes[first]
            raise ConfigError(
                f"Ranks {first} and {second} both have the GPU {gpu} of {host}, and each needs one to itself. Start "
                "fewer ranks there, let each task see its own GPU, or set LOCAL_RANK to 0, 1, ... on each machine."
            )
        return place.local_world_size or [host for host, _ in homes].count(homes[self.rank][0])

    def _check(self, config: Config, requested: int) -> None:
        accelerator, precision = self._accelerator, self._accelerator.mixed_precision
        wanted = config.runtime.processes or requested
        if self.world_size != wanted:
            raise ConfigError(
                f"{wanted} processes were asked for, but {self.world_size} joined. "
                "On CPUs, `accelerate launch --cpu --num_processes N` starts a single process: use "
                f"`wgan train CONFIG --processes {wanted}` instead."
            )
        supported = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
        if accelerator.distributed_type not in supported:
            raise ConfigError(no_data_parallelism(accelerator.distributed_type.value))
        if accelerator.gradient_accumulation_steps != 1:
            raise ConfigError(
                "The launcher asks for gradient accumulation, which Accelerate counts over both networks together. "
                "Unset ACCELERATE_GRADIENT_ACCUMULATION_STEPS and use schedule.micro_batch."
            )
        if accelerator.state.dynamo_plugin.backend.value != "NO":
            raise ConfigError(
                "The launcher asks for torch.compile, which is not supported. Use --dynamo_backend no."
            )
        if precision not in PRECISIONS.values():
            raise ConfigError(
                f"The launcher asks for mixed precision {precision}, which is not supported. Use no, bf16 or fp16."
            )
        devices.check_precision(self.precision, self.device)
        if self._penalty_precision == "tf32":
            if self.precision == "float32":
                raise ConfigError(
                    "objective.precision: tf32 would round all of this run, which is in float32, and not only the "
                    "penalty. Set precision: tf32, or leave objective.precision out."
                )
            devices.check_precision("tf32", self.device)

    def step_arithmetic(self) -> AbstractContextManager[Any]:
        """The context of a training step: with TF32 if it was asked for. Everything else is computed without it."""
        return tf32() if "tf32" in (self.precision, self._penalty_precision) else nullcontext()

    @property
    def backend(self) -> str:
        """What connects the ranks: nccl or gloo, or "none" for a single one."""
        return str(dist.get_backend()) if self.world_size > 1 else "none"

    @property
    def memory_format(self) -> torch.memory_format:
        """The memory format of weights and feature maps: channels last if that is faster.

        It is on CPUs, and on GPUs in the precisions of tensor cores.
        """
        is_faster = self.device.type == "cpu" or self.precision != "float32"
        return torch.channels_last if is_faster else torch.contiguous_format

    def describe(self) -> dict[str, Any]:
        """The set-up that this run really has, for the console and environment.json."""
        return {
            "world_size": self.world_size,
            "device": str(self.device),
            "device_name": devices.device_name(self.device),
            "backend": self.backend,
            "precision": self.precision,
            "precision_chosen_by": self._precision_chosen_by,
            "memory_format": str(self.memory_format).removeprefix("torch."),
            "threads": torch.get_num_threads(),
        }

    def place(self, module: nn.Module) -> nn.Module:
        """The module on this rank's device. Call it before `prepare`: DDP's buckets keep the weights' memory format."""
        # Two calls, because PyTorch's annotations do not allow a single one.
        return module.to(self.device).to(memory_format=self.memory_format)

    def prepare(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, is_captured: bool = False
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The module with rank 0's weights, in DDP if there are several ranks, and its optimizer.

        In steps that are captured as CUDA graphs there is no DDP: `average_gradients` does its work.
        """
        if is_captured and self.world_size > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0)
            prepared_optimizer: Any = self._accelerator.prepare_optimizer(optimizer)
            # Accelerate's name for "mixed precision only".
            return self._accelerator.prepare_model(module, evaluation_mode=True), prepared_optimizer
        wrapped, prepared = self._accelerator.prepare(module, optimizer)
        if wrapped is not module:
            # A broadcast between two forward passes would change buffers that the first one's backward pass still
            # needs. The constructor does not get this setting: it would then not copy rank 0's buffers either.
            wrapped.broadcast_buffers = False
            if dist.get_backend() == "gloo":
                wrapped.register_comm_hook(None, mean_over_ranks)
        return wrapped, prepared

    def average_gradients(self, wrapped: nn.Module, weights: Sequence[Tensor]) -> None:
        """Average the gradients of a network's weights over the ranks, unless DDP has done so in the backward pass."""
        if self.world_size > 1 and not isinstance(wrapped, DistributedDataParallel):
            average([weight.grad for weight in weights if weight.grad is not None])

    def synchronize_batch_norm(self, module: nn.Module) -> None:
        """Let every batch norm layer compute its statistics over all ranks."""
        if self.world_size > 1:
            for layer in module.modules():
                if isinstance(layer, BatchNorm2d):
                    layer.gather_over_ranks = gather_on_devices

    def backward(self, loss: Tensor, weights: Sequence[Tensor]) -> None:
        self._accelerator.backward(loss, inputs=weights)

    def no_sync(self, module: nn.Module) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self._accelerator.no_sync(module)
        return context

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        if self._accelerator.scaler is not None:
            self._accelerator.unscale_gradients(optimizer)

    def scaler_state(self) -> dict[str, float]:
        """The float16 scale and its counters; empty in other precisions."""
        scaler = self._accelerator.scaler
        return dict(scaler.state_dict()) if scaler is not None else {}

    def restore_scaler(self, state: dict[str, float]) -> None:
        """Take what `scaler_state` returned. Raises CheckpointError if a value is missing."""
        scaler = self._accelerator.scaler
        if scaler is None:
            return
        if missing := scaler.state_dict().keys() - state.keys():
            raise CheckpointError(
                f"The checkpoint has no {', '.join(sorted(missing))} of the float16 scale, so it is damaged. Use "
                "another checkpoint."
            )
        scaler.load_state_dict(state)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all ranks, on all ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
            values /= self.world_size
        return values

    def average_buffers(self, module: nn.Module) -> None:
        """Replace floating-point buffers by their mean over the ranks: statistics of a rank's own samples differ."""
        buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
        if self.world_size > 1 and buffers:
            average(buffers)

    def gather(self, values: Tensor) -> Tensor:
        """The tensors of all ranks in host memory: (world_size, *shape). All have the same shape and dtype."""
        values = values.cpu()
        if self.world_size == 1:
            return values[None]
        rows = [torch.empty_like(values) for _ in range(self.world_size)]
        dist.all_gather(rows, values, group=self._control)
        return torch.stack(rows)

    def to_main(self, values: Tensor, senders: int) -> list[Tensor]:
        """On rank 0 the tensors of the first `senders` ranks, in host memory, by rank; on the others nothing.

        All of them have the same shape and dtype. Only these ranks call it.
        """
        values = values.cpu().contiguous()
        if values.numel() == 0:
            return [values] * senders if self.is_main else []
        if not self.is_main:
            dist.send(values, 0, group=self._control)
            return []
        rows = [values, *(torch.empty_like(values) for _ in range(1, senders))]
        works: list[Any] = [
            dist.irecv(row, rank, group=self._control) for rank, row in enumerate(rows) if rank > 0
        ]
        for work in works:
            work.wait()
        return rows

    def broadcast(self, values: Tensor) -> Tensor:
        """Rank 0's tensor, on the host of all ranks. The others give any tensor of its shape and dtype."""
        values = values.cpu().contiguous()
        if self.world_size > 1:
            dist.broadcast(values, 0, group=self._control)
        return values

    def gather_json(self, value: Any) -> list[Any]:
        """All ranks' small values, by rank, as JSON returns them: a tuple comes back as a list.

        Nothing that arrives is unpickled. Raises PeerLostError if it is not JSON.
        """
        ours = encode(value)
        lengths = self.gather(torch.tensor([len(ours)])).flatten().tolist()
        padded = torch.zeros(max(lengths), dtype=torch.uint8)
        padded[: len(ours)] = ours
        rows = self.gather(padded)
        return [decode(rows[rank, :length], rank) for rank, length in enumerate(lengths)]

    def maximum(self, values: Tensor) -> Callable[[], Tensor]:
        """Start the search for the largest of all ranks' values on the host, element by element, without waiting.

        The returned function waits for the other ranks, and gives the result, which has the shape and dtype of values.
        """
        if self.world_size == 1:
            return lambda: values
        work: Any = dist.all_reduce(values, op=dist.ReduceOp.MAX, group=self._control, async_op=True)

        def result() -> Tensor:
            work.wait()
            return values

        return result

    def vote(self, flag: bool) -> Callable[[], bool]:
        """Start a vote without waiting for it. The returned function waits, and tells whether any rank voted True."""
        result = self.maximum(torch.tensor([int(flag)]))
        return lambda: bool(result().item())

    def all_agree(self, error: Exception | None) -> None:
        """Raise on every rank if any rank has an error: its own if it has one, else that of the first rank with one."""
        errors = self.gather_json(encode_error(error))
        if error is not None:
            raise error
        for rank, failure in enumerate(errors):
            if failure is not None:
                name, message = failure
                raise decode_error(name, message, rank)

    @contextmanager
    def agreement(self) -> Iterator[None]:
        """At its end, raise on all ranks an error that its body raised on one. The body must not be collective."""
        error = None
        try:
            yield
        except PipelineError as failure:
            error = failure
        self.all_agree(error)

    def close(self) -> None:
        """Leave the process group. The caller must not hold a wrapped module or a captured step any more."""
        self._accelerator.free_memory()
        # DDP's threads must end before the group does: otherwise gloo aborts the process. NCCL would wait for graphs
        # that hold its exchanges.
        gc.collect()
        if dist.is_initialized():
            dist.destroy_process_group()


def _precision_named(mixed: str) -> str:
    """Our name for a precision of Accelerate's, or its own if we do not support it."""
    return next((name for name, found in PRECISIONS.items() if found == mixed), mixed)


def join(config: Config) -> Runtime:
    """Join the other ranks. Raises ConfigError or PeerLostError."""
    try:
        return Runtime(config)
    except RuntimeError as error:
        raise as_meeting_failure(error) from error
