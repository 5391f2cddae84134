"""`wgan doctor`: show the versions and the hardware of this machine, and what a run would use of them."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.arguments import Commands, add_config
from pipeline.errors import ConfigError
from pipeline.stdout import say
from pipeline.versions import find_versions
from pipeline.wording import counted

if TYPE_CHECKING:
    from pipeline.options import Config

CHECKED_BY = {"hashes": "by its hash", "sizes": "by its size"}


def add_parser(commands: Commands) -> None:
    """Add the command, its flags and its help."""
    doctor = commands.add_parser("doctor", help="show versions, hardware and what a config would use")
    add_config(doctor, nargs="?")
    doctor.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the versions, the hardware and what a run of the config would use.

    Raises the error with which such a run would fail at its start, on this machine and in one process.
    """
    from pipeline.config import load_config

    # Printed at once, because they are also needed to find the cause if the config is refused.
    for title, lines in {"versions": find_versions(), "machine": _machine(), "ranks": _ranks()}.items():
        _print_section(title, lines)
    _print_section("preflight", _preflight())
    if arguments.config is None:
        say("To see also what a run would use, name its config, for example: wgan doctor digits")
    else:
        config = load_config(arguments.config, arguments.overrides)
        _print_section(f"a run of {arguments.config} on this machine", _plan(config))
    return 0


def _print_section(title: str, lines: Mapping[str, str]) -> None:
    say(title, *(f"  {name:14} {text}" for name, text in lines.items()))


def _machine() -> dict[str, str]:
    import psutil
    import torch

    from pipeline.cores import available_cores

    memory, disk = psutil.virtual_memory(), shutil.disk_usage(".")
    lines = {
        "processor": f"{platform.machine()}, {counted(os.cpu_count() or 1, 'logical core')} "
        f"({available_cores()} for this process)",
        "torch threads": f"{torch.get_num_threads()} by default",
        "memory": f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free",
        "disk here": f"{disk.free / 2**30:.1f} GiB free",
    }
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if torch.cuda.is_bf16_supported(False) else "no bf16"
        lines[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {bf16}"
    if not torch.cuda.is_available():
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        lines["GPU"] = f"none that torch can use; this torch is built {built}"
    return lines


def _ranks() -> dict[str, str]:
    import torch.distributed as dist

    from pipeline.commands.train import default_processes
    from pipeline.options import RuntimeOptions

    backends = [name for name in ("nccl", "gloo", "mpi") if dist.is_backend_available(name)]
    return {
        "wgan train": f"starts {counted(default_processes(RuntimeOptions()), 'rank')} by default",
        "launcher": _launcher(),
        "backends": ", ".join(backends) or "none, so a run can have only 1 rank",
    }


def _preflight() -> dict[str, str]:
    """What `wgan accept` looks at first. Between several GPUs it exchanges something, which takes some seconds."""
    from pipeline.acceptance.preflight import exchange_over, look_over
    from pipeline.ranks.devices import gpu_count

    findings = look_over()
    if gpu_count() > 1:
        findings["all-reduce"] = exchange_over(gpu_count())
    return {name: str(finding) for name, finding in findings.items()}


def _launcher() -> str:
    from pipeline.ranks.requested import requested_processes

    try:
        return f"asks for {counted(requested_processes(), 'rank')} (WORLD_SIZE or --num_processes, else 1)"
    except ConfigError as error:
        return str(error)


def _plan(config: Config) -> dict[str, str]:

    from pipeline.commands.train import default_processes
    from pipeline.data.originals.opening import open_data
    from pipeline.data.reading.cache import choose_cache
    from pipeline.data.reading.class_labels import class_shares, classes_of_run
    from pipeline.data.reading.run_order import build_order, describe_sources, describe_validation
    from pipeline.models import build_critic, build_generator
    from pipeline.ranks.devices import chosen_device, fastest_precision
    from pipeline.ranks.thread_count import rank_threads
    from pipeline.run.initial_weights import freeze_named_layers, load_initial_weights

    shards, device = open_data(config.data), chosen_device(config)
    manifest = shards.manifest
    shards.check_sizes()
    if config.data.verify == "hashes":
        shards.check_hashes(show_progress=True)
    order = build_order(config, shards)
    channels, (height, width) = shards.image_shape[0], shards.size
    cache, reason = choose_cache(config.data.cache, shards.decoded_bytes, 1, device)
    if classes := classes_of_run(config, manifest):
        class_shares(order, classes, config.data.place)
    networks = {"generator": build_generator, "critic": build_critic}
    built = {
        name: build(config.model, shards.size, channels, len(classes)) for name, build in networks.items()
    }
    load_initial_weights(config.init_from, **built, images=shards.image_shape)
    freeze_named_layers(config.init_from, **built)
    parameters = {name: sum(p.numel() for p in network.parameters()) for name, network in built.items()}
    ranks = default_processes(config.runtime)
    images = f"{counted(manifest.count, 'image')} of {height}x{width}x{channels}"
    checked = CHECKED_BY[config.data.verify] if shards.is_local else "when it is downloaded"
    return {
        "directory": f"{Path(config.run_root) / config.name}",
        "ranks": f"{ranks} with `wgan train`, batch {config.schedule.global_batch} over all of them",
        "device": str(device),
        "precision": f"{fastest_precision(device)} (auto)"
        if config.precision == "auto"
        else config.precision or "the launcher's choice, else float32",
        "torch threads": f"{rank_threads(config.runtime.threads, ranks, ranks)} in each rank",
        "shards": f"{images} in {counted(len(manifest.shards), 'shard')}, each checked {checked}",
        "epoch": f"{counted(order.epoch_size, 'training image')}, {order.held_out_count:,} held out",
        **({"sources": "; ".join(lines)} if (lines := describe_sources(order, config, shards)) else {}),
        **({"": remark} if (remark := describe_validation(config, order)) else {}),
        "cache": f"{cache} ({reason})",
        **{name: counted(count, "parameter") for name, count in parameters.items()},
    }
