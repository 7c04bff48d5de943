"""Where a key opens: the address of a new session of a course, with a place for the key in it.

A panel takes the key from after the `#` of its own address (`names.LINK_NAME`), which browsers send to no server. A
JupyterHub leads there directly. BinderHub first builds: its launch page takes `urlpath` from its own query and goes
there afterwards, so there the key is in one request to BinderHub, and in the log of whatever stands before it.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from datamount.controller.identity import PodSession
from datamount.names import LINK_NAME

KEY = "{key}"
"""Stands in an address where the key goes. Keys are of [A-Za-z0-9_-]: they need no escaping."""
_REQUEST = re.compile(r"v2/[a-z0-9]+/[A-Za-z0-9._~%:@+-]+(/[A-Za-z0-9._~%:@+-]+)*")
_HOST = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~%/-]*)?")
_LONGEST = 1000


def address(session: PodSession, hub_url: str | None) -> str | None:
    """The address of a new session of this session's course, KEY in it; None where the hub's is not known.

    `hub_url` is the operator's word for the hub. Without it BinderHub's own variables in the pod are taken, which the
    session's user could have chosen: it is that user's own link.
    """
    here = f"lab#{LINK_NAME}={KEY}"
    if session.launch and _REQUEST.fullmatch(session.launch) and ".." not in session.launch.split("/"):
        host = hub_url or (session.launch_host if _HOST.fullmatch(session.launch_host) else None)
        if host and len(host) + len(session.launch) < _LONGEST:
            path = quote(here.removesuffix(KEY), safe="")
            return f"{host.rstrip('/')}/{session.launch}?urlpath={path}{KEY}"
    if hub_url and not session.launch:
        return f"{hub_url.rstrip('/')}/hub/user-redirect/{here}"
    return None


def link(address: str | None, key: str) -> str | None:
    """The address with the key in its place."""
    return address.replace(KEY, key) if address else None
