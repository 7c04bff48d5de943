"""JupyterHub without a cluster webhook: the same injection as a hook of KubeSpawner, and a stop that saves first.

In hub.extraConfig of Zero to JupyterHub or BinderHub, with datamount in the hub's image:

    from datamount.kubespawner import make_hook, saving

    c.JupyterHub.spawner_class = saving(c.JupyterHub.spawner_class)
    c.KubeSpawner.modify_pod_hook = make_hook("/etc/datamount/inject.yaml")

A fault in here never keeps a server from starting or stopping: it is logged, and the hub goes on as without us.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from traitlets import Float, HasTraits
from traitlets.utils.importstring import import_item

from datamount.inject import InjectSettings, inject, read_inject_settings, why_not

SETTINGS_VARIABLE = "DATAMOUNT_INJECT_SETTINGS"
"""Names the settings file of `modify_pod_hook`; without it the settings are the defaults."""

Hook = Callable[[Any, Any], Any]


def modify_pod_hook(spawner: Any, pod: Any) -> Any:
    """The pod as `inject` makes it, with the settings of the file that $DATAMOUNT_INJECT_SETTINGS names.

    A V1Pod stays one and a dict stays one. Never raises: on any fault the pod is returned as it was.
    """
    file = os.environ.get(SETTINGS_VARIABLE)
    return make_hook(file)(spawner, pod)


def make_hook(settings: InjectSettings | str | Path | None = None) -> Hook:
    """A `modify_pod_hook` with these settings, or those of this YAML file, which is read at each spawn."""

    def hook(spawner: Any, pod: Any) -> Any:
        try:
            chosen = settings
            if chosen is None:
                chosen = InjectSettings()
            elif not isinstance(chosen, InjectSettings):
                chosen = read_inject_settings(Path(chosen))
            return _inject(spawner, pod, chosen)
        except Exception:
            spawner.log.exception("datamount: the pod of this server is started without it")
            return pod

    return hook


def _inject(spawner: Any, pod: Any, settings: InjectSettings) -> Any:
    if isinstance(pod, dict):
        _say_why_not(spawner, pod, settings)
        return inject(pod, settings)
    plain = _serialise(pod)
    _say_why_not(spawner, plain, settings)
    injected = inject(plain, settings)
    if injected is plain:
        return pod
    changed = copy.copy(pod)
    changed.metadata = copy.copy(pod.metadata)
    changed.metadata.annotations = injected["metadata"]["annotations"]
    changed.spec = copy.copy(pod.spec)
    for attribute, field, kind in (
        ("containers", "containers", "V1Container"),
        ("init_containers", "initContainers", "V1Container"),
        ("volumes", "volumes", "V1Volume"),
    ):
        setattr(changed.spec, attribute, [_model(entry, kind) for entry in injected["spec"].get(field) or ()])
    return changed


def _say_why_not(spawner: Any, pod: dict[str, Any], settings: InjectSettings) -> None:
    reason = why_not(pod, settings)
    if reason:
        spawner.log.info("datamount leaves the pod as it is: %s", reason)


class _Text:
    """What the client's `deserialize` takes for an answer of the API server."""

    def __init__(self, data: Any) -> None:
        self.data = json.dumps(data)


@cache
def _client_class() -> Any:
    from kubernetes_asyncio.client import ApiClient

    class Client(ApiClient):
        """Only its (de)serialisation: made without a session, which would want an event loop and to be closed."""

        def __init__(self) -> None:
            from kubernetes_asyncio.client import Configuration

            self.configuration = Configuration()
            self.client_side_validation = False

        def __del__(self) -> None:
            pass

    return Client


def _serialise(pod: Any) -> dict[str, Any]:
    found: dict[str, Any] = _client_class()().sanitize_for_serialization(pod)
    return found


def _model(entry: dict[str, Any], kind: str) -> Any:
    """The client's model of a container or volume; the plain object where the model would lose a field of it."""
    client = _client_class()()
    model = client.deserialize(_Text(entry), kind)
    return model if client.sanitize_for_serialization(model) == entry else entry


class SavingSpawnerMixin(HasTraits):
    """For a KubeSpawner: `stop` has the student's work saved first, for a few seconds at most.

    The hub deletes pods with a grace of one second, too little for a save. It asks through the user's own Jupyter
    server, with the server's own token, so it needs no rights in the cluster and no way to the sidecar. A server that
    has ended already, does not answer, or has nothing of datamount is stopped as ever.
    """

    save_timeout = Float(
        5.0,
        min=0.0,
        help="How long a stop waits for the last save, in seconds; 0 does not ask. The hub's own stop comes after it.",
    ).tag(config=True)

    async def stop(self, now: bool = False) -> None:
        """Save, then stop as the spawner does. With `now` the server is gone: nobody could be asked."""
        if not now:
            await self._save_first()
        await super().stop(now)  # type: ignore[misc]

    async def _save_first(self) -> None:
        spawner: Any = self
        try:
            seconds = float(spawner.save_timeout)
            token = _server_token(spawner)
            if seconds > 0 and spawner.server is not None and token:
                await asyncio.wait_for(save(spawner.server.url, token, seconds), seconds)
                spawner.log.info("datamount: the work of %s is saved", spawner._log_name)
        except Exception as error:
            spawner.log.warning("datamount: no last save before the stop (%s: %s)", type(error).__name__, error)


def saving(spawner_class: type | str) -> type:
    """The hub's spawner (a class, or where to import it from) with a stop that saves first.

    It builds on what the hub has, because BinderHub's own spawner is what gives a server its image and its token.
    """
    base = import_item(spawner_class) if isinstance(spawner_class, str) else spawner_class
    return type(f"Saving{base.__name__}", (SavingSpawnerMixin, base), {})


def _server_token(spawner: Any) -> str:
    """What this spawner's Jupyter server takes as the user's own word; empty where that is not known.

    BinderHub without sign-in (BinderSpawnerMixin, `auth_enabled` off) starts plain Jupyter servers, which know nothing
    of the hub and its tokens: each has one of its own, out of the launch's options.
    """
    if getattr(spawner, "auth_enabled", True):
        return str(spawner.api_token or "")
    return str(spawner.user_options.get("token") or "")


async def save(server_url: str, token: str, seconds: float) -> None:
    """Ask the sidecar behind a running Jupyter server to save. Raises what the HTTP client raises."""
    request = HTTPRequest(
        f"{server_url.rstrip('/')}/datamount/api/v1/snapshots",
        method="POST",
        headers={"Authorization": f"token {token}", "Content-Type": "application/json"},
        body=json.dumps({"message": "Saved when the server was stopped"}),
        connect_timeout=min(seconds, 2.0),
        request_timeout=seconds,
        follow_redirects=False,  # a login page is no save
    )
    await AsyncHTTPClient().fetch(request)
