"""Train a Wasserstein GAN: `accelerate launch -m pipeline.train CONFIG [section.option=value ...]`.

The same command starts a run and resumes it. Under `python -m` it is one process; under accelerate or torchrun, one of
several. From Python the same is `pipeline.train(CONFIG, **overrides)`.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pipeline import stopping, unread_output
from pipeline.errors import (
    ConfigError,
    Interrupted,
    PeerLostError,
    PipelineError,
    RunLockedError,
    StopRequested,
    StorageError,
    system_errors,
)
from pipeline.foreign_text import printable_lines, without_credentials
from pipeline.ranks.meeting import awaited
from pipeline.ranks.speaker import has_launcher, tell, tell_untold
from pipeline.ranks.variables import read_place
from pipeline.stderr import say_defect

if TYPE_CHECKING:
    from pipeline.options import Config
    from pipeline.run.directory import RunDirectory
    from pipeline.training.context import RunContext
# Nothing above takes long to import: until `main` listens to signals, they end the process in their own way.


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the arguments say. Returns the exit code (pipeline.errors lists them)."""
    if arguments is None:
        sys.excepthook = say_defect
    with stopping.listening(saves=True, ends_process=arguments is None, last_words=tell_untold):
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    # Not above, and without torch: a mistake in a config or a missing shard is reported within a second.
    from pipeline.config import load_config
    from pipeline.option_mistakes import describe_flags

    parser = _parser()
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        parser.error(describe_flags(unknown))
    try:
        with system_errors():
            with awaited():
                config = load_config(parsed.config, parsed.overrides)
            run(config, tell)
        return 0
    except PipelineError as error:
        tell_untold(error)
        return error.exit_code
    except KeyboardInterrupt:
        interruption = Interrupted("Ctrl-C came twice. The steps after the last checkpoint are not saved.")
        tell_untold(interruption)
        return interruption.exit_code


@dataclass(frozen=True)
class TrainingResult:
    """What `train` returns of a run that has reached its end."""

    path: Path
    """The run's directory"""
    ending: str
    """How it ended, for example "all 2000 steps are done" """
    steps: int
    """Generator updates since the run was first started"""
    metrics: dict[str, float]
    """What was logged last, by name, for example "wasserstein/estimate"; empty if nothing was"""


def train(config: Config | Mapping[str, Any] | str | Path, /, **overrides: Any) -> TrainingResult:
    """Train a run in this process, or resume it, and return when all its steps are done.

    `config` is the path of a YAML file or of a run, a preset's name, options as nested dicts, or a Config. An override
    is an option of the top level (`name="x"`), a dict with some options of a section (`schedule={"steps": 50}`; the
    others stay as they are in `config`), or one option by its dotted name (`**{"data.shards": "data/digits"}`).

    Ctrl-C saves the run and raises StopRequested; the same call then resumes it. In a thread other than the main one,
    Ctrl-C does not reach the run. If the process is one of several ranks and another one is lost or hangs, and this one
    does not come out of a library by itself, the process is ended with exit code 6.

    Raises the subclasses of PipelineError (pipeline/errors.py) for everything that a user can act on. Torch's settings
    and random numbers, and the environment variables, are as before when it returns or raises.
    """
    try:
        with system_errors():
            return run(_as_config(config, overrides), tell=lambda error: None)
    except PipelineError as error:
        # A notebook keeps the error, and with it every network and batch that its frames hold.
        _clear_frames(error)
        raise


class CallableModule(ModuleType):
    """This module's type. `python -m pipeline.train` needs a module of that name, so calling the module is `train`."""

    def __call__(
        self, config: Config | Mapping[str, Any] | str | Path, /, **overrides: Any
    ) -> TrainingResult:
        """See `train`."""
        return train(config, **overrides)


sys.modules[__name__].__class__ = CallableModule


