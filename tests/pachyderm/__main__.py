"""`python -m tests.pachyderm`, or this folder's path: serve until SIGTERM.

python tests/pachyderm --port 30650 --folder /tmp/pfs [--root-token TOKEN] [--certificate PEM --private-key PEM]
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run by path: find `tests` itself

from tests.pachyderm.service import serve


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.pachyderm", description="A stand-in for pachd.")
    parser.add_argument("--port", type=int, default=30650)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--folder", type=Path, required=True, help="kept between runs")
    parser.add_argument("--root-token", default="", help="turns auth on")
    parser.add_argument("--certificate", type=Path, help="turns TLS on, with --private-key")
    parser.add_argument("--private-key", type=Path)
    parser.add_argument("--finish-seconds", type=float, default=0.0, help="how long a commit is being finished")
    given = parser.parse_args()
    ending = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)  # before there are threads, which inherit it
    server = serve(
        given.folder,
        f"{given.host}:{given.port}",
        root_token=given.root_token,
        certificate=given.certificate,
        private_key=given.private_key,
        finish_seconds=given.finish_seconds,
    )
    print(f"grpc://{given.host}:{given.port}", flush=True)
    signal.sigwait(ending)
    server.stop(grace=0.5).wait(1)
    os._exit(0)  # a handler whose client went silent would keep the pool's threads, and so the process


main()
