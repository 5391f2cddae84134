#!/usr/bin/env bash
# All checks: format, lint, types, import contracts, then the tests, which start real processes and use all cores.
#
#   bash launch/test.sh                            everything, as in CI
#   bash launch/test.sh --fast                     without the tests marked slow: two to three minutes on two cores
#   bash launch/test.sh tests/data -k order        some tests, with pytest's own arguments
#   bash launch/test.sh -n 0 tests/data --pdb      the same in one process, for a debugger
set -euo pipefail
source "$(dirname "$0")/environment.sh"

chosen=()
if [ "${1:-}" = --fast ]; then
  shift
  chosen=(-m "not slow")
fi
# Compiled modules are kept, whatever the environment says: many tests start interpreters that import the same ones.
unset PYTHONDONTWRITEBYTECODE
cores=$(python -c 'import os; print(len(os.sched_getaffinity(0)))')
# Twice as many workers as cores, because many tests wait for processes. Each needs about 2 GB of memory.
workers=$((cores < 4 ? 2 * cores : 8))

ruff format --check .
ruff check .
lint-imports
# Beside the tests, because without a cache it takes half a minute. If it finds something, that comes after theirs.
types=$(mktemp)
trap 'rm -f "$types"' EXIT
mypy > "$types" 2>&1 &
failed=0
# Neighbouring tests share fixtures, so each worker gets a block of them. A worker that is done takes tests of others.
python -m pytest -n "$workers" --dist worksteal "${chosen[@]}" "$@" || failed=$?
wait $! || { failed=$?; cat "$types"; }
exit "$failed"
