"""The environment variables by which a launcher tells each process which rank it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from pipeline.errors import ConfigError
from pipeline.foreign_text import shown

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
LAUNCHERS = "Start all ranks with `wgan train CONFIG --processes N`, torchrun or `accelerate launch`"
TASKS = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")


class Place(NamedTuple):
    """Which rank a process is, and which on its machine."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int | None
    """None if the launcher did not say how many ranks this machine has"""


ALONE = Place(0, 1, 0, 1)


def read_place(environment: Mapping[str, str] = os.environ) -> Place:
    """What the launcher says, or that this process is alone.

    Raises ConfigError if the variables contradict each other, because the ranks would then wait for ever, or each
    train a run of its own.
    """
    numbers = {name: _number(name, environment[name]) for name in NAMES if environment.get(name)}
    rank, world_size = numbers.get("RANK"), numbers.get("WORLD_SIZE")
    if rank is None or world_size is None:
        _refuse_half(numbers)
        _refuse_tasks(environment)
        return ALONE
    if not rank < world_size:
        raise ConfigError(
            f"RANK is {rank} and WORLD_SIZE is {world_size}, but ranks count from 0. {LAUNCHERS}, which set both, or "
            "unset both to train in one process."
        )
    if "LOCAL_RANK" not in numbers and world_size > 1:
        raise ConfigError(
            f"RANK is {rank} and WORLD_SIZE is {world_size}, but LOCAL_RANK, the rank on this machine, is not set, and "
            f"it decides which GPU this rank uses. {LAUNCHERS}, or set it (with srun: LOCAL_RANK=$SLURM_LOCALID)."
        )
    local_rank, local_size = numbers.get("LOCAL_RANK", 0), numbers.get("LOCAL_WORLD_SIZE")
    if not local_rank < (local_size or world_size):
        size = f"LOCAL_WORLD_SIZE is {local_size}" if local_size else f"WORLD_SIZE is {world_size}"
        raise ConfigError(
            f"LOCAL_RANK is {local_rank} and {size}, but ranks count from 0. {LAUNCHERS}, which set both."
        )
    return Place(rank, world_size, local_rank, local_size)


def refuse_several_launchers(environment: Mapping[str, str] = os.environ) -> None:
    """Raise ConfigError if srun runs this command several times: each would start ranks and train a run of its own."""
    _refuse_tasks({name: value for name, value in environment.items() if name != TASKS[1]})


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ConfigError(
            f"The environment variable {name} is {shown(text, 40)}, but it must be a whole number. {LAUNCHERS}, or "
            f"unset it ({', '.join(NAMES)}) to train in one process."
        )
    return int(text)


def _refuse_half(numbers: Mapping[str, int]) -> None:
    """Raise ConfigError if some variables speak of several ranks and others are missing."""
    several = [
        f"{name} is {number}"
        for name, number in numbers.items()
        if number > (1 if name.endswith("WORLD_SIZE") else 0)
    ]
    if several:
        missing = [f"{name} is not set" for name in ("RANK", "WORLD_SIZE") if name not in numbers]
        lacks = missing[0] if len(missing) == 1 else "neither RANK nor WORLD_SIZE is set"
        raise ConfigError(
            f"{' and '.join(several)} in the environment, but {lacks}, so it is unclear which rank this "
            f"is. {LAUNCHERS}, which set them all, or unset {', '.join(NAMES)} to train in one process."
        )


def _refuse_tasks(environment: Mapping[str, str]) -> None:
    name = next((name for name in TASKS if environment.get(name)), None)
    if name is not None and environment[name].isdigit() and int(environment[name]) > 1:
        raise ConfigError(
            f"Slurm runs this command {environment[name]} times ({name}), and no RANK tells them apart: each would "
            "train the same run by itself. Start one task on each machine, as launch/slurm.sbatch does, or give each "
            "task RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID, and MASTER_ADDR and "
            f"MASTER_PORT of the first one. For a single process, use `srun --ntasks=1` or unset {name}."
        )
