# Activates a virtual environment with the project and its dependencies. demo.sh and test.sh source it.
#
# If a virtual environment is active already, nothing is installed or changed. Otherwise .venv is created in the
# project's directory. The project is installed into it on the first run (about 5.5 GB, because torch comes with its
# CUDA libraries) and again when pyproject.toml has changed.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: found no Python 3.11 or newer that has the venv module, so no environment can be created." >&2
  echo "Install one (on Debian: apt-get install python3 python3-venv) and run this again." >&2
  return 1
}

# Looks for the packages and does not import them, which would take many seconds.
has_packages() {
  python -c 'import sys; from importlib.util import find_spec; sys.exit(None in map(find_spec, sys.argv[1:]))' "$@"
}

if [ -z "${VIRTUAL_ENV:-}" ]; then
  wanted=$(cksum pyproject.toml)
  if [ "$(cat .venv/filled-for 2>/dev/null)" != "$wanted" ]; then
    echo "installing the project into .venv (a few minutes the first time, because torch is large)" >&2
    python=$(find_python)
    "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --editable '.[dev]'
    echo "$wanted" > .venv/filled-for
  fi
  # shellcheck disable=SC1091
  source .venv/bin/activate
elif ! has_packages pipeline torch accelerate cv2 simplejpeg moto datasets webdataset onnxruntime playwright torch_fidelity pytest xdist sphinx myst_parser furo nbclient ipykernel || ! command -v ruff >/dev/null; then
  echo "error: the active virtual environment $VIRTUAL_ENV lacks packages that the project needs." >&2
  echo "Run  pip install -e '.[dev]'  to install them, or run  deactivate  and then this again." >&2
  exit 1
fi
