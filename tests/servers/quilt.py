"""Quilt packages, pushed by quilt3 itself; their registry is the S3 server or a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.servers.process import ServerFailed


def push_package(
    name: str,
    registry: str,
    files: Mapping[str, bytes],
    *,
    env: Mapping[str, str],
    tree: Path | None = None,
    meta: Mapping[str, Mapping[str, object]] | None = None,
) -> str:
    """The top hash of a Quilt package of `files` that quilt3 itself pushed; `env` has the AWS variables.

    `meta` has metadata by path, "" for the package's own.

    To a file:// registry quilt3 does not push, it builds: the files stay in `tree`, which must last. In a process of
    its own with a home of its own, because quilt3 keeps clients and configuration globally.
    """
    with tempfile.TemporaryDirectory(prefix="dm-") as folder:
        tree, home = tree or Path(folder, "tree"), Path(folder, "home")
        home.mkdir()
        for path, body in files.items():
            tree.joinpath(path).parent.mkdir(parents=True, exist_ok=True)
            tree.joinpath(path).write_bytes(body)
        own = {"HOME": str(home), "XDG_DATA_HOME": str(home), "XDG_CACHE_HOME": str(home), "XDG_CONFIG_HOME": str(home)}
        quiet = {"QUILT_DISABLE_USAGE_METRICS": "true", "QUILT_MINIMIZE_STDOUT": "true"}
        done = subprocess.run(
            [sys.executable, "-c", _PUSH, name, registry, str(tree), json.dumps(meta or {})],
            env=os.environ | dict(env) | own | quiet,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        if done.returncode:
            raise ServerFailed(f"quilt3 could not push {name} to {registry}\n{done.stdout}{done.stderr}")
        return done.stdout.split()[-1]


_PUSH = """
import json, sys, quilt3
name, registry, tree, meta = sys.argv[1:]
package = quilt3.Package().set_dir("/", tree)
for path, said in json.loads(meta).items():
    (package[path] if path else package).set_meta(said)
if registry.startswith("s3://"):
    print(package.push(name, registry=registry, message="test", force=True).top_hash)
else:
    print(package.build(name, registry=registry, message="test"))
"""