def run(config: Config, tell: Callable[[PipelineError], None]) -> TrainingResult:
    """Train the run until it ends, and write a note of how it stopped.

    `tell` is called with an error if this rank is the one that tells the user, before it leaves the process group.
    """
    from pipeline.run.directory import RunDirectory
    from pipeline.training.shards_of_run import ShardsOfRun

    directory = RunDirectory(Path(config.run_root) / config.name)
    is_main = _rank() == 0
    with ExitStack() as stack:
        stack.enter_context(_only_run())
        stack.enter_context(stopping.listening(saves=True))
        if is_main:
            with awaited():
                stack.enter_context(directory)
        # Before the ranks meet, only the main rank has the lock, and so only it may write to the directory.
        with _noting_failure(directory, tell) if is_main else nullcontext():
            with awaited():
                shards = stack.enter_context(ShardsOfRun(config.data, is_main))
                # Only now: importing torch takes seconds.
                from pipeline.ranks.process import settings_given_back
                from pipeline.ranks.runtime import join
                from pipeline.training.context import RunContext

            stack.enter_context(settings_given_back())
            note = partial(_note_loss, directory, tell)
            runtime = stack.enter_context(join(config, note, directory.hang_traces))
        with _noting_failure(directory, tell):
            result = _train(RunContext(config, shards.on_all_ranks(runtime), directory, runtime))
        if is_main:
            directory.mark("DONE", result.ending, 0)
        runtime.close()
    return result


_TRAINS = threading.Lock()
_NOTES = threading.Lock()


@contextmanager
def _only_run() -> Iterator[None]:
    """Raise RunLockedError if another thread of this process trains already."""
    if not _TRAINS.acquire(blocking=False):
        raise RunLockedError(
            "This process is training another run. Torch's settings and the ranks belong to the whole process, so it "
            "can train one run at a time. Wait until that run ends, or start this one in another process."
        )
    try:
        yield
    finally:
        _TRAINS.release()


@contextmanager
def _noting_failure(directory: RunDirectory, tell: Callable[[PipelineError], None]) -> Iterator[None]:
    """Write PREEMPTED or FAILED if the run does not reach its end. Only the first rank to fail tells the user.

    It does so before anything else: leaving a process group that has lost ranks can take minutes.
    """
    with stopping.last_words(partial(_note_end, directory, tell)):
        try:
            with system_errors():
                yield
        except StopRequested as request:
            _note_stop(directory, tell, request)
            raise
        except PeerLostError as error:
            if directory.has_ended_by("PREEMPTED"):
                stop = StopRequested("A signal has stopped another rank, and with it this one.")
                _tell_stop(tell, stop)
                raise stop from None
            _note_failure(directory, tell, error)
            raise
        except PipelineError as error:
            _note_failure(directory, tell, error)
            raise
        except Exception as error:
            _mark_failed(directory, printable_lines(without_credentials(repr(error))), 1)
            raise


def _note_end(directory: RunDirectory, tell: Callable[[PipelineError], None], error: PipelineError) -> None:
    """The last words of a process that has to be ended: by a signal, or because another rank has failed."""
    note = _note_stop if isinstance(error, StopRequested | Interrupted) else _note_loss
    note(directory, tell, error)


def _note_loss(directory: RunDirectory, tell: Callable[[PipelineError], None], error: PipelineError) -> None:
    """Write FAILED if another rank has failed, unless one has left a note. Any thread may call it."""
    if not directory.has_ended_by("PREEMPTED"):
        _note_failure(directory, tell, error)


def _note_stop(
    directory: RunDirectory, tell: Callable[[PipelineError], None], request: PipelineError
) -> None:
    """Write PREEMPTED, also on a rank that stops alone: ranks that lose another one look for this note."""
    _tell_stop(tell, request)
    if _rank() == 0 or not stopping.is_settled():
        directory.mark("PREEMPTED", str(request), request.exit_code, is_first=_rank() > 0)


def _tell_stop(tell: Callable[[PipelineError], None], request: PipelineError) -> None:
    if (_rank() == 0 or has_launcher()) and not request.is_told:
        tell(request)
    request.is_told = True


def _note_failure(
    directory: RunDirectory, tell: Callable[[PipelineError], None], error: PipelineError
) -> None:
    # The thread that hears of a lost rank may be here as well, and the process must not end before the user is told.
    with _NOTES:
        if not error.is_told and _mark_failed(directory, str(error), error.exit_code):
            tell(error)
        error.is_told = directory.has_ended_by("FAILED")


def _mark_failed(directory: RunDirectory, reason: str, exit_code: int) -> bool:
    """Write FAILED to the run's directory. Returns whether this rank was the first to fail."""
    try:
        return directory.mark("FAILED", reason, exit_code)
    except StorageError:
        # The failure itself may be a full disk. The user sees the error in any case.
        return False


def _train(run: RunContext) -> TrainingResult:
    """Train on this rank, and report failures of torch in terms of the run."""
    from pipeline.ranks.failures import memory_shortage, rank_failures
    from pipeline.training.describe import describe_less_memory

    with rank_failures(), memory_shortage(describe_less_memory(run.config)):
        return _train_ranks(run)


