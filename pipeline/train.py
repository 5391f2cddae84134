"""Train a Wasserstein GAN: `accelerate launch -m pipeline.train CONFIG [section.option=value ...]`.

The same command starts a run and continues it. Under `python -m` it is one process; under accelerate or
torchrun, one of many.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import describe_options, dump_config, load_config
from pipeline.data.format.shard_set import open_shards
from pipeline.errors import PipelineError, StopRequested, StorageError
from pipeline.options import Config
from pipeline.ranks.stopping import StopSignals
from pipeline.run.directory import RunDirectory

if TYPE_CHECKING:
    from pipeline.training.context import RunContext
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
            from pipeline.training.context import RunContext

            runtime = join(config)
        with _noting_failure(directory):
            ending = _train(RunContext(config, shards, directory, runtime), stop)
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


def _train(run: RunContext, stop: StopSignals) -> str:
    """Train on this rank, and say failures of torch in terms of the run. Returns how the run ended."""
    import torch

    from pipeline.errors import OutOfMemoryError
    from pipeline.ranks.runtime import peer_losses

    with peer_losses():
        try:
            return _train_ranks(run, stop)
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"The device ran out of memory ({str(error).splitlines()[0]}). Set schedule.micro_batch below "
                f"{run.config.schedule.global_batch} divided by the number of ranks, lower model.width, or use "
                "precision: bf16 and data.cache: host."
            ) from None


def _train_ranks(run: RunContext, stop: StopSignals) -> str:
    from pipeline.profiling.profiler import StepProfiler
    from pipeline.training.build import build_trainer
    from pipeline.training.checks import check_run
    from pipeline.training.describe import describe_ending, describe_setup
    from pipeline.training.resume import restore_run

    start = check_run(run)
    if start.ending is not None:
        return start.ending
    if run.runtime.is_main:
        run.directory.start(dump_config(run.config))
    with ExitStack() as stack:
        trainer = stack.enter_context(closing(build_trainer(run, start.first_step, stop)))
        if start.checkpoint is not None:
            restore_run(
                start.checkpoint, run, trainer.state, trainer.observer.recorder, trainer.observer.best
            )
        run.say(describe_setup(run, trainer.state, start.checkpoint))
        if start.profile_window is not None:
            profiler = StepProfiler(run, trainer.loader.image_shape, start.profile_window)
            trainer.after_step = stack.enter_context(profiler).after_step
        trainer.compare_ranks()
        trainer.train()
    if run.runtime.is_main and run.config.monitor.plots:
        _draw_pictures(run.directory)
    ending = describe_ending(trainer.state.counters.step, trainer.observer.best)
    if trainer.observer.is_exhausted:
        run.say(ending)
    return ending


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


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of a process group that lost a peer can hold up or abort the interpreter's own exit.
    os._exit(code)
