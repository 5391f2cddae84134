"""What the launcher was asked for: the number of ranks, and a way to train that this program does not have."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import psutil
from accelerate.commands.config.config_args import default_yaml_config_file

from pipeline.errors import ConfigError
from pipeline.ranks.variables import read_place
from pipeline.regular_files import read_regular
from pipeline.yaml_text import MOST_BYTES, parse_yaml


def refuse_sharded_training() -> None:
    """Raise ConfigError if Accelerate's launcher asks for a way to train that it would start before it is checked."""
    for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() in ("1", "true", "yes"):
            raise ConfigError(no_data_parallelism(name))


def no_data_parallelism(found: str) -> str:
    """The message for a launcher that chose another way to train than data parallelism."""
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
