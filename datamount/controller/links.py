"""Where a key opens: the address of a new session of a course, with a place for the key in it.

A panel takes the key from after the `#` of its own address (`names.LINK_NAME`), which browsers send to no server. A
JupyterHub leads there directly. BinderHub first builds: its launch page takes `urlpath` from its own query and goes
there afterwards, so there the key is in one request to BinderHub, and in the log of whatever stands before it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote, unquote

from datamount.controller.identity import PodSession
from datamount.names import LINK_NAME

KEY = "{key}"
"""Stands in an address where the key goes. Keys are of [A-Za-z0-9_-]: they need no escaping."""
_REQUEST = re.compile(r"v2/[a-z0-9]+/[A-Za-z0-9._~!$&'()*+,;=:@%/-]+")
"""What a path may hold (RFC 3986, `pchar`): names of branches have more of it than names of repos."""
_NOWHERE = {"", ".", ".."}
_HOST = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~%/-]*)?")
_LONGEST = 1000
_NEW_COURSE_A_VERSION = ("v2/zenodo/", "v2/figshare/")


def launch_request(environment: Mapping[str, str]) -> str:
    """The request, in a pod's variables, that launches its course again; empty where BinderHub did not launch it.

    The one that was made, with its branch: the course may have moved on, the work is still of that course. Not so where
    a DOI stands for all versions of a record: BinderHub names the image after the version, so each is a course of its
    own, and the way back to the work leads to that version.
    """
    request = environment.get("BINDER_REQUEST", "")
    if request.startswith(_NEW_COURSE_A_VERSION):
        return environment.get("BINDER_PERSISTENT_REQUEST") or request
    return request


def address(session: PodSession, hub_url: str | None) -> str | None:
    """The address of a new session of this session's course, KEY in it; None where the hub's is not known.

    `hub_url` is the operator's word for the hub. Without it BinderHub's own variables in the pod are taken, which the
    session's user could have chosen: it is that user's own link.
    """
    here = f"lab#{LINK_NAME}={KEY}"
    # To browsers, "%2e%2e" goes up too.
    parts = map(unquote, session.launch.split("/"))
    if session.launch and _REQUEST.fullmatch(session.launch) and _NOWHERE.isdisjoint(parts):
        host = hub_url or (session.launch_host if _HOST.fullmatch(session.launch_host) else None)
        if host and len(host) + len(session.launch) < _LONGEST:
            path = quote(here.removesuffix(KEY), safe="")
            return f"{host.rstrip('/')}/{session.launch}?urlpath={path}{KEY}"
    if hub_url and not session.launch:
        # A form to sign in loses what is after the "#" and keeps the query: so a panel can tell that a key is missing.
        return f"{hub_url.rstrip('/')}/hub/user-redirect/{here.replace('#', f'?{LINK_NAME}=link#')}"
    return None


def link(address: str | None, key: str) -> str | None:
    """The address with the key in its place."""
    return address.replace(KEY, key) if address else None
