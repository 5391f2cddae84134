"""The ranks of a run. Only this file, `requested` and `process` use Accelerate.

Everywhere else, rank and world size are integers. Accelerate starts the process group, wraps modules in DDP and
applies mixed precision. Data order, checkpoints and gradient accumulation over two networks are done elsewhere.
"""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import GradScalerKwargs, check_cuda_p2p_ib_support
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline import stopping
from pipeline.errors import CheckpointError, ConfigError, PipelineError
from pipeline.exact_arithmetic import tf32, use_exact_arithmetic
from pipeline.models.norms import BatchNorm2d
from pipeline.option_rules import penalty_precision
from pipeline.options import Config
from pipeline.ranks import devices
from pipeline.ranks.averaging import Exchange, average_bucket
from pipeline.ranks.failures import as_meeting_failure
from pipeline.ranks.hang_traces import record_operations
from pipeline.ranks.host_memory import keep_freed_memory
from pipeline.ranks.interface import choose_interface
from pipeline.ranks.launcher import follow_launcher
from pipeline.ranks.meeting import Meeting
from pipeline.ranks.messages import decode, decode_error, encode, encode_error
from pipeline.ranks.requested import (
    PRECISIONS,
    precision_named,
    refuse_sharded_training,
    refuse_unsupported,
    requested_processes,
)
from pipeline.ranks.thread_count import machine_threads, rank_threads
from pipeline.ranks.unix_sockets import connect
from pipeline.ranks.variables import Place, read_place
from pipeline.ranks.watch import Watch


