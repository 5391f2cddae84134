"""`python -m tests.fuzz --minutes 30`: tries mutated inputs on all targets, and prints a table and the findings.

    python -m tests.fuzz --minutes 5 --target png --target tar     some targets
    python -m tests.fuzz --inputs 1200 --seed 7                     other inputs, as many for each target
    python -m tests.fuzz --target png --seed 7 --only 1234 --save bad.png     one input again, kept as a file

Ends with 1 if there are findings.
"""

from __future__ import annotations

import argparse
import collections
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.wording import counted
from tests.fuzz.engine import Campaign, Row, load_targets, make_input

SHOWN = 600
"""Characters of a finding that are printed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--minutes", type=float, default=1, help="for all targets together (default: 1)")
    parser.add_argument("--inputs", type=int, help="for each target, however long they take")
    parser.add_argument("--target", action="append", help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="gives other inputs (default: 0)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--only", type=int, help="run only the input of this number")
    parser.add_argument("--save", type=Path, help="with --only: write the input to this file")
    options = parser.parse_args(arguments)
    targets = load_targets()
    names = options.target or sorted(targets)
    if unknown := set(names) - set(targets):
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(sorted(targets))}")
    if options.only is not None and options.save:
        chosen = targets[names[0]]
        options.save.write_bytes(make_input(chosen, chosen.seeds(), options.seed, options.only))
    if options.only is not None:
        campaign = Campaign(options.seed, inputs=1, first=options.only)
    elif options.inputs is not None:
        campaign = Campaign(options.seed, inputs=options.inputs, workers=min(options.workers, len(names)))
    else:
        workers = min(options.workers, len(names))
        campaign = Campaign(
            options.seed, seconds=60 * options.minutes * workers / len(names), workers=workers
        )
    started = time.monotonic()
    print(HEAD)
    rows = campaign.run(names, lambda row: print(line(row), flush=True))
    total = sum(row.inputs for row in rows)
    found = sum(len(row.findings) for row in rows)
    took = f"{total:,} inputs in {time.monotonic() - started:.0f} seconds, seed {options.seed}"
    print(f"{took}: {counted(found, 'finding')}")
    for text in describe(rows, options.seed):
        print(text)
    return 1 if found else 0


HEAD = "| target | inputs | refused | taken | findings | slowest | most memory |\n|-|-:|-:|-:|-:|-:|-:|"


def line(row: Row) -> str:
    """A row of the table."""
    return (
        f"| {row.name} | {row.inputs:,} | {row.refused:,} | {row.taken:,} | {len(row.findings)} | {row.slowest:.1f} s "
        f"| {row.growth / 2**20:,.0f} MiB |"
    )


def describe(rows: Sequence[Row], seed: int) -> list[str]:
    """One text for each kind of finding: how often, what, and how to repeat it."""
    texts = []
    for row in rows:
        kinds = collections.defaultdict(list)
        for result in row.findings:
            same = "" if result.kind == "chatter" else re.sub(r"[0-9]+", "0", result.text)[:60]
            kinds[(result.kind, same)].append(result)
        for (kind, _), results in kinds.items():
            numbers = ", ".join(str(result.number) for result in results[:5])
            repeat = f"--target {row.name} --seed {seed} --only {numbers}"
            times = counted(len(results), "time")
            texts.append(f"\n{row.name}: {kind}, {times} ({repeat}):\n  {results[0].text[:SHOWN]}")
    return texts


if __name__ == "__main__":
    sys.exit(main())
