#!/bin/sh
# Pin what the images hold, with hashes: session.txt and controller.txt, from the extras of pyproject.toml.
# Needs uv (pip install uv). Run it after a change of the dependencies, and every now and then for security fixes.
set -eu
cd "$(dirname "$0")/.."
lock() {
  out=requirements/$1.txt
  shift
  extras=""
  for extra in "$@"; do extras="$extras --extra $extra"; done
  # shellcheck disable=SC2086
  "${UV:-uv}" pip compile pyproject.toml $extras --universal --python-version 3.11 --generate-hashes --no-annotate \
    --no-header --quiet --upgrade --no-emit-index-url --no-emit-find-links --output-file "$out"
}
lock session s3 quilt pachyderm mysql url store sidecar
lock controller controller