class Runtime:
    """This process as one of the ranks: its rank, device and precision, and the collective operations."""

    def __init__(self, config: Config, meeting: Meeting, watch: Watch) -> None:
        """Join the process group. Raises ConfigError if ranks, device or precision are not what was asked for."""
        requested, place = requested_processes(), read_place()
        torch.set_num_threads(rank_threads(config.runtime.threads, place.world_size, place.local_world_size))
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
        self._timeout = timedelta(seconds=config.runtime.timeout_seconds)
        if place.world_size > 1:
            # Accelerate would form the group with one time limit for all, and a store that the network can reach.
            meeting.form_group("gloo" if on_cpu else "nccl", self._timeout)
        self._accelerator = Accelerator(
            cpu=on_cpu,
            mixed_precision=PRECISIONS[precision] if precision else None,
            # The scaler counts the steps of both optimizers.
            kwargs_handlers=[GradScalerKwargs(growth_interval=2000 * config.schedule.optimizer_steps)],
        )
        self.precision = precision or precision_named(self._accelerator.mixed_precision)
        """The precision of forward and backward passes: float32, tf32, bf16 or fp16."""
        self._penalty_precision = penalty_precision(config)
        self.rank: int = self._accelerator.process_index
        self.world_size: int = self._accelerator.num_processes
        self.local_rank: int = self._accelerator.local_process_index
        self.device: torch.device = self._accelerator.device
        self.is_main = self.rank == 0
        self._check(config, requested)
        # Votes and messages have a group of their own on the host, so that they never wait for gradients.
        self._control: Any = None
        self._watch, self._leaving = watch, ExitStack()
        if self.world_size > 1:
            self._control = dist.new_group(backend="gloo", timeout=self._timeout)
            watch.start(self._control, self.rank, self.world_size)
        self.local_world_size = self._count_local_ranks(place)
        self.machine_threads = machine_threads(torch.get_num_threads(), self.local_world_size)
        """torch's threads of all ranks of this machine: what one of them may use while the others wait for it."""

    def __enter__(self) -> Self:
        self._leaving.enter_context(stopping.last_words(self._watch.leave))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the other ranks: at once if this one has failed, and otherwise when they are done, too."""
        self._leaving.close()
        if error is None or stopping.is_settled():
            self.finish()
        else:
            self._watch.leave(error)

    def _count_local_ranks(self, place: Place) -> int:
        """How many ranks this machine has. Raises ConfigError if two of them have the same GPU."""
        ours = [socket.gethostname(), devices.device_identity(self.device)]
        answers = self.gather_json([ours, place.local_world_size, torch.get_num_threads()])
        homes, sizes = [home for home, _, _ in answers], {size for _, size, _ in answers}
        # It decides how sums are rounded, also those that each rank computes by itself, such as spectral norms.
        torch.set_num_threads(min(threads for _, _, threads in answers))
        devices.refuse_shared_gpus(homes)
        # Several machines can have one name; what the launcher has counted tells them apart.
        is_one_machine = len({host for host, _ in homes}) == 1 and sizes <= {None, self.world_size}
        self._are_neighbours = is_one_machine and self.device.type == "cpu"
        return place.local_world_size or [host for host, _ in homes].count(homes[self.rank][0])

    @cached_property
    def exchange(self) -> Exchange:
        """How gradients and statistics get to the other ranks. All ranks ask for it together, for the first time."""
        if self.world_size == 1 or not self._are_neighbours:
            return Exchange()
        return Exchange(connect(self.rank, self.world_size, self.gather_json, self._timeout.total_seconds()))

    def _check(self, config: Config, requested: int) -> None:
        refuse_unsupported(self._accelerator, config.runtime.processes or requested)
        devices.check_precision(self.precision, self.device)
        if self._penalty_precision == "tf32":
            if self.precision == "float32":
                raise ConfigError(
                    "objective.precision: tf32 would round all of this run, which is in float32, and not only the "
                    "penalty. Set precision: tf32, or leave objective.precision out."
                )
            devices.check_precision("tf32", self.device, "objective.precision")

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
                wrapped.register_comm_hook(self.exchange, average_bucket)
        return wrapped, prepared

    def average_gradients(self, wrapped: nn.Module, weights: Sequence[Tensor]) -> None:
        """Average the gradients of a network's weights over the ranks, unless DDP has done so in the backward pass."""
        if self.world_size > 1 and not isinstance(wrapped, DistributedDataParallel):
            self.exchange.average([weight.grad for weight in weights if weight.grad is not None])

    def synchronize_batch_norm(self, module: nn.Module) -> None:
        """Let every batch norm layer compute its statistics over all ranks."""
        if self.world_size > 1:
            for layer in module.modules():
                if isinstance(layer, BatchNorm2d):
                    layer.gather_over_ranks = self.exchange.gather

    def backward(self, loss: Tensor, weights: Sequence[Tensor]) -> None:
        self._watch.beat()
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
            self.exchange.average(buffers)

    def gather(self, values: Tensor) -> Tensor:
        """The tensors of all ranks in host memory: (world_size, *shape). All have the same shape and dtype."""
        values = values.cpu()
        if self.world_size == 1:
            return values[None]
        rows = [torch.empty_like(values) for _ in range(self.world_size)]
        with self._getting_on():
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
            with self._getting_on():
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
            with self._getting_on():
                work.wait()
            return values

        return result

    def vote(self, flag: bool) -> Callable[[], bool]:
        """Start a vote without waiting for it. The returned function waits, and tells whether any rank voted True."""
        result = self.maximum(torch.tensor([int(flag)]))
        return lambda: bool(result().item())

    def all_agree(self, error: Exception | None) -> None:
        """Raise on every rank if any rank has an error: its own if it has one, else that of the first rank with one."""
        errors = self.gather_json(None if error is None else encode_error(error))
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

    @contextmanager
    def _getting_on(self) -> Iterator[None]:
        """A wait for messages of other ranks, which has a time limit of its own."""
        self._watch.beat()
        yield
        self._watch.beat()

    def limited(self) -> AbstractContextManager[Callable[[], None]]:
        """Within it, end the process if a step hangs. Gives a function to call at the start of each step."""
        return self._watch.limited(self._timeout.total_seconds())

    def finish(self) -> None:
        """Wait until all ranks have done what they do together. From then on none misses another one."""
        self._watch.finish()

    def close(self) -> None:
        """Leave the process group. The caller must not hold a wrapped module or a captured step any more."""
        self.finish()
        if "exchange" in self.__dict__ and self.exchange.sockets is not None:
            self.exchange.sockets.close()
        self._accelerator.free_memory()
        # DDP's threads must end before the group does: otherwise gloo aborts the process. NCCL would wait for graphs
        # that hold its exchanges.
        gc.collect()
        if dist.is_initialized():
            dist.destroy_process_group()


def join(
    config: Config, note: Callable[[PipelineError], None] = lambda error: None, traces: Path | None = None
) -> Runtime:
    """Join the other ranks. Raises ConfigError or PeerLostError.

    If another rank is lost later on, or a step hangs, `note` is called with the error in another thread, and the
    process is ended if it does not end by itself within seconds. Files about a hang get names that begin with `traces`.
    """
    watch = Watch(note, traces)
    if traces is not None:
        record_operations(traces)
    try:
        with Meeting(watch.end_early) as meeting:
            return Runtime(config, meeting, watch)
    except Exception as error:
        watch.leave(error)
        if isinstance(error, RuntimeError):
            raise as_meeting_failure(error) from error
        raise
