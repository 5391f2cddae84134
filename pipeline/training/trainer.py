"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import NoReturn

import torch

from pipeline import stopping
from pipeline.data.reading.loader import Loader, Staged
from pipeline.errors import DivergenceError, StopRequested, StorageError
from pipeline.options import Config
from pipeline.phases import phase
from pipeline.ranks.digest import differing, digest
from pipeline.ranks.runtime import Runtime
from pipeline.ranks.thread_count import ThreadCount
from pipeline.run.checkpoint import prune
from pipeline.stderr import say_warning
from pipeline.training.context import RunContext
from pipeline.training.observer import Observer
from pipeline.training.resume import save_run
from pipeline.training.schedule import is_due
from pipeline.training.state import TrainingState
from pipeline.training.step import TrainingStep
from pipeline.training.stop_votes import StopVotes
from pipeline.training.updates import CriticBatch
from pipeline.wording import counted

SAVES_THAT_MAY_FAIL = 2
SECONDS_BETWEEN_MEETINGS = 0.5
"""How often ranks that wait for shards ask each other whether one has a signal."""


@dataclass
class Trainer:
    """The loop of one run on one rank, and everything that it works on."""

    run: RunContext
    state: TrainingState
    step: TrainingStep
    loader: Loader
    observer: Observer
    after_step: Callable[[int], None] | None = None
    """Called after each step with the number of steps done so far; its time does not count as training."""
    threads: ThreadCount | None = None
    """Looks at other processes between steps, in a run of one rank"""
    unwatched: CriticBatch | None = None
    """What `Observer.watch` needs for the step that the run resumes from, if a signal stopped it before that"""
    failed_saves: int = field(default=0, init=False)
    saved_step: int = field(default=0, init=False)
    _awaited: list[list[int]] | None = field(default=None, init=False)
    _opener: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1), init=False)

    def train(self) -> None:
        """Train until all steps are done. Raises StopRequested after the save that a signal asked for."""
        batches, counters = self._batches(), self.state.counters
        self.saved_step = counters.step
        self.observer.recorder.restart_clock()
        with stopping.held(), self.runtime.limited() as begin_step:
            if self.unwatched is not None:
                self._finish_step(self.unwatched, self.runtime.vote(stopping.received() is not None))
            votes = StopVotes(self.runtime)
            while not self.is_complete:
                self._await_data()
                if self.threads is not None:
                    self.threads.look()
                begin_step()
                stop_vote = votes.cast()
                position = counters.position
                metrics, seen = self.step.take(batches)
                self.observer.recorder.add(metrics, images=counters.position - position)
                self._finish_step(seen, stop_vote)

    def _await_data(self) -> None:
        """Wait until the shards of the next step are on all machines. A signal ends the wait, before the step."""
        if self.run.shards.is_local or self.loader.is_resident:
            return
        batches = self.state.counters.position, self.step.updates
        if (reach := self.loader.reach(*batches)) == self._awaited:
            return
        self._awaited = reach
        with self.observer.recorder.waiting_for_data():
            opening = self._opener.submit(self.loader.await_shards, *batches)
            are_ready = False
            while not are_ready:
                if wait([opening], SECONDS_BETWEEN_MEETINGS).done:
                    opening.result()
                state = torch.tensor([opening.done(), stopping.received() is not None])
                ready, stopped = self.runtime.gather(state).T
                are_ready = bool(ready.all())
                if stopped.any():
                    self._stop()

    def _finish_step(self, seen: CriticBatch, stop_vote: Callable[[], bool]) -> None:
        """Everything after the updates of a step, whose last critic update used `seen`."""
        try:
            with phase("logging"):
                is_best = self.observer.watch(seen)
        except StopRequested:
            # In an evaluation, on all ranks alike. The resumed run begins with it.
            self._stop(seen)
        with phase("digest"):
            self._keep_ranks_equal()
        with phase("saving"):
            self._save(is_best, is_stopping=stop_vote())
        self._look_into_step()

    @property
    def config(self) -> Config:
        """The run's options."""
        return self.run.config

    @property
    def runtime(self) -> Runtime:
        """This rank among the others."""
        return self.run.runtime

    def close(self) -> None:
        """Write the records that are not yet written."""
        self._opener.shutdown(wait=False)
        self.observer.close()

    @property
    def is_complete(self) -> bool:
        """Whether all steps are done, or `quality.patience` has run out."""
        return self.state.counters.step >= self.config.schedule.steps or self.observer.is_exhausted

    def _batches(self) -> Iterator[Staged]:
        """Batches of real images, starting at the state's position; waiting for one counts as data wait."""
        batches = self.loader.batches(self.state.counters.position)
        while True:
            with phase("data"), self.observer.recorder.waiting_for_data():
                staged = next(batches)
            yield staged

    def _look_into_step(self) -> None:
        if self.after_step is not None:
            with self.observer.recorder.paused():
                self.after_step(self.state.counters.step)

    def _keep_ranks_equal(self) -> None:
        if is_due(self.state.counters.step, self.config.runtime.digest_every, self.config.schedule.steps):
            self.compare_ranks()

    def compare_ranks(self) -> None:
        """Raise DivergenceError, naming tensors and ranks, unless all ranks have the same state."""
        if self.runtime.world_size == 1:
            return
        tensors = self.state.flat_tensors()
        found = differing(list(tensors), self.runtime.gather(digest(tensors)))
        if found:
            listed = [f"  {name} on rank {', '.join(map(str, ranks))}" for name, ranks in found[:8]]
            raise DivergenceError(
                f"The ranks no longer have the same state at step {self.state.counters.step}. Values differ in "
                f"{counted(len(found), 'tensor')}:",
                *listed,
                "Nothing was saved since the last comparison, in which they were equal. The same command resumes from "
                "the last checkpoint; if this happens again, the memory or the GPU of that rank may be faulty.",
            )

    def _save(self, is_best: bool, is_stopping: bool) -> None:
        step, is_last = self.state.counters.step, self.is_complete
        if not (
            is_best
            or is_last
            or is_stopping
            or is_due(step, self.config.checkpoint.every, self.config.schedule.steps)
        ):
            return
        self._write_checkpoint(is_best, must_succeed=is_stopping or is_last)
        if is_stopping and not is_last:
            self._stop()

    def _stop(self, unwatched: CriticBatch | None = None) -> NoReturn:
        """Save unless that is done, and raise StopRequested. With `unwatched`, the step is not recorded yet."""
        step = self.state.counters.step
        if step > self.saved_step:
            self._write_checkpoint(is_best=False, must_succeed=True, unwatched=unwatched)
        stopping.settle()
        reason = stopping.received() or "another rank's signal"
        raise StopRequested(
            f"Stopped by {reason} at step {step} and saved. The same command resumes from there."
            if step
            else f"Stopped by {reason} before the first step. The same command starts again."
        ) from None

    def _write_checkpoint(
        self, is_best: bool, must_succeed: bool, unwatched: CriticBatch | None = None
    ) -> None:
        """Save and prune. A few saves in a row may fail, for example while a disk is full."""
        self.compare_ranks()
        self.observer.refuse_non_finite_state()
        # If the process is killed right after the save, everything logged before it must be on disk.
        self.observer.sinks.flush()
        recorder, best, options = self.observer.recorder, self.observer.best, self.config.checkpoint
        error, is_saved = None, False
        try:
            save_run(self.run, self.state, recorder, best, unwatched)
            is_saved, self.saved_step = True, self.state.counters.step
            if self.runtime.is_main:
                prune(self.run.directory.checkpoints, options.keep_last, options.keep_every, best.kept_steps)
        except StorageError as failure:
            error = failure
        outcomes = self.runtime.gather_json((is_saved, error is not None))
        if is_best and not all(is_saved for is_saved, _ in outcomes):
            best.take_back()
        has_failed = any(has_failed for _, has_failed in outcomes)
        self.failed_saves = self.failed_saves + 1 if has_failed else 0
        if must_succeed or self.failed_saves > SAVES_THAT_MAY_FAIL:
            self.runtime.all_agree(error)
        elif error is not None:
            say_warning(f"{error} Training continues; the next save tries again.")
