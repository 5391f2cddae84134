"""Two ranks on one GPU, which `wgan train` does not start."""

from __future__ import annotations

import os
import sys
from datetime import timedelta

from pipeline.errors import PipelineError
from pipeline.ranks.launcher import launch
from pipeline.ranks.speaker import tell


def start() -> int:
    """The program: its words are PROCESSES WORDS... Returns the exit code of `launch`."""
    processes, *words = sys.argv[1:]
    try:
        return launch(int(processes), __name__, words)
    except PipelineError as error:
        tell(error)
        return error.exit_code


def main(words: list[str]) -> int:
    """One of several ranks that share the first GPU. They exchange tensors of the GPU by gloo, and train `words`.

    A run refuses that, because it is slow; and NCCL cannot do it.
    """
    from pipeline.ranks import devices
    from pipeline.ranks.meeting import Meeting
    from pipeline.train import main as train

    form_group = Meeting.form_group

    def form_gloo_group(meeting: Meeting, backend: str, timeout: timedelta) -> None:
        form_group(meeting, "gloo", timeout)

    Meeting.form_group = form_gloo_group  # type: ignore[method-assign, assignment]
    devices.device_identity = lambda device: ""
    os.environ["LOCAL_RANK"] = "0"
    # Both are now the first rank of the machine, which a shared cache must not have twice.
    return train([*words, "data.cache=none"])
