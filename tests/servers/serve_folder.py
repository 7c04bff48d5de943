"""What HTTPServer's process runs: `python serve_folder.py FOLDER PORT`."""

from __future__ import annotations

import hmac
import logging
import os
import sys
from pathlib import Path
from typing import Any

from aiohttp import web


def serve_folder(root: Path, port: int) -> None:
    """Serve a folder on a port of 127.0.0.1, until the process ends."""
    logging.basicConfig(level=logging.INFO)
    wanted = os.environ.get("DATAMOUNT_TEST_AUTHORIZATION", "")

    @web.middleware
    async def authorize(request: web.Request, handler: Any) -> web.StreamResponse:
        if wanted and not hmac.compare_digest(request.headers.get("Authorization", ""), wanted):
            return web.Response(status=401, headers={"WWW-Authenticate": "Basic"})
        answer: web.StreamResponse = await handler(request)
        return answer

    application = web.Application(middlewares=[authorize])
    application.router.add_static("/", root)
    web.run_app(application, host="127.0.0.1", port=port, print=None)


if __name__ == "__main__":
    serve_folder(Path(sys.argv[1]), int(sys.argv[2]))
