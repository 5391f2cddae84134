"""`wgan doctor`: show what this machine has, and what a config would use."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.arguments import Commands, add_config

if TYPE_CHECKING:
    from pipeline.options import Config


def add_parser(commands: Commands) -> None:
    """Add the command, its flags and its help."""
    doctor = commands.add_parser("doctor", help="show versions, devices and what a config would use")
    add_config(doctor, nargs="?")
    doctor.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Print versions, devices and what the config would use.

    Raises the error that a run of the config would fail with at its start, on this machine and in one process.
    """
    from pipeline.config import load_config

    sections = {"versions": _versions(), "machine": _machine(), "ranks": _ranks()}
    if arguments.config is not None:
        sections[f"{arguments.config} would use"] = _plan(load_config(arguments.config, arguments.overrides))
    for title, lines in sections.items():
        print(f"{title}\n" + "\n".join(f"  {name:14} {text}" for name, text in lines.items()))
    if arguments.config is None:
        print("to see what a config would use, name it: wgan doctor digits")
    return 0


def _versions() -> dict[str, str]:
    from pipeline.training.describe import PACKAGES

    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed: pip install -e ."
    return found


def _machine() -> dict[str, str]:
    import psutil
    import torch

    memory, disk = psutil.virtual_memory(), shutil.disk_usage(".")
    lines = {
        "processor": f"{platform.machine()}, {os.cpu_count()} logical cores, torch uses {torch.get_num_threads()}",
        "memory": f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free",
        "disk here": f"{disk.free / 2**30:.1f} GiB free",
    }
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if torch.cuda.is_bf16_supported(False) else "no bf16"
        lines[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {bf16}"
    if not torch.cuda.is_available():
        lines["cuda"] = f"no device (torch is built for CUDA {torch.version.cuda or 'not at all'})"
    return lines


def _ranks() -> dict[str, str]:
    import torch
    import torch.distributed as dist

    from pipeline.ranks.runtime import requested_processes

    backends = [name for name in ("nccl", "gloo", "mpi") if dist.is_backend_available(name)]
    return {
        "asked for": f"{requested_processes()} (WORLD_SIZE, or the launcher's --num_processes)",
        "backends": ", ".join(backends),
        "on one machine": f"wgan train CONFIG --processes {max(torch.cuda.device_count(), 1)}",
    }


def _plan(config: Config) -> dict[str, str]:
    from pipeline.data.format.manifest import check_hashes
    from pipeline.data.format.shard_set import open_shards
    from pipeline.data.reading.cache import choose_cache
    from pipeline.data.reading.order import build_order
    from pipeline.models import build_critic, build_generator
    from pipeline.ranks.devices import chosen_device, fastest_precision
    from pipeline.run.initial_weights import freeze_named_layers, load_initial_weights
    from pipeline.training.checks import square_resolution

    shards, device = open_shards(config.data), chosen_device(config)
    manifest = shards.manifest
    if config.data.verify == "hashes" and shards.directory is not None:
        check_hashes(shards.directory, manifest.shards, show_progress=True)
    order = build_order(config, shards)
    resolution, channels = square_resolution(manifest), manifest.channels
    cache, reason = choose_cache(config.data.cache, manifest.decoded_bytes, 1, device)
    networks = {"generator": build_generator, "critic": build_critic}
    built = {name: build(config.model, resolution, channels) for name, build in networks.items()}
    load_initial_weights(config.init_from, **built)
    freeze_named_layers(config.init_from, **built)
    parameters = {name: sum(p.numel() for p in network.parameters()) for name, network in built.items()}
    return {
        "run": f"{Path(config.run_root) / config.name}",
        "images": f"{manifest.count:,} of {resolution}x{resolution}x{channels} in {len(manifest.shards)} shards, whole",
        "epoch": f"{order.epoch_size:,} training images, {len(order.held_out_ids()):,} held out",
        "device": str(device),
        "precision": f"auto: {fastest_precision(device)}"
        if config.precision == "auto"
        else config.precision or "the launcher's choice, else float32",
        "cache": f"{cache}: {reason}",
        **{name: f"{count:,} parameters" for name, count in parameters.items()},
    }
