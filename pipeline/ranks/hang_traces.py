"""What a rank that hangs leaves behind: where its threads were, and which collective operations were under way.

hang_rank_3.txt     the stacks of all threads of rank 3
hang_rank_3.json    the latest collective operations of rank 3, as torch's flight recorder knows them
hang_rank_3         the same by NCCL itself, a pickle for torch's own tool, if its watchdog ends the process
"""

from __future__ import annotations

import faulthandler
import os
import threading
from pathlib import Path

import torch.distributed as dist
from torch._C import _distributed_c10d

from pipeline.durable import replacing, write_text
from pipeline.errors import StorageError
from pipeline.stderr import say_warning

OPERATIONS = 2000
"""How many are remembered."""
SECONDS_TO_ASK = 5.0


def record_operations(prefix: Path) -> None:
    """Let torch remember the latest operations, and NCCL's watchdog write them to files whose names begin like this.

    What the user has set stays as it is.
    """
    os.environ.setdefault("TORCH_FR_DUMP_TEMP_FILE", str(prefix.absolute()))
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", str(OPERATIONS))
    os.environ.setdefault("TORCH_NCCL_DUMP_ON_TIMEOUT", "1")


def write_traces(prefix: Path, rank: int) -> None:
    """Write the first two files above. What cannot be written is a warning."""
    try:
        with replacing(Path(f"{prefix}{rank}.txt")) as file:
            faulthandler.dump_traceback(file)
    except StorageError as error:
        say_warning(f"no stacks of rank {rank}: {error}")
    # In a thread, because the recorder asks a device that may be what hangs.
    writing = threading.Thread(target=_write_operations, args=(prefix, rank), daemon=True)
    writing.start()
    writing.join(SECONDS_TO_ASK)


def _write_operations(prefix: Path, rank: int) -> None:
    if not dist.is_initialized():
        return
    # Torch does not document these functions, and a build without NCCL or an older version lacks one of them.
    name = "_dump_nccl_trace_json" if dist.get_backend() == "nccl" else "_dump_fr_trace_json"
    if (recorded := getattr(_distributed_c10d, name, None)) is None:
        say_warning(f"no operations of rank {rank}: this version of torch has no {name}.")
        return
    try:
        write_text(Path(f"{prefix}{rank}.json"), recorded().decode())
    except (StorageError, RuntimeError) as error:
        say_warning(f"no operations of rank {rank}: {error}")
