"""The containers that a pod gets, and what its notebook container gets."""

from __future__ import annotations

import copy
from pathlib import Path, PurePosixPath

from datamount import names
from datamount.inject.plan import Object, Plan
from datamount.inject.settings import Resources
from datamount.inject.variables import variables
from datamount.inject.volumes import home_mount, mount

SEED_SCRIPT = Path(__file__).with_name("seed.sh").read_text(encoding="utf-8")
READY_SECONDS = 10
"""Bound of one startup probe; `datamount.pod ready` ends long before."""


def equip_notebook(plan: Plan, notebook: Object) -> None:
    """Mounts and static variables, the only things a notebook gets."""
    mounts = items(notebook, "volumeMounts")
    if plan.home_mount is None:
        mounts.append(mount(plan, names.HOME_VOLUME, plan.home))
    mounts.append(mount(plan, names.DATA_VOLUME, plan.data_dir, read_only=True))
    # Read-only too: what the sidecar writes there must not lead elsewhere by a link that student code has put down.
    mounts.append(mount(plan, names.RUN_VOLUME, plan.run_dir, read_only=True))
    extension = names.EXTENSION_VOLUME if plan.settings.image_volumes else names.JUPYTER_VOLUME
    mounts.append(mount(plan, extension, plan.jupyter_dir, read_only=True))
    environment = items(notebook, "env")
    folder = plan.jupyter_dir + (names.JUPYTER_DIR if plan.settings.image_volumes else "")
    _append_path(environment, names.JUPYTER_CONFIG_PATH, folder)
    for name, value in ((names.ENV_DATA, plan.data_dir), (names.ENV_RUN, plan.run_dir)):
        environment[:] = [entry for entry in environment if entry["name"] != name]
        environment.append({"name": name, "value": value})


def _append_path(environment: list[Object], name: str, folder: str) -> None:
    """Add a folder to a search path, after what the pod sets itself."""
    entry = next((entry for entry in reversed(environment) if entry["name"] == name), None)
    if entry is None:
        environment.append({"name": name, "value": folder})
    elif "valueFrom" in entry:
        # The kubelet fills in what the name means so far; of two entries of a name the later one counts.
        environment.append({"name": name, "value": f"$({name}):{folder}"})
    else:
        entry["value"] = f"{entry['value']}:{folder}" if entry.get("value") else folder


def _restricted(uid: int | None, gid: int | None, *, non_root: bool) -> Object:
    """A container's security context that the restricted Pod Security Standard accepts, where the user is known."""
    context: Object = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    if non_root:
        context["runAsNonRoot"] = True
    if uid is not None:
        context["runAsUser"] = uid
    if gid is not None:
        context["runAsGroup"] = gid
    context["seccompProfile"] = {"type": "RuntimeDefault"}
    return context


def _resources(plan: Plan, resources: Resources) -> Object:
    """Requests and limits, where the pod has none for all its containers together: ours may be more than those allow,
    and the pod would be refused."""
    return {} if plan.pod["spec"].get("resources") else {"resources": resources.spec()}


def seed(plan: Plan) -> Object:
    """The notebook's own image, as the notebook's own user.

    Where only the image knows its user, runAsNonRoot is set as the notebook has it: a user given by name would keep
    the container, and so the pod, from starting.
    """
    volume = names.SEED_HOME_DIR
    if plan.home_mount is None:
        mode, home = "copy", mount(plan, names.HOME_VOLUME, volume)
    else:
        mode, home = "kept", home_mount(plan) | {"mountPath": volume, "readOnly": True}
        below = PurePosixPath(plan.home).relative_to(PurePosixPath(plan.home_mount["mountPath"]))
        volume = str(PurePosixPath(volume) / below)
    container: Object = {"name": plan.containers[names.SEED_CONTAINER], "image": plan.notebook["image"]}
    if plan.notebook.get("imagePullPolicy"):
        container["imagePullPolicy"] = plan.notebook["imagePullPolicy"]
    script = ["/bin/sh", "-c", SEED_SCRIPT, names.SEED_CONTAINER]
    container["command"] = [*script, plan.home, mode, volume, names.COURSE_DIR]
    if plan.home_env:
        container["env"] = copy.deepcopy(list(plan.home_env))
    container |= _resources(plan, plan.settings.seed_resources)
    container["securityContext"] = _restricted(
        plan.own_uid, plan.own_gid, non_root=plan.non_root or plan.own_uid is not None
    )
    container["volumeMounts"] = [home, mount(plan, names.COURSE_VOLUME, names.COURSE_DIR)]
    return container


def fetch(plan: Plan) -> Object:
    """The init container that brings saved work and data."""
    container = _ours(plan, names.FETCH_CONTAINER, "fetch", plan.settings.fetch_resources)
    if plan.settings.image_volumes:
        container["volumeMounts"].append(mount(plan, names.IMAGE_VOLUME, names.IMAGE_DIR, read_only=True))
    else:
        container["volumeMounts"].append(mount(plan, names.JUPYTER_VOLUME, names.JUPYTER_DIR))
    return container


def sidecar(plan: Plan) -> Object:
    """The container that saves, and goes on fetching, beside the notebook."""
    container = _ours(plan, names.SIDECAR_CONTAINER, "sidecar", plan.settings.sidecar_resources)
    if plan.settings.native_sidecar:
        container["restartPolicy"] = "Always"
        # The notebook starts after the first success. `ready` succeeds after some seconds even when the sidecar is
        # not well, because a probe that fails would keep the notebook closed.
        container["startupProbe"] = {
            "exec": {"command": [*plan.settings.command, "ready"]},
            "periodSeconds": 1,
            "timeoutSeconds": READY_SECONDS,
            "failureThreshold": 30,
        }
    return container


def _ours(plan: Plan, name: str, subcommand: str, resources: Resources) -> Object:
    """A container of our image: it has the token, and nothing of it is seen by the notebook."""
    settings = plan.settings
    container: Object = {
        "name": plan.containers[name],
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": [*settings.command, subcommand],
        "env": variables(plan),
    }
    if settings.store_secret:
        container["envFrom"] = [{"secretRef": {"name": settings.store_secret, "optional": True}}]
    container |= _resources(plan, resources)
    container["securityContext"] = _restricted(plan.uid, plan.gid, non_root=True)
    mounts = [
        home_mount(plan),
        mount(plan, names.DATA_VOLUME, plan.data_dir),
        mount(plan, names.RUN_VOLUME, plan.run_dir),
        mount(plan, names.STATE_VOLUME, names.STATE_DIR),
        mount(plan, names.COURSE_VOLUME, names.COURSE_DIR, read_only=not settings.image_volumes),
    ]
    if settings.controller_url:
        mounts.append(mount(plan, names.TOKEN_VOLUME, names.TOKEN_DIR, read_only=True))
    if settings.credentials_secret:
        mounts.append(mount(plan, names.CREDENTIALS_VOLUME, names.CREDENTIALS_DIR, read_only=True))
    if settings.cache_host_path:
        mounts.append(mount(plan, names.CACHE_VOLUME, names.CACHE_DIR))
    container["volumeMounts"] = mounts
    return container


def items(parent: Object, key: str) -> list[Object]:
    """The list at a key, which is there from now on."""
    if parent.get(key) is None:
        parent[key] = []
    found: list[Object] = parent[key]
    return found