def _train_ranks(run: RunContext) -> TrainingResult:
    from pipeline.config import dump_config
    from pipeline.profiling.profiler import StepProfiler
    from pipeline.training.build import build_trainer
    from pipeline.training.checks import check_run
    from pipeline.training.describe import describe_ending, describe_results, describe_setup
    from pipeline.training.resume import restore_run, restore_unwatched

    start = check_run(run)
    if start.checkpoint is not None and start.ending is not None:
        return _result(run, start.ending, start.checkpoint.step)
    with ExitStack() as stack:
        trainer = stack.enter_context(closing(build_trainer(run, start.first_step, start.first_recorded)))
        if start.checkpoint is not None:
            restore_run(
                start.checkpoint, run, trainer.state, trainer.observer.recorder, trainer.observer.best
            )
            trainer.unwatched = restore_unwatched(start.checkpoint, run)
        run.say(*describe_setup(run, trainer.state, start.checkpoint))
        if start.profile_window is not None:
            profiler = StepProfiler(run, trainer.loader.image_shape, start.profile_window)
            trainer.after_step = stack.enter_context(profiler).after_step
        trainer.compare_ranks()
        if run.runtime.is_main:
            # Not before all that can refuse a start has been done.
            run.directory.start(dump_config(run.config))
        trainer.train()
    # Before the main rank draws pictures, which takes time.
    run.runtime.finish()
    step = trainer.state.counters.step
    ending = describe_ending(step, trainer.observer.best)
    if run.runtime.is_main:
        if run.config.monitor.plots:
            _draw_pictures(run.directory)
        run.say(ending, *describe_results(run.directory))
    return _result(run, ending, step)


def _result(run: RunContext, ending: str, steps: int) -> TrainingResult:
    from pipeline.monitor.records import read_lines

    path = run.directory.metrics
    last = read_lines(path)[-1:] if path.exists() else []
    metrics = {name: value for record in last for name, value in record.items() if name != "step"}
    return TrainingResult(run.directory.path, ending, steps, metrics)


def _draw_pictures(directory: RunDirectory) -> None:
    """Curves and animation of the whole run. A failed plot is a warning and never fails the run."""
    from pipeline.monitor.animation import draw_animation
    from pipeline.monitor.plots import draw_curves
    from pipeline.stderr import say_warning

    for draw, path in ((draw_curves, directory.curves), (draw_animation, directory.animation)):
        try:
            draw(directory.path, path)
        except StopRequested:
            raise
        except Exception as error:  # Pillow and matplotlib raise nearly anything
            say_warning(f"no {path.name}: {error}")


def _as_config(config: Config | Mapping[str, Any] | str | Path, overrides: Mapping[str, Any]) -> Config:
    """The options of a call. Raises ConfigError."""
    from pipeline.config import override_config
    from pipeline.options import Config

    source: Path | Mapping[str, Any]
    if isinstance(config, str | Path):
        source = Path(config)
    elif isinstance(config, Config):
        source = config.model_dump(mode="json")
    elif isinstance(config, Mapping):
        source = _plain(config)
    else:
        raise ConfigError(
            f"The config is {config!r}, of type {type(config).__name__}. Give a YAML file's path, a preset's name such "
            'as "digits", a dict of options, or a pipeline.options.Config.'
        )
    options = [(tuple(name.split(".")), _plain(value)) for name, value in overrides.items()]
    return override_config(source, options, "override")


def _rank() -> int:
    """This process's rank, also before the ranks meet."""
    return read_place().rank


def _plain(value: Any) -> Any:
    """An option as YAML would give it: paths as text, tuples as lists."""
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def _clear_frames(error: BaseException | None) -> None:
    """Release the objects in the frames of an error and of the errors that caused it."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _parser() -> argparse.ArgumentParser:
    from pipeline.option_help import describe_options

    parser = argparse.ArgumentParser(
        prog="python -m pipeline.train",
        description="Train a Wasserstein GAN. The same command starts a run and resumes it.",
        epilog="options of a config, each also an argument section.option=value:\n" + describe_options(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "config",
        type=Path,
        metavar="CONFIG",
        help="a YAML file, a preset's name such as digits, or the directory of a run",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="section.option=value", help="options that go before the file's"
    )
    return parser


if __name__ == "__main__":
    try:
        code = unread_output.exit_code_of(main)
    except Exception as error:
        say_defect(type(error), error, error.__traceback__)
        code = 1
    # Also after a defect: threads of a process group that lost a rank can delay or abort the interpreter's own exit.
    os._exit(code)
