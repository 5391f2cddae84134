#!/usr/bin/env bash
# Everything that must hold: format, lint, types, layering, then the tests with real processes.
#
#   bash launch/test.sh            all of it, as in CI
#   bash launch/test.sh tests/data -k order    some tests, with pytest's own arguments
set -euo pipefail
source "$(dirname "$0")/environment.sh"

ruff format --check .
ruff check .
mypy
lint-imports
exec python -m pytest "$@"
