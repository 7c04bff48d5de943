"""The volumes that a pod gets, and how they are mounted."""

from __future__ import annotations

import copy

from datamount import names
from datamount.inject.plan import Object, Plan
from datamount.inject.settings import InjectSettings


def new_volumes(plan: Plan) -> list[Object]:
    """The volumes to add, in order."""
    settings = plan.settings

    def empty(name: str, size: str | None, **more: str) -> Object:
        source: Object = dict(more)
        if size:
            source["sizeLimit"] = size
        return {"name": plan.volumes[name], "emptyDir": source}

    volumes = [] if plan.home_mount is not None else [empty(names.HOME_VOLUME, settings.home_size)]
    volumes.append(empty(names.DATA_VOLUME, settings.data_size))
    volumes.append(empty(names.RUN_VOLUME, settings.run_size, medium="Memory"))
    volumes.append(empty(names.STATE_VOLUME, settings.state_size))
    volumes.append(empty(names.COURSE_VOLUME, settings.small_size))
    if settings.image_volumes:
        for name, reference, policy in (
            (names.IMAGE_VOLUME, plan.notebook["image"], plan.notebook.get("imagePullPolicy")),
            (names.EXTENSION_VOLUME, settings.image, settings.image_pull_policy),
        ):
            image = {"reference": reference} | ({"pullPolicy": policy} if policy else {})
            volumes.append({"name": plan.volumes[name], "image": image})
    else:
        volumes.append(empty(names.JUPYTER_VOLUME, settings.small_size))
    if settings.controller_url:
        volumes.append({"name": plan.volumes[names.TOKEN_VOLUME], "projected": _token(settings)})
    if settings.credentials_secret:
        # World-readable, as only our containers mount it and their user is not root; a Secret need not exist.
        secret = {"secretName": settings.credentials_secret, "defaultMode": 0o444, "optional": True}
        volumes.append({"name": plan.volumes[names.CREDENTIALS_VOLUME], "secret": secret})
    if settings.cache_host_path:
        cache = {"path": settings.cache_host_path, "type": "DirectoryOrCreate"}
        volumes.append({"name": plan.volumes[names.CACHE_VOLUME], "hostPath": cache})
    return volumes


def _token(settings: InjectSettings) -> Object:
    """A token for the controller alone; asked for explicitly, it needs no automountServiceAccountToken."""
    token = {"audience": names.AUDIENCE, "expirationSeconds": settings.token_seconds, "path": "token"}
    sources: list[Object] = [{"serviceAccountToken": token}]
    if settings.ca_config_map:
        items = [{"key": "ca.crt", "path": "ca.crt"}]
        sources.append({"configMap": {"name": settings.ca_config_map, "items": items, "optional": True}})
    return {"sources": sources}


def mount(plan: Plan, volume: str, path: str, *, read_only: bool = False) -> Object:
    """A mount of one of our volumes, by its name in the contract."""
    made: Object = {"name": plan.volumes[volume], "mountPath": path}
    if read_only:
        made["readOnly"] = True
    return made


def home_mount(plan: Plan) -> Object:
    """The home, at the notebook's own path."""
    if plan.home_mount is None:
        return mount(plan, names.HOME_VOLUME, plan.home)
    made = copy.deepcopy(plan.home_mount)
    if made.get("mountPropagation") == "Bidirectional":
        # Only a privileged container may have it; the pod would be refused. What is mounted there is seen all the same.
        made["mountPropagation"] = "HostToContainer"
    return made
