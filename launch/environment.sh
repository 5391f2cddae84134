# Sourced by demo.sh and test.sh: a virtual environment that holds the project and what it needs.
#
# Inside an active virtual environment nothing is installed or changed. Outside one, .venv is made in the
# project's directory, filled on the first run (about 5.5 GB: torch comes with its CUDA libraries) and again
# whenever pyproject.toml changes.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: Python 3.11 or newer with its venv module is needed, and none was found." >&2
  echo "Install it (on Debian: apt-get install python3 python3-venv) and run this again." >&2
  return 1
}

if [ -z "${VIRTUAL_ENV:-}" ]; then
  wanted=$(cksum pyproject.toml)
  if [ "$(cat .venv/filled-for 2>/dev/null)" != "$wanted" ]; then
    echo "filling .venv (a few minutes the first time; torch is large)" >&2
    python=$(find_python)
    "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --editable '.[dev]'
    echo "$wanted" > .venv/filled-for
  fi
  # shellcheck disable=SC1091
  source .venv/bin/activate
elif ! python -c 'import pipeline, torch, accelerate, cv2, simplejpeg, moto, datasets, webdataset, onnxruntime, playwright, torch_fidelity, pytest, xdist, sphinx, myst_parser, furo, nbclient, ipykernel' 2>/dev/null || ! command -v ruff >/dev/null; then
  echo "error: the active virtual environment $VIRTUAL_ENV lacks the project's packages." >&2
  echo "Run  pip install -e '.[dev]'  in it, or leave it with  deactivate  and run this again." >&2
  exit 1
fi
