"""Train a Wasserstein GAN: `accelerate launch -m pipeline.train CONFIG [section.option=value ...]`.

The same command starts a run and continues it. Under `python -m` it is one process; under accelerate or
torchrun, one of many.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import describe_options, dump_config, load_config
from pipeline.data.format.shard_set import ShardSet, open_shards
from pipeline.errors import PipelineError, StopRequested, StorageError
from pipeline.options import Config
from pipeline.quality.best import Best
from pipeline.ranks.stopping import StopSignals
from pipeline.run.directory import RunDirectory

if TYPE_CHECKING:
    from pipeline.ranks.runtime import Runtime
# Nothing above imports torch: what is wrong with a config or a shard is said within a second.


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the arguments say. Returns the exit code (pipeline.errors lists them)."""
    parsed = _parser().parse_args(arguments)
    is_first_of_node = int(os.environ.get("LOCAL_RANK", "0")) == 0
    try:
        return run(load_config(parsed.config, parsed.overrides))
    except PipelineError as error:
        # What all ranks see alike is said once for each machine.
        if not error.is_told and is_first_of_node:
            _tell(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted: what came after the last checkpoint is not saved", file=sys.stderr, flush=True)
        return 130


def run(config: Config) -> int:
    """Train the run from where it is to its end, and leave a note of how it stopped."""
    directory = RunDirectory(Path(config.run_root) / config.name)
    is_main = int(os.environ.get("RANK", "0")) == 0
    with ExitStack() as stack:
        if is_main:
            stack.enter_context(directory)
        stop = stack.enter_context(StopSignals())
        # Until the ranks have met, only the main rank knows that this run's directory is theirs.
        with _noting_failure(directory) if is_main else nullcontext():
            shards = open_shards(config.data)
            stack.callback(shards.files.close)
            # From here on torch is needed.
            from pipeline.ranks.runtime import join

            runtime = join(config)
        with _noting_failure(directory):
            ending = _train(config, shards, directory, runtime, stop)
        if is_main:
            directory.mark("DONE", ending, 0)
        runtime.close()
    return 0


@contextmanager
def _noting_failure(directory: RunDirectory) -> Iterator[None]:
    """Leave PREEMPTED or FAILED where the run does not reach its end; only the first rank to fail speaks.

    It speaks at once: leaving a process group whose peers are gone can take long.
    """
    try:
        yield
    except StopRequested as request:
        if int(os.environ.get("RANK", "0")) == 0:
            directory.mark("PREEMPTED", str(request), request.exit_code)
            _tell(request)
        request.is_told = True
        raise
    except PipelineError as error:
        if not error.is_told and _mark_failed(directory, str(error), error.exit_code):
            _tell(error)
        error.is_told = (directory.path / "FAILED").exists()
        raise
    except Exception as error:
        _mark_failed(directory, repr(error), 1)
        raise


def _mark_failed(directory: RunDirectory, reason: str, exit_code: int) -> bool:
    """Leave FAILED in the run's directory. Returns whether this rank was the first to fail."""
    try:
        return directory.mark("FAILED", reason, exit_code)
    except StorageError:
        # A full disk may be the very failure; that is said on the console in any case.
        return False


def _tell(error: PipelineError) -> None:
    label = "stopped" if isinstance(error, StopRequested) else f"error (exit {error.exit_code})"
    print(f"{label}: {error}", file=sys.stderr, flush=True)


def _train(
    config: Config, shards: ShardSet, directory: RunDirectory, runtime: Runtime, stop: StopSignals
) -> str:
    """Train on this rank, and say failures of torch in terms of the run. Returns how the run ended."""
    import torch

    from pipeline.errors import OutOfMemoryError
    from pipeline.ranks.runtime import peer_losses

    with peer_losses():
        try:
            return _train_ranks(config, shards, directory, runtime, stop)
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"The device ran out of memory ({str(error).splitlines()[0]}). Set schedule.micro_batch below "
                f"{config.schedule.global_batch} divided by the number of ranks, lower model.width, or use "
                "precision: bf16 and data.cache: host."
            ) from None


