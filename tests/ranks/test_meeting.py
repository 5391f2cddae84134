"""Where ranks meet, how long they wait, and what they make of a note that another rank has left."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from pipeline.errors import ConfigError, DataError, PeerLostError, PipelineError, StopRequested
from pipeline.ranks import meeting
from pipeline.ranks.meeting import Meeting
from pipeline.ranks.messages import encode_error
from tests.ranks import free_port

TIMEOUT = timedelta(seconds=600)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What torch is asked for by rank 0 of two, on a machine where it forms no group."""
    asked = SimpleNamespace(stores=[], groups=[])

    def store(address: str, port: int, world_size: int, **options: Any) -> SimpleNamespace:
        asked.stores.append((address, port, options["is_master"]))
        return SimpleNamespace(
            wait=lambda *_: None, get=lambda name: b"all have met", compare_set=lambda *_: None
        )

    monkeypatch.setattr(dist, "TCPStore", store)
    monkeypatch.setattr(dist, "PrefixStore", lambda prefix, inner: inner)
    monkeypatch.setattr(dist, "init_process_group", lambda *args, **kw: asked.groups.append((args, kw)))
    variables = {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "::1",
        "MASTER_PORT": "4711",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    return asked


@pytest.mark.parametrize(("backend", "seconds"), [("gloo", 600), ("nccl", 720)])
def test_nccl_waits_longer_than_votes_because_it_aborts_the_process(
    backend: str, seconds: int, launched: SimpleNamespace
) -> None:
    with Meeting(lambda error: None) as ranks:
        ranks.form_group(backend, TIMEOUT)
    ((words, options),) = launched.groups
    assert words == (backend,)
    assert options["timeout"] == timedelta(seconds=seconds)


@pytest.mark.parametrize("serves", [True, False])
def test_rank_0_serves_the_store_unless_its_launcher_does(
    serves: bool, launched: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    if serves:
        monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with Meeting(lambda error: None) as ranks:
        ranks.form_group("gloo", TIMEOUT)
    assert launched.stores[0] == ("::1", 4711, not serves)
    assert {is_server for _, _, is_server in launched.stores[1:]} == {False}


@pytest.mark.parametrize(
    ("name", "value"),
    [("MASTER_ADDR", None), ("MASTER_PORT", None), ("MASTER_PORT", "x"), ("MASTER_PORT", "70000")],
)
def test_ranks_that_do_not_know_where_to_meet_say_what_is_missing(
    name: str, value: str | None, launched: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name} is {value or 'not set'}"), Meeting(print) as ranks:
        ranks.form_group("gloo", TIMEOUT)
    assert launched.groups == []


def heard(monkeypatch: pytest.MonkeyPatch, error: Exception | str) -> PipelineError:
    """What a rank that is meeting others hears if rank 1 gives up with this error, or leaves this text."""
    port = free_port()
    for name, value in {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(port))
    server = dist.TCPStore("127.0.0.1", port, 2, True, timeout=TIMEOUT, wait_for_workers=False)  # type: ignore[attr-defined]
    losses: list[PipelineError] = []
    if isinstance(error, str):
        server.set(f"wgan/0/{meeting._meetings}/ending", error)
    else:
        meeting.give_up(error)
    Meeting(losses.append)._hear(TIMEOUT)
    return losses[0]


def test_a_rank_that_gives_up_gives_the_others_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    damaged = heard(monkeypatch, DataError("A shard is missing.", "Make it again."))
    assert (type(damaged), str(damaged)) == (DataError, "rank 1: A shard is missing.\nMake it again.")
    assert isinstance(heard(monkeypatch, StopRequested("Stopped by SIGTERM")), StopRequested)
    defect = heard(monkeypatch, KeyError("x"))
    assert (type(defect), str(defect)) == (PeerLostError, "rank 1: 'x'")
    assert encode_error(damaged)[0] == "DataError"


@pytest.mark.parametrize(
    "text", ["", "x", "[1]", '[1, "DataError"]', '{"a": 1}', "[[], [], []]", "[" * 10000]
)
def test_a_note_that_is_not_of_a_rank_names_the_store(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    loss = heard(monkeypatch, text)
    assert isinstance(loss, PeerLostError)
    assert "Another program writes to the store at 127.0.0.1:" in str(loss)
