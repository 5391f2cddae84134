"""Images per second on GPUs: eager and as one graph, in float32 and faster precisions, and on several of them."""

from __future__ import annotations

import json
from functools import partial
from statistics import harmonic_mean
from typing import Any

from pipeline.acceptance.bench import Bench
from pipeline.acceptance.runs import digits, train_ranks
from pipeline.acceptance.updates import precisions
from pipeline.durable import write_text
from pipeline.monitor.records import read_lines
from pipeline.run.directory import RunDirectory
from pipeline.wording import counted

SIDE, IMAGES_EACH = 64, 64
STEPS, LOG_EVERY, WARM = 120, 20, 2
"""Steps of a run, steps between its log points, and the first log points, which are left out: they hold a profile"""


def run(ranks: int, bench: Bench) -> str:
    """Time runs of this many GPUs, each with the same batch. More of them must not be slower than one."""
    for precision in ("float32", "tf32", "bf16"):
        if precision not in precisions():
            continue
        eager = _train(bench, ranks, precision, "runtime.cuda_graph=false", "profile=true")
        graph = _train(bench, ranks, precision, "runtime.cuda_graph=true")
        kernels = eager.pop("kernel_ms")
        for kind, found in (("eager", eager), ("graph", graph)):
            found["busy_share"] = kernels / (1e3 * found["step_seconds"])
            bench.figures[f"{precision}, {kind}"] = found
    write_text(bench.scratch / f"speed-{ranks}.json", json.dumps(bench.figures))
    _compare_with_one(bench, ranks)
    rates = {name: f"{found['images_per_second']:,.0f}" for name, found in bench.figures.items()}
    return (
        f"images/s on {counted(ranks, 'GPU')}: {'; '.join(f'{name} {rate}' for name, rate in rates.items())}"
    )


on_one, on_two, on_four, on_eight = (partial(run, ranks) for ranks in (1, 2, 4, 8))


def _compare_with_one(bench: Bench, ranks: int) -> None:
    file = bench.scratch / "speed-1.json"
    if ranks == 1 or not file.exists():
        return
    for name, alone in json.loads(file.read_text()).items():
        ours, one = bench.figures[name]["images_per_second"], alone["images_per_second"]
        bench.figures[name]["times_one"] = ours / one
        bench.check(ours >= one, f"{name}: {ours:,.0f} images/s on {ranks} GPUs, and {one:,.0f} on one")


def _train(bench: Bench, ranks: int, precision: str, *overrides: str) -> dict[str, Any]:
    """Train a run, and return its speed and memory; with a profile also how long a GPU computes in a step."""
    name = f"speed-{ranks}-{precision}-{len(overrides)}"
    sizes = [
        f"schedule.global_batch={IMAGES_EACH * ranks}",
        f"schedule.steps={STEPS}",
        "schedule.critic_updates=5",
    ]
    large = [f"data.shards={digits(bench, SIDE)}", "model.width=64", f"monitor.log_every={LOG_EVERY}"]
    path = train_ranks(bench, ranks, name, f"precision={precision}", *sizes, *large, *overrides)
    records = read_lines(RunDirectory(path).metrics)[WARM:]
    found = {
        "images_per_second": harmonic_mean([record["speed/images_per_second"] for record in records]),
        "step_seconds": harmonic_mean([record["speed/step_seconds"] for record in records]),
        "peak_mib": max(record["memory/device_peak_mib"] for record in records),
    }
    if (profile := path / "profile.json").exists():
        device = json.loads(profile.read_text())["recorded"]["device"]
        found["kernel_ms"] = sum(time for part, time in device.items() if part != "idle")
    return found
