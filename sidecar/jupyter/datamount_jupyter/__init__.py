"""Jupyter server extension: the sidecar's API and a small page, below the server's own URL and login.

Runs in the student's Python, which may be old: standard library, tornado and jupyter_server only, Python 3.8.
"""

from __future__ import annotations

from typing import Any, Dict, List

__version__ = "0.1.0"


def _jupyter_server_extension_points() -> List[Dict[str, str]]:
    return [{"module": "datamount_jupyter"}]


def _load_jupyter_server_extension(server_app: Any) -> None:
    from .handlers import routes

    server_app.web_app.add_handlers(".*$", routes(server_app.web_app.settings["base_url"]))
    server_app.log.info("datamount: saving and data are at %sdatamount/", server_app.web_app.settings["base_url"])


# jupyter_server 1.x looks for these names.
load_jupyter_server_extension = _load_jupyter_server_extension
_jupyter_server_extension_paths = _jupyter_server_extension_points
