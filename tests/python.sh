#!/bin/sh
# Make FOLDER a virtual environment of PYTHON with this project and what its tests, its demo and its checks import.
#
#   sh tests/python.sh PYTHON FOLDER
set -eu
python=$1 folder=$2
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  { echo "datamount needs Python 3.11 or newer; set PYTHON=…" >&2; exit 1; }
# A second make would write into the same folder meanwhile; it waits, and then finds all done.
if command -v flock >/dev/null; then
  mkdir -p .cache
  exec 9>.cache/environment.lock
  flock 9
  [ "$folder/.installed" -nt pyproject.toml ] && exit 0
fi
"$python" -m venv "$folder" 2>/dev/null || { sh tests/debian.sh python3-venv && "$python" -m venv "$folder"; }
"$folder/bin/python" -m pip install -q --disable-pip-version-check uv
"$folder/bin/uv" pip install -q --python "$folder/bin/python" -e '.[dev]'
touch "$folder/.installed"