def _train_ranks(
    config: Config, shards: ShardSet, directory: RunDirectory, runtime: Runtime, stop: StopSignals
) -> str:
    from pipeline.profiling.profiler import StepProfiler, choose_window
    from pipeline.training.build import (
        build_trainer,
        check_batches,
        check_cuda_graph,
        check_data,
        check_same_on_all_ranks,
        describe_setup,
    )
    from pipeline.training.resume import check_identity, find_checkpoint, identity, restore_run

    check_batches(config, runtime)
    check_cuda_graph(config, runtime)
    who = identity(config, shards.manifest, runtime.precision)
    check_same_on_all_ranks(config, who, runtime)
    check_data(config, shards, runtime)
    checkpoint = find_checkpoint(directory.checkpoints, runtime)
    if checkpoint is not None:
        check_identity(checkpoint, who)
    say: Callable[[str], None] = _say if runtime.is_main else lambda text: None
    best = Best.of(config.quality)
    if checkpoint is not None and not best.restore(checkpoint.facts().get("best")):
        anew = ", and the search starts anew" if best.metric else ""
        say(f"step {best.former[-1]} was the best by other quality options: it stays{anew}")
    if checkpoint is not None and (checkpoint.step >= config.schedule.steps or best.is_exhausted):
        ending = describe_ending(checkpoint.step, best)
        way_on = "quality.patience" if best.is_exhausted else "schedule.steps"
        say(f"{directory.path} is complete: {ending}. To go on, raise {way_on}.")
        return ending
    first_step = checkpoint.step + 1 if checkpoint else 1
    window = choose_window(first_step, config.schedule) if config.profile else None
    if runtime.is_main:
        directory.start(dump_config(config))
    with ExitStack() as stack:
        trainer = build_trainer(config, shards, directory, runtime, stop, who, first_step, best, say)
        stack.callback(trainer.observer.console.close)
        stack.callback(trainer.observer.sinks.close)
        if checkpoint is not None:
            restore_run(checkpoint, trainer.state, trainer.observer.recorder, runtime)
        say(describe_setup(trainer, directory, checkpoint))
        if window is not None:
            image_shape = trainer.loader.image_shape
            profiler = StepProfiler(config, runtime, directory.path, image_shape, window, say)
            trainer.after_step = stack.enter_context(profiler).after_step
        trainer.compare_ranks()
        trainer.train()
    if runtime.is_main and config.monitor.plots:
        _draw_pictures(directory)
    ending = describe_ending(trainer.state.counters.step, best)
    if trainer.observer.is_exhausted:
        say(ending)
    return ending


def describe_ending(step: int, best: Best) -> str:
    """How a run has ended at this step."""
    if not best.is_exhausted:
        return f"all {step} steps are done"
    return (
        f"ended early at step {step}: {best.metric} has been no better than {best.value:.4g} for "
        f"{best.evaluations_since} evaluations, since step {best.step}"
    )


def _draw_pictures(directory: RunDirectory) -> None:
    """Curves and animation of the whole run. What keeps one from being drawn does not spoil the run."""
    from pipeline.monitor.animation import ANIMATION, draw_animation
    from pipeline.monitor.console import say_warning
    from pipeline.monitor.plots import CURVES, draw_curves

    for draw, name in ((draw_curves, CURVES), (draw_animation, ANIMATION)):
        try:
            draw(directory.path, directory.path / name)
        except Exception as error:  # Pillow and matplotlib raise nearly anything
            say_warning(f"no {name}: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.train",
        description="Train a Wasserstein GAN. The same command starts a run and continues it.",
        epilog="options of a config, each also an argument section.option=value:\n" + describe_options(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "config", type=Path, metavar="CONFIG", help="a YAML file, such as configs/digits.yaml"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="section.option=value", help="options that go before the file's"
    )
    return parser


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of a process group that lost a peer can hold up or abort the interpreter's own exit.
    os._exit(code)
