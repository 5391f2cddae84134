"""A checked all-reduce between ranks: the first stage of an acceptance, and part of `wgan doctor`."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline import stopping
from pipeline.errors import ConfigError, PeerLostError, PipelineError, describe
from pipeline.ranks.launcher import launch

SIZES = (1, 1000, 2**22)
"""Numbers of 4 bytes"""
REPEATS = 3
SECONDS_TO_MEET = 60.0


def exchange(ranks: int) -> tuple[dict[str, Any], str | None]:
    """Start ranks on this machine that add tensors over all of them and check every sum.

    Returns what was measured, and what is wrong or None. Raises what `stopping.check` raises.
    """
    with tempfile.TemporaryDirectory(prefix="wgan-") as folder:
        found = Path(folder) / "found.json"
        try:
            code = launch(ranks, __name__, [str(found)])
        except (ConfigError, PeerLostError) as error:
            return {}, describe(error)
        # A signal that was passed on to the ranks ends them with a code, too.
        stopping.check()
        if code != 0:
            return {}, f"{ranks} ranks could not exchange tensors (exit code {code}), and have printed why"
        figures: dict[str, Any] = json.loads(found.read_text())
    wrong = figures.pop("wrong")
    return figures, _problem(wrong, ranks, figures["backend"]) if wrong else None


def _problem(wrong: list[int], ranks: int, backend: str) -> str:
    """What is wrong if sums of tensors with so many numbers are, and what to do."""
    sizes = " and ".join(f"{size:,}" for size in wrong)
    remedy = (
        "Try again with NCCL_P2P_DISABLE=1: if they are right then, the GPUs do not reach each other's memory as they "
        "say, often because of the host's IOMMU or PCI settings"
        if backend == "nccl"
        else "Check the memory of this machine"
    )
    return (
        f"sums of tensors with {sizes} numbers are wrong over {ranks} ranks, so training would be. {remedy}"
    )


def main(words: list[str]) -> int:
    """One rank of `exchange`. The main rank writes what it found to the file that the only word names."""
    import torch

    from pipeline.durable import write_text
    from pipeline.option_data import DataOptions
    from pipeline.options import Config, RuntimeOptions, ScheduleOptions
    from pipeline.ranks.devices import synchronize
    from pipeline.ranks.failures import rank_failures
    from pipeline.ranks.runtime import join
    from pipeline.ranks.speaker import tell

    config = Config(
        name="exchange",
        data=DataOptions(shards="none"),
        schedule=ScheduleOptions(steps=1),
        runtime=RuntimeOptions(timeout_seconds=SECONDS_TO_MEET),
    )
    try:
        with rank_failures():
            runtime = join(config)
            wrong, best = set[int](), float("inf")
            for size in SIZES:
                pattern = torch.arange(size, device=runtime.device) % 1024
                for _ in range(REPEATS):
                    values = pattern.float() * (runtime.rank + 1)
                    synchronize(runtime.device)
                    started = time.perf_counter()
                    runtime.mean(values)
                    synchronize(runtime.device)
                    best = min(best, (time.perf_counter() - started) / size)
                    # All are whole numbers, or halves of them, that float32 holds exactly.
                    if not torch.equal(values, pattern.float() * ((runtime.world_size + 1) / 2)):
                        wrong.add(size)
            everyones = runtime.gather_json(sorted(wrong))
            backend = runtime.describe()["backend"]
            if runtime.is_main:
                content = {
                    "backend": backend,
                    "ranks": runtime.world_size,
                    "gigabytes_per_second": round(4e-9 / best, 3),
                    "wrong": sorted({size for sizes in everyones for size in sizes}),
                }
                write_text(Path(words[0]), json.dumps(content))
            runtime.close()
    except PipelineError as error:
        tell(error)
        return error.exit_code
    return 0
