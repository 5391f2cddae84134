"""The first file that a rank of the launcher runs: `python -P rank.py LAUNCHER REPORTS STORE MODULE WORDS...`.

LAUNCHER is the launcher's process id, REPORTS the pipe for errors, STORE the socket for the ranks' store (-1 for all
ranks but rank 0). Then `MODULE.main(WORDS)` runs, and returns the exit code.

It is run as a file and with -P, not with -m: no file in the user's working directory can take the place of a module.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path


def main() -> int:
    """Run the module's `main` as one rank. Returns its exit code."""
    parent, reports, store, module, *words = sys.argv[1:]
    package = str(Path(__file__).parents[2])
    if package not in sys.path:
        sys.path.insert(0, package)
    from pipeline import stopping
    from pipeline.ranks import speaker

    speaker.report_to(int(reports))
    os.set_inheritable(int(reports), False)
    # Signals that came before this wait until now, because the launcher has started this process with them blocked.
    is_command = module == "pipeline.cli"
    with stopping.listening(not is_command, ends_process=True, last_words=speaker.tell_untold):
        return _run(int(parent), int(store), module, words)


def _run(parent: int, store: int, module: str, words: list[str]) -> int:
    from pipeline.ranks import launcher, meeting, speaker
    from pipeline.stderr import traceback_of

    launcher.follow_launcher()
    if os.getppid() != parent:
        return 1  # The launcher died before this rank could follow it.
    if store != -1:
        meeting.listen_on(store)
    sys.argv = [module, *words]
    try:
        code: int = import_module(module).main(words)
    except SystemExit as request:
        return request.code if isinstance(request.code, int) else 1
    except Exception as error:
        speaker.report(speaker.Report(1, traceback_of(error)))
        return 1
    return code


if __name__ == "__main__":
    code = main()
    # Not above: it is on the path only now.
    from pipeline import unread_output

    unread_output.flush()
    # Threads of a process group that lost a rank can delay or abort the interpreter's own exit.
    os._exit(code)
