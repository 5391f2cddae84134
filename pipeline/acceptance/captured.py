"""Steps on a GPU: none waits for it without need, and one CUDA graph computes what an eager step does."""

from __future__ import annotations

import gc
import traceback

from pipeline.acceptance.bench import Bench
from pipeline.acceptance.runs import check_same_bits, options, trainer_of
from pipeline.acceptance.updates import precisions
from pipeline.ranks.devices import hidden_waits_refused, used_memory
from pipeline.training.graphed_step import fixed
from pipeline.training.step import Result, StepInputs, take_step
from pipeline.training.trainer import Trainer

FIRST, WATCHED, LONG = 5, 20, 200
"""Steps: until everything was used once, those that are compared, and those over which memory must not grow"""


def no_waits(bench: Bench) -> str:
    """Ordinary steps, eager and as graphs, while an operation that makes the host wait raises an error."""
    kinds = [(precision, graph) for precision in _without_scaler() for graph in ("false", "true")]
    for precision, graph in kinds:
        what = f"{precision}, {'one graph' if graph == 'true' else 'eager'}"
        overrides = [f"precision={precision}", f"runtime.cuda_graph={graph}"]
        with trainer_of(options(bench, f"name=waits-{precision}-{graph}", *overrides)) as trainer:
            take(trainer, FIRST)
            try:
                with hidden_waits_refused():
                    take(trainer, WATCHED)
            except RuntimeError as error:
                traceback.print_exc()
                bench.check(False, f"{what}: {str(error).splitlines()[0]}")
    return f"{WATCHED} steps without a hidden wait, eager and as one graph, in {', '.join(_without_scaler())}"


def same_as_eager(bench: Bench) -> str:
    """The same steps as one graph and eagerly, with the same optimizers; and many more as a graph."""
    for precision in _without_scaler():
        states = {}
        for kind in ("eager", "graph"):
            overrides = [f"precision={precision}", "runtime.cuda_graph=true", f"name={kind}-{precision}"]
            with trainer_of(options(bench, *overrides, "critic_optimizer.name=adam")) as trainer:
                if kind == "eager":
                    take_eagerly(trainer)
                take(trainer, WATCHED)
                states[kind] = {name: value.clone() for name, value in trainer.state.flat_tensors().items()}
                if kind == "graph":
                    _check_memory(bench, precision, trainer)
        check_same_bits(bench, states["graph"], states["eager"], precision)
    return f"equal bits after {WATCHED} steps, memory flat over {LONG}, in {', '.join(_without_scaler())}"


def take(trainer: Trainer, steps: int) -> None:
    """Take steps as the training loop does between log points."""
    batches = trainer.loader.batches(trainer.state.counters.position)
    for _ in range(steps):
        metrics, _ = trainer.step.take(batches)
        trainer.observer.recorder.add(metrics, images=0)


def take_eagerly(trainer: Trainer) -> None:
    """Let a trainer whose steps would be captured take them eagerly, from inputs of the same kind."""
    parts, device = trainer.step.parts, trainer.runtime.device

    def run(inputs: StepInputs) -> Result:
        return take_step(parts, fixed(inputs, device))

    trainer.step.run = run


def _check_memory(bench: Bench, precision: str, trainer: Trainer) -> None:
    """Check that tensors use no more memory after many steps."""
    # What is left of other trainers, and of steps, is in use until it is collected.
    gc.collect()
    before = used_memory(trainer.runtime.device)
    take(trainer, LONG)
    gc.collect()
    after = used_memory(trainer.runtime.device)
    bench.figures[precision] = {"bytes before": before, "bytes after": after}
    bench.check(after <= before, f"{precision}: {after - before:,} bytes more are in use after {LONG} steps")


def _without_scaler() -> list[str]:
    """All precisions but float16, whose scaler reads from the device in each step."""
    return [name for name in precisions() if name != "fp16"]
