"""Texts of real errors, and what they mean for a run."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from pipeline.errors import ConfigError, OutOfMemoryError, PeerLostError, PipelineError, StorageError
from pipeline.ranks.failures import as_meeting_failure, as_rank_failure, is_timeout, rank_failures

NCCL = "NCCL error in: ../torch/csrc/distributed/c10d/NCCLUtils.hpp:268, {kind}, NCCL version 2.27.5\n{name}: {text}\n"
CUDA = NCCL.format(
    kind="unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
    name="ncclUnhandledCudaError",
    text="Call to CUDA function failed.",
)
SYSTEM = NCCL.format(
    kind="unhandled system error (run with NCCL_DEBUG=INFO for details)",
    name="ncclSystemError",
    text="System call (e.g. socket, malloc) or external library call failed or device error.",
)
REMOTE = NCCL.format(
    kind="remote process exited or there was a network error",
    name="ncclRemoteError",
    text="A call failed possibly due to a network error or a remote process exiting prematurely.",
)
GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] "

CASES = [
    (
        f"{CUDA}Last error:\nCuda failure 2 'out of memory'",
        OutOfMemoryError,
        "Cuda failure 2 'out of memory'",
    ),
    (
        f"{CUDA}Last error:\nDuplicate GPU detected : rank 1 and rank 0 both on CUDA device 19000",
        ConfigError,
        "Duplicate GPU detected : rank 1 and rank 0",
    ),
    (
        f"{SYSTEM}Last error:\nError while creating shared memory segment /dev/shm/nccl-Zv6 (size 9637888)",
        StorageError,
        r"--shm-size=2g",
    ),
    (
        f"{CUDA}Last error:\nCuda failure 217 'peer access is not supported between these two devices'",
        ConfigError,
        "NCCL_P2P_DISABLE=1",
    ),
    (f"{CUDA}Last error:\nCuda failure 101 'invalid device ordinal'", ConfigError, "wgan doctor"),
    (
        f"{REMOTE}Last error:\nsocketProgress: Connection closed by remote peer node-b<4711>",
        PeerLostError,
        "closed by remote peer node-b",
    ),
    (f"{GLOO}Connection closed by peer [127.0.0.1]:39571", PeerLostError, "closed by peer"),
    (f"{GLOO}Read error [10.0.0.2]:4096: Connection reset by peer", PeerLostError, "reset by peer"),
    ("Timed out waiting 60000ms for recv operation to complete", PeerLostError, "Timed out"),
    ("Application timeout caused pair closure", PeerLostError, "did not answer in time"),
    (f"{GLOO}connect [127.0.1.1]:8117: Connection refused, gloo", PeerLostError, "Connection refused"),
    ("Broken pipe", PeerLostError, "Broken pipe"),
    (
        "failed to recv, got 0 bytes. Connection was likely closed. Did the remote server shutdown or crash? TCPStore",
        PeerLostError,
        "the remote server shutdown",
    ),
    (
        "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=9, OpType=ALLREDUCE)",
        PeerLostError,
        "Watchdog caught collective operation timeout",
    ),
    (f"{CUDA}Last error:\nCuda failure 999 'unknown error'", PeerLostError, "unknown error"),
]


@pytest.mark.parametrize(("text", "kind", "told"), CASES, ids=range(len(CASES)))
@pytest.mark.parametrize("thrown", [dist.DistBackendError, RuntimeError])
def test_an_error_of_a_collective_operation_says_what_this_rank_lacks_or_that_another_is_gone(
    text: str, kind: type[PipelineError], told: str, thrown: type[RuntimeError]
) -> None:
    with pytest.raises(kind, match=told), rank_failures():
        raise thrown(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Application timeout caused pair closure", True),
        (f"{GLOO}Timed out waiting 5000ms for recv operation to complete", True),
        (f"{GLOO}Connection closed by peer [127.0.0.1]:39571", False),
    ],
)
def test_only_a_wait_that_took_too_long_speaks_of_a_hang(text: str, expected: bool) -> None:
    assert is_timeout(RuntimeError(text)) == expected


def test_other_errors_are_no_failures_of_ranks() -> None:
    for error in (
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("Expected all tensors to be on the same device"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ):
        assert as_rank_failure(error) is None


def test_ranks_that_did_not_meet_say_where_and_what_this_machine_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "node-a")
    monkeypatch.setenv("MASTER_PORT", "29500")
    late = as_meeting_failure(dist.DistStoreError("wait timeout after 5000ms, keys: /default_pg/0"))
    assert isinstance(late, PeerLostError)
    assert "did not all meet at node-a:29500" in str(late)
    taken = as_meeting_failure(RuntimeError("The server socket has failed to listen: EADDRINUSE"))
    assert isinstance(taken, ConfigError)
    assert isinstance(as_meeting_failure(dist.DistBackendError(CASES[2][0])), StorageError)
