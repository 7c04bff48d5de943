"""A store in a container of Azure Blob Storage."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from obstore.store import AzureStore as Client

from datamount.objectstore.remote import Kind, RemoteStore, client_options

# Names of metadata must be identifiers there.
_KIND = Kind(
    "container",
    "the AZURE_STORAGE_ variables and the container's access",
    "Set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    write_id="datamountwrite",
)


class AzureStore(RemoteStore):
    """Objects below `prefix` of `container`. The account and its credentials come from the AZURE_STORAGE_ variables."""

    def __init__(self, container: str, prefix: str = "", *, endpoint_url: str | None = None) -> None:
        endpoint = endpoint_url or os.environ.get("AZURE_STORAGE_ENDPOINT")
        settings: dict[str, Any] = {"client_options": client_options(endpoint)}
        if endpoint:
            settings["endpoint"] = endpoint.rstrip("/")
        super().__init__(_KIND, "az", container, prefix, partial(Client, container, **settings))
