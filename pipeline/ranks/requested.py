"""What the launcher was asked for: the number of ranks, and ways to train that this program does not have."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import psutil
from accelerate import Accelerator
from accelerate.commands.config.config_args import default_yaml_config_file
from accelerate.utils import DistributedType

from pipeline.errors import ConfigError
from pipeline.ranks.variables import read_place
from pipeline.regular_files import read_regular
from pipeline.yaml_text import MOST_BYTES, parse_yaml

PRECISIONS = {"float32": "no", "tf32": "no", "bf16": "bf16", "fp16": "fp16"}
"""Accelerate's name for mixed precision of each; in TF32 nothing is mixed."""


def precision_named(mixed: str) -> str:
    """Our name for a precision of Accelerate's, or its own if we do not support it."""
    return next((name for name, found in PRECISIONS.items() if found == mixed), mixed)


def refuse_unsupported(accelerator: Accelerator, processes: int) -> None:
    """Raise ConfigError if Accelerate has set up something else than what was asked for and is supported."""
    if accelerator.num_processes != processes:
        raise ConfigError(
            f"{processes} processes were asked for, but {accelerator.num_processes} joined. "
            "On CPUs, `accelerate launch --cpu --num_processes N` starts a single process: use "
            f"`wgan train CONFIG --processes {processes}` instead."
        )
    supported = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if accelerator.distributed_type not in supported:
        raise ConfigError(_no_data_parallelism(accelerator.distributed_type.value))
    if accelerator.gradient_accumulation_steps != 1:
        raise ConfigError(
            "The launcher asks for gradient accumulation, which Accelerate counts over both networks together. "
            "Unset ACCELERATE_GRADIENT_ACCUMULATION_STEPS and use schedule.micro_batch."
        )
    if accelerator.state.dynamo_plugin.backend.value != "NO":
        raise ConfigError(
            "The launcher asks for torch.compile, which is not supported. Use --dynamo_backend no."
        )
    if (precision := accelerator.mixed_precision) not in PRECISIONS.values():
        raise ConfigError(
            f"The launcher asks for mixed precision {precision}, which is not supported. Use no, bf16 or fp16."
        )


def refuse_sharded_training() -> None:
    """Raise ConfigError if Accelerate's launcher asks for a way to train that it would start before it is checked."""
    for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() in ("1", "true", "yes"):
            raise ConfigError(_no_data_parallelism(name))


def _no_data_parallelism(found: str) -> str:
    return (
        f"The launcher chose {found}, which cannot train two networks in turn. Use plain data parallelism: "
        "launch/accelerate/ has configs that work."
    )


def requested_processes() -> int:
    """How many ranks the launcher was asked to start.

    `accelerate launch --cpu --num_processes 2` starts one process and does not tell it that two were asked for; a
    config with distributed_type: MULTI_CPU does the same. So the launcher's command line and config are read too.
    """
    place = read_place()
    if "RANK" in os.environ:
        return place.world_size
    try:
        parent = psutil.Process().parent()
        words = parent.cmdline() if parent else []
    except psutil.Error:
        return 1
    if not any(Path(word).name == "accelerate" or word.startswith("accelerate.") for word in words):
        return 1
    flags = dict(pairwise([*words, ""])) | dict(word.split("=", 1) for word in words if "=" in word)
    given = flags.get("--num_processes") or flags.get("--num-processes")
    if given is not None:
        return int(given)
    return _configured_processes(flags.get("--config_file") or flags.get("--config-file"))


def _configured_processes(config_file: str | None) -> int:
    """The number of processes in the launcher's config: the file that was named, or the user's default one."""
    path = Path(config_file or default_yaml_config_file)
    try:
        content = parse_yaml(read_regular(path, MOST_BYTES).decode()).content
        return int(content["num_processes"])
    except (OSError, KeyError, TypeError, ValueError):
        # The launcher reads the same file and reports what is wrong with it.
        return 1
