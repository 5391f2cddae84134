"""The first file of the processes that an acceptance starts: `python -P program.py MODULE:FUNCTION WORDS...`.

It is run as a file and with -P, not with -m: no file in the working directory can take the place of a module.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path


def command(target: str, *words: str) -> list[str]:
    """The command line that calls this function, "module:function", with the words as `sys.argv[1:]`."""
    return [sys.executable, "-P", "-u", __file__, target, *words]


def main() -> int:
    """Call the function that the first argument names. Returns its exit code."""
    target, *words = sys.argv[1:]
    package = str(Path(__file__).parents[2])
    if package not in sys.path:
        sys.path.insert(0, package)
    module, _, function = target.partition(":")
    sys.argv = [module, *words]
    code: int = getattr(import_module(module), function)()
    return code


if __name__ == "__main__":
    sys.exit(main())
