"""What only a workspace behind the controller's gateway has: work keys, and links to versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datamount.snapshots import Workspace
from sidecar.errors import NotWithThisStore

if TYPE_CHECKING:
    from pydantic import SecretStr

    from datamount.objectstore.gateway import GatewayStore


def gateway_of(workspace: Workspace) -> GatewayStore:
    """The workspace's store, where it is a gateway's; NotWithThisStore where it is not."""
    from datamount.objectstore.gateway import GatewayStore

    store = workspace.store
    if not isinstance(store, GatewayStore):
        raise NotWithThisStore(
            "this session keeps its work in a store of its own, from which no link to a version can be given.",
            hint="Download the version as a zip file and send that.",
            who="you",
        )
    return store


def under_key(workspace: Workspace, key: SecretStr) -> Workspace:
    """The work under another key, to look at; the session's own workspace stays as it is. Makes no request."""
    from datamount.objectstore.gateway import GatewayStore

    other = GatewayStore(gateway_of(workspace).client.under(key))
    return Workspace(other, workspace.owner, workspace.course)
