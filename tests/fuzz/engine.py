"""Runs targets on mutated inputs in a process of their own, and collects what must not happen.

A target is a function `run(data, directory)` that gives `data` to the product, for example as a file in `directory`. It
may end or raise PipelineError. Anything else is a finding: another exception, a crash, more than 10 seconds, more than
1 GiB of memory, a write outside of `directory`, a new program or a connection, or decoders' own words on the console.

    @target("png", seeds=some_pngs)
    def decode(data: bytes, directory: Path) -> None:
        decode_picture(data)

Input number n of a target depends only on (seed, target, n), so a finding can be repeated by these three.
"""

from __future__ import annotations

import importlib
import multiprocessing
import pkgutil
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory, mkdtemp
from typing import NamedTuple

from tests.fuzz.mutations import mutate

START_SECONDS = 120
"""For a worker's imports and a target's seeds."""
CHUNK = 25
"""Inputs that a worker is asked for at a time."""

Run = Callable[[bytes, Path], None]


@dataclass(frozen=True)
class Target:
    """What is tried: `seeds` makes valid inputs; `repair`, if given, corrects checksums of half of the others."""

    name: str
    run: Run
    seeds: Callable[[], Sequence[bytes]]
    repair: Callable[[bytes], bytes] | None = None


@dataclass(frozen=True)
class Limits:
    """What one input may take: seconds, and bytes of memory on top of what the process has."""

    seconds: float = 10
    growth: int = 1 << 30


TARGETS: dict[str, Target] = {}
LIMITS = Limits()


def target(
    name: str, seeds: Callable[[], Sequence[bytes]], repair: Callable[[bytes], bytes] | None = None
) -> Callable[[Run], Run]:
    """Add the function below as a target. The first seeds of a run are used as they are."""

    def add(run: Run) -> Run:
        assert name not in TARGETS, f"there are two targets {name}"
        TARGETS[name] = Target(name, run, seeds, repair)
        return run

    return add


def load_targets(package: str = "tests.fuzz.targets") -> dict[str, Target]:
    """All targets of the modules in a package."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")
    return TARGETS


def make_input(chosen: Target, seeds: Sequence[bytes], seed: int, number: int) -> bytes:
    """Input `number`, from 0: first every seed as it is, then mutations of them."""
    if number < len(seeds):
        return seeds[number]
    chance = random.Random(f"{seed}/{chosen.name}/{number}")
    data = mutate(chance.choice(seeds), chance, seeds)
    return chosen.repair(data) if chosen.repair and chance.random() < 0.5 else data


class Result(NamedTuple):
    """What became of one input: `kind` is taken, refused or a finding; `text` is the error's."""

    number: int
    kind: str
    seconds: float
    growth: int
    text: str


@dataclass
class Row:
    """The results of one target."""

    name: str
    inputs: int = 0
    taken: int = 0
    refused: int = 0
    slowest: float = 0
    growth: int = 0
    findings: list[Result] = field(default_factory=list)

    def add(self, result: Result) -> None:
        """Count one result."""
        self.inputs += 1
        self.slowest, self.growth = max(self.slowest, result.seconds), max(self.growth, result.growth)
        if result.kind == "taken":
            self.taken += 1
        elif result.kind == "refused":
            self.refused += 1
        else:
            self.findings.append(result)


@dataclass(frozen=True)
class Campaign:
    """How much is tried. Each target gets `inputs` inputs from number `first` on, and at most `seconds`."""

    seed: int = 0
    inputs: int | None = None
    seconds: float | None = None
    first: int = 0
    workers: int = 1
    limits: Limits = LIMITS
    package: str = "tests.fuzz.targets"

    def run(self, names: Sequence[str], report: Callable[[Row], object] = lambda row: None) -> list[Row]:
        """The row of each target; `report` is called with it when the target is finished."""
        waiting: SimpleQueue[str] = SimpleQueue()
        for name in names:
            waiting.put(name)
        rows: list[Row] = []
        with ThreadPoolExecutor(self.workers) as threads:
            for working in [threads.submit(self._work, waiting, rows, report) for _ in range(self.workers)]:
                working.result()
        return sorted(rows, key=lambda row: names.index(row.name))

    def _work(self, waiting: SimpleQueue[str], rows: list[Row], report: Callable[[Row], object]) -> None:
        with Worker.started(self) as worker:
            while True:
                try:
                    name = waiting.get_nowait()
                except Empty:
                    return
                row = self._try(worker, Row(name))
                rows.append(row)
                report(row)

    def _try(self, worker: Worker, row: Row) -> Row:
        started = time.monotonic()
        number = self.first
        end = None if self.inputs is None else self.first + self.inputs
        while (end is None or number < end) and (
            self.seconds is None or time.monotonic() - started < self.seconds
        ):
            count = CHUNK if end is None else min(CHUNK, end - number)
            for result in worker.ask(row.name, number, count):
                row.add(result)
                number = result.number + 1
        return row


class Worker:
    """A process that runs inputs; it is started again after a crash or a hang."""

    def __init__(self, campaign: Campaign, place: Path) -> None:
        self._campaign, self._place = campaign, place
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None

    @classmethod
    @contextmanager
    def started(cls, campaign: Campaign) -> Iterator[Worker]:
        """A worker that ends with the body."""
        # Not made by the process itself, which may end without removing it.
        with TemporaryDirectory(prefix="wgan-fuzz-") as place:
            worker = cls(campaign, Path(place))
            try:
                yield worker
            finally:
                worker._stop()

    def ask(self, name: str, first: int, count: int) -> Iterator[Result]:
        """The results of these inputs, up to the first one that ends the process or takes too long."""
        connection = self._connection or self._start()
        try:
            self._prepare(connection, name, first, count)
            for number in range(first, first + count):
                if not connection.poll(self._campaign.limits.seconds):
                    self._stop()
                    yield Result(number, "hang", self._campaign.limits.seconds, 0, "it was killed")
                    return
                yield connection.recv()
        except (EOFError, ConnectionError):
            yield Result(number, "crash", 0, 0, self._how_it_ended())

    def _prepare(self, connection: Connection, name: str, first: int, count: int) -> None:
        """Ask for these inputs. Raises RuntimeError if the target's seeds cannot be made."""
        connection.send((name, first, count))
        if not connection.poll(START_SECONDS):
            raise RuntimeError(f"the target {name} did not get ready within {START_SECONDS} seconds")
        try:
            answer = connection.recv()
        except EOFError:
            answer = self._how_it_ended()
        if answer != "ready":
            raise RuntimeError(f"the seeds of the target {name} cannot be made: {answer}")

    def _start(self) -> Connection:
        from tests.fuzz.worker import work  # here, because the worker imports this file

        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        place = Path(mkdtemp(dir=self._place))
        self._process = context.Process(target=work, args=(theirs, self._campaign, place), daemon=True)
        self._process.start()
        theirs.close()
        return self._connection

    def _how_it_ended(self) -> str:
        process = self._process
        self._stop(kill=False)
        code = process.exitcode if process else None
        return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"

    def _stop(self, kill: bool = True) -> None:
        if self._process is not None and self._connection is not None:
            self._connection.close()
            if kill:
                self._process.kill()
            self._process.join()
        self._process = self._connection = None
