"""What ranks send each other is tensors and JSON, and nothing that they receive is unpickled."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from tests.ranks import Ranks, read_metrics

EVERYTHING = [
    "schedule.steps=8",
    "checkpoint.every=4",
    "data.cache=host",
    "data.validation=0.1",
    "quality.every=4",
    "quality.samples=128",
    "quality.metrics=[fid,copied]",
    "quality.keep_best=fid",
]
"""Options with which ranks send each other all kinds of messages."""


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("something is unpickled")


def run_without_pickles(words: list[str], module: str) -> int:
    """Run a module's `main` in a process that cannot unpickle anything, neither by itself nor in torch.distributed."""
    import pickle

    import torch.distributed.distributed_c10d as collectives

    program = import_module(module)
    for library, names in ((pickle, ("load", "loads", "Unpickler")), (collectives, ("_unpickler",))):
        for name in names:
            assert hasattr(library, name)
            setattr(library, name, refuse)
    code: int = program.main(words)
    return code


def answer_with_a_pickle(arguments: list[str], canary: str) -> int:
    """Train; rank 1 answers with a pickle that creates a file when it is read."""
    from pipeline.ranks import runtime
    from pipeline.train import main

    content = f"cposix\nsystem\n(S'touch {canary}'\ntR.".encode()
    if os.environ["RANK"] == "1":
        sent = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        runtime.encode = lambda value: sent  # type: ignore[attr-defined]
    return main(arguments)


def test_ranks_train_and_evaluate_without_unpickling(ranks: Ranks, config: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ranks.run(2, [config, *EVERYTHING], target=run_without_pickles, extra=["pipeline.train"])
    assert any(name.startswith("quality/copied") for name in read_metrics(run)[-1])
    words = ["evaluate", str(run), "--metrics", "swd", "--samples", "128", "--neighbours"]
    ranks.run(2, words, target=run_without_pickles, extra=["pipeline.cli"])
    assert list((run / "samples").glob("*-neighbours-*.png"))


def test_a_pickle_from_another_rank_is_not_run(ranks: Ranks, config: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    run = ranks.start(2, [config], target=answer_with_a_pickle, extra=[str(canary)])
    assert run.wait() == [6, 6], run.output
    assert "error (exit 6): Rank 1 sent " in run.output
    assert "are not JSON, so the ranks cannot work together" in run.output
    assert "Traceback" not in run.output
    assert not canary.exists()
