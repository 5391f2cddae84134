"""The runtime without ranks. tests/distributed tests it with ranks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch.futures import Future

from pipeline.cli import main
from pipeline.ranks import averaging
from pipeline.ranks.averaging import Exchange, average_bucket


@pytest.mark.parametrize(("most_gathered", "exchange"), [(10**6, "all_gather"), (0, "all_reduce")])
def test_an_exchange_that_fails_gives_no_gradient(
    most_gathered: int, exchange: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise DDP would use the old content of the buffers as the mean."""
    broken: Future[list[torch.Tensor]] = Future()
    broken.set_exception(RuntimeError("Connection closed by peer"))  # type: ignore[arg-type]
    monkeypatch.setattr(averaging, "GATHERED_BYTES", most_gathered)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, exchange, lambda *_, **__: SimpleNamespace(get_future=lambda: broken))
    averaged = average_bucket(Exchange(), SimpleNamespace(buffer=lambda: torch.ones(3)))
    with pytest.raises(RuntimeError, match="Connection closed by peer"):
        averaged.wait()


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
def test_a_launcher_that_asks_for_sharded_training_is_refused_before_ranks_meet(
    name: str, config: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    assert main(["train", config]) == 2
    assert f"The launcher chose {name}, which cannot train two networks in turn" in capfd.readouterr().err
