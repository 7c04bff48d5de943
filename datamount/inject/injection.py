"""A pod with our containers, volumes and variables: a pure function, the same for webhook, hub and command line.

    injected = inject(pod, settings)        # `injected is pod` when nothing is to be done

What is added, and why it never keeps a notebook from opening:

    datamount-seed      init container, the notebook's own image: copies home and manifest to volumes; ends with 0
    datamount-fetch     init container, our image: saved work and data, within a time budget; ends with 0
    datamount-sidecar   native sidecar, our image: saves, goes on fetching; its startup probe always passes
    notebook            mounts and static variables, nothing else

Init containers are appended: after `block-cloud-metadata`, after a mesh's proxy, after the hub's own.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from datamount import names
from datamount.inject.settings import InjectSettings, Resources, read_inject_settings

__all__ = ["InjectSettings", "inject", "read_inject_settings", "why_not"]

Object = dict[str, Any]

SEED_SCRIPT = Path(__file__).with_name("seed.sh").read_text(encoding="utf-8")
READY_SECONDS = 10
"""Bound of one startup probe; `datamount.pod ready` ends long before."""
_REFERENCE = re.compile(r"(?<!\$)\$\(([^()]+)\)")


def inject(pod: Object, settings: InjectSettings) -> Object:
    """The pod with what a session of datamount needs; the very same object when it is to stay as it is.

    The argument is never changed. Never raises, whatever JSON `pod` is: what is not understood in full is left alone
    (`why_not` tells the reason). Injecting the result again changes nothing.
    """
    try:
        plan = _plan(pod, settings)
        return _apply(plan)
    except (_LeftAlone, RecursionError):
        return pod


def why_not(pod: Object, settings: InjectSettings) -> str | None:
    """Why `inject` leaves this pod alone, in words for a log; None when it does not."""
    try:
        _plan(pod, settings)
    except _LeftAlone as reason:
        return str(reason)
    except RecursionError:
        return "it is nested too deeply"
    return None


class _LeftAlone(Exception):
    """The pod is not one of ours, or not one that can be changed without doubt."""


@dataclass(frozen=True)
class _Plan:
    """What was found in a pod, and the names that are free in it."""

    pod: Object
    settings: InjectSettings
    notebook: Object
    home: str
    home_mount: Object | None
    """The notebook's mount that covers the home; None where home is in the image."""
    uid: int
    gid: int
    own_uid: int | None
    own_gid: int | None
    """Of the notebook, where the pod fixes them and they are not root."""
    non_root: bool
    data_dir: str
    run_dir: str
    jupyter_dir: str
    volumes: Mapping[str, str]
    containers: Mapping[str, str]
    home_env: Sequence[Object] = field(default=())
    """Variables that the home mount's subPathExpr is made of."""


# --- Reading a pod of unknown shape -----------------------------------------------------------------------------


def _plan(pod: Any, settings: InjectSettings) -> _Plan:
    _dict(pod, "the pod")
    if pod.get("kind", "Pod") != "Pod":
        raise _LeftAlone("it is not a Pod")
    metadata = _dict(pod.get("metadata"), "metadata")
    annotations = _strings(metadata.get("annotations"), "metadata.annotations")
    labels = _strings(metadata.get("labels"), "metadata.labels")
    spec = _dict(pod.get("spec"), "spec")
    containers = _named(spec.get("containers"), "spec.containers")
    init_containers = _named(spec.get("initContainers"), "spec.initContainers")
    volumes = _named(spec.get("volumes"), "spec.volumes")
    wanted = annotations.get(names.ANNOTATION_INJECT)
    if wanted == "false":
        raise _LeftAlone(f"its annotation {names.ANNOTATION_INJECT} says so")
    if names.ANNOTATION_STATUS in annotations:
        raise _LeftAlone("it is injected already")
    if labels.get("component") != settings.component and wanted != "true":
        raise _LeftAlone(f"its label component is not {settings.component}")
    if _dict(spec.get("os"), "spec.os").get("name") == "windows":
        raise _LeftAlone("it is a Windows pod")
    if spec.get("shareProcessNamespace") is True or spec.get("hostPID") is True:
        # The notebook runs as the same user: through /proc it could read the sidecar's token.
        raise _LeftAlone("its containers share their processes, so our token would not be safe from the notebook")
    notebook = _notebook(containers)
    for container in containers + init_containers:
        _named(container.get("volumeMounts"), "volumeMounts")
    environment = _named(notebook.get("env"), "env")
    if not isinstance(notebook.get("image"), str) or not notebook["image"]:
        raise _LeftAlone("its notebook container has no image")
    if not isinstance(notebook.get("imagePullPolicy", ""), str):
        raise _LeftAlone("its imagePullPolicy is not a string")
    for entry in environment:
        if not isinstance(entry.get("value", ""), str | None):
            raise _LeftAlone("a variable of its notebook container is not a string")
    mounts = _mounts(notebook)
    home = _home(annotations.get(names.ANNOTATION_HOME, settings.home))
    home_mount = _covering(home, mounts)
    shared = home_mount["mountPath"] if home_mount else home
    if any(_within(shared, path) or _within(path, shared) for path in _OUR_FOLDERS):
        raise _LeftAlone(f"its home {shared} is where our own folders are")
    own_uid, own_gid = _identity(spec, notebook)
    uid = own_uid or _number_of(environment, "NB_UID") or settings.default_uid
    gid = own_gid if own_gid is not None else _number_of(environment, "NB_GID") or settings.default_gid
    taken = [mount["mountPath"] for mount in mounts] + [home]
    return _Plan(
        pod=pod,
        settings=settings,
        notebook=notebook,
        home=home,
        home_mount=home_mount,
        uid=uid,
        gid=gid,
        # A notebook that starts as root goes on as another user, who has to own what is copied.
        own_uid=uid if own_uid == 0 else own_uid,
        own_gid=gid if own_uid == 0 else own_gid,
        non_root=_non_root(spec, notebook),
        data_dir=_free_path(names.DATA_DIR, taken),
        run_dir=_free_path(names.RUN_DIR, taken),
        jupyter_dir=_free_path(names.EXTENSION_DIR if settings.image_volumes else names.JUPYTER_DIR, taken),
        volumes=_free_names(_VOLUMES, [volume["name"] for volume in volumes]),
        containers=_free_names(_CONTAINERS, [container["name"] for container in containers + init_containers]),
        home_env=_home_variables(home_mount, environment),
    )


_VOLUMES = (
    names.HOME_VOLUME,
    names.DATA_VOLUME,
    names.RUN_VOLUME,
    names.STATE_VOLUME,
    names.COURSE_VOLUME,
    names.JUPYTER_VOLUME,
    names.TOKEN_VOLUME,
    names.CREDENTIALS_VOLUME,
    names.CACHE_VOLUME,
    names.IMAGE_VOLUME,
    names.EXTENSION_VOLUME,
)
_OUR_FOLDERS = (
    names.STATE_DIR,
    names.COURSE_DIR,
    names.SEED_HOME_DIR,
    names.IMAGE_DIR,
    names.CACHE_DIR,
    names.TOKEN_DIR,
    names.CREDENTIALS_DIR,
    names.JUPYTER_DIR,
)
_CONTAINERS = (names.SEED_CONTAINER, names.FETCH_CONTAINER, names.SIDECAR_CONTAINER)


def _dict(value: Any, what: str) -> Object:
    """A mapping with string keys; an absent one is empty."""
    if value is None and what != "the pod":
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise _LeftAlone(f"{what} is not an object")
    return value


def _strings(value: Any, what: str) -> dict[str, str]:
    found = _dict(value, what)
    if not all(isinstance(entry, str) for entry in found.values()):
        raise _LeftAlone(f"{what} has a value that is not a string")
    return found


def _named(value: Any, what: str) -> list[Object]:
    """A list of objects that each have a name; an absent one is empty."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise _LeftAlone(f"{what} is not a list")
    for entry in value:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise _LeftAlone(f"{what} has an entry without a name")
    return value


def _notebook(containers: Sequence[Object]) -> Object:
    """The container named `notebook`, else the one with the port `notebook-port`."""
    for container in containers:
        if container["name"] == names.NOTEBOOK_CONTAINER:
            return container
    for container in containers:
        ports = container.get("ports") or []
        if isinstance(ports, list) and any(
            isinstance(port, dict) and port.get("name") == names.NOTEBOOK_PORT for port in ports
        ):
            return container
    raise _LeftAlone(f"it has no container {names.NOTEBOOK_CONTAINER!r} and no port {names.NOTEBOOK_PORT!r}")


def _mounts(container: Object) -> list[Object]:
    mounts = _named(container.get("volumeMounts"), "volumeMounts")
    if not all(isinstance(mount.get("mountPath"), str) for mount in mounts):
        raise _LeftAlone("a volume mount of its notebook container has no path")
    return mounts


def _home(value: str) -> str:
    path = PurePosixPath(value)
    if not path.is_absolute() or path == PurePosixPath("/") or ".." in path.parts or re.search(r"[\x00:$]", value):
        raise _LeftAlone(f"{value!r} is not a usable home folder")
    return str(path)


def _covering(home: str, mounts: Sequence[Object]) -> Object | None:
    """The mount that the home is on: its own, or the nearest one above it."""
    above = [mount for mount in mounts if _within(home, mount["mountPath"])]
    return max(above, key=lambda mount: len(PurePosixPath(mount["mountPath"]).parts), default=None)


def _within(path: str, folder: str) -> bool:
    return PurePosixPath(path).is_relative_to(PurePosixPath(folder))


def _identity(spec: Object, notebook: Object) -> tuple[int | None, int | None]:
    """The user and group that the pod makes the notebook run as; None where the image decides."""
    of_container = _dict(notebook.get("securityContext"), "securityContext")
    of_pod = _dict(spec.get("securityContext"), "spec.securityContext")
    found: list[int | None] = []
    for key in ("runAsUser", "runAsGroup"):
        value = of_container.get(key) if of_container.get(key) is not None else of_pod.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31):
            raise _LeftAlone(f"its {key} is not a number")
        found.append(value)
    return found[0], found[1]


def _non_root(spec: Object, notebook: Object) -> bool:
    of_container = _dict(notebook.get("securityContext"), "securityContext").get("runAsNonRoot")
    return bool(_dict(spec.get("securityContext"), "").get("runAsNonRoot") if of_container is None else of_container)


def _number_of(environment: Sequence[Object], name: str) -> int | None:
    """A positive number that the pod gives its start script, such as NB_UID of the Docker stacks."""
    for entry in environment:
        value = entry.get("value")
        if entry["name"] == name and value and re.fullmatch(r"[1-9][0-9]{0,8}", value):
            return int(value)
    return None


def _free_path(wanted: str, taken: Collection[str]) -> str:
    """The wanted path, or the same below another folder where the notebook has a mount there, above or below.

    Two mounts at one path are refused by the API server, and nothing can be mounted inside of a read-only one.
    """
    path = wanted
    for number in range(1, len(taken) + 2):
        if not any(_within(other, path) or _within(path, other) for other in taken):
            break
        path = f"/datamount-{number}{wanted}"
    return path


def _free_names(wanted: Sequence[str], taken: Collection[str]) -> dict[str, str]:
    """For each name itself, or with a number where the pod has something of that name."""
    found = {}
    for name in wanted:
        free, number = name, 1
        while free in taken:
            number += 1
            free = f"{name}-{number}"
        found[name] = free
    return found


def _home_variables(mount: Object | None, environment: Sequence[Object]) -> list[Object]:
    """The notebook's variables that its home mount's subPathExpr names: our containers need them to mount the same."""
    expression = mount.get("subPathExpr") if mount else None
    if expression is None:
        return []
    if not isinstance(expression, str):
        raise _LeftAlone("the path of its home volume is not a string")
    found = []
    for name in _REFERENCE.findall(expression):
        entry = next((entry for entry in reversed(environment) if entry["name"] == name), None)
        if entry is None or not _is_plain(entry):
            raise _LeftAlone(f"its home volume's path needs the variable {name}")
        found.append(entry)
    return found


def _is_plain(entry: Object) -> bool:
    """Whether a variable means the same in another container: a literal, or a field of the pod."""
    if entry.get("value") is not None:
        return not _REFERENCE.search(entry["value"])
    return "fieldRef" in _dict(entry.get("valueFrom"), "valueFrom")


# --- Writing ------------------------------------------------------------------------------------------------------


def _apply(plan: _Plan) -> Object:
    pod = copy.deepcopy(plan.pod)
    metadata = _child(pod, "metadata")
    _child(metadata, "annotations")[names.ANNOTATION_STATUS] = names.STATUS_INJECTED
    spec = _child(pod, "spec")
    containers: list[Object] = spec["containers"]
    notebook = next(c for c in containers if c["name"] == plan.notebook["name"])
    _equip_notebook(plan, notebook)
    init_containers = _items(spec, "initContainers")
    if not plan.settings.image_volumes:
        init_containers.append(_seed(plan))
    init_containers.append(_fetch(plan))
    sidecar = _sidecar(plan)
    # After the notebook: KubeSpawner looks for its port in the containers in order, and stops at one without ports.
    (init_containers if plan.settings.native_sidecar else containers).append(sidecar)
    _items(spec, "volumes").extend(_new_volumes(plan))
    return pod


def _child(parent: Object, key: str) -> Object:
    if parent.get(key) is None:
        parent[key] = {}
    found: Object = parent[key]
    return found


def _items(parent: Object, key: str) -> list[Object]:
    if parent.get(key) is None:
        parent[key] = []
    found: list[Object] = parent[key]
    return found


def _equip_notebook(plan: _Plan, notebook: Object) -> None:
    """Mounts and static variables, the only things a notebook gets."""
    mounts = _items(notebook, "volumeMounts")
    if plan.home_mount is None:
        mounts.append(_mount(plan, names.HOME_VOLUME, plan.home))
    mounts.append(_mount(plan, names.DATA_VOLUME, plan.data_dir, read_only=True))
    # Read-only too: what the sidecar writes there must not lead elsewhere by a link that student code has put down.
    mounts.append(_mount(plan, names.RUN_VOLUME, plan.run_dir, read_only=True))
    extension = names.EXTENSION_VOLUME if plan.settings.image_volumes else names.JUPYTER_VOLUME
    mounts.append(_mount(plan, extension, plan.jupyter_dir, read_only=True))
    environment = _items(notebook, "env")
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


def _mount(plan: _Plan, volume: str, path: str, *, read_only: bool = False) -> Object:
    mount: Object = {"name": plan.volumes[volume], "mountPath": path}
    if read_only:
        mount["readOnly"] = True
    return mount


def _home_mount(plan: _Plan) -> Object:
    """The home, at the notebook's own path."""
    if plan.home_mount is None:
        return _mount(plan, names.HOME_VOLUME, plan.home)
    return copy.deepcopy(plan.home_mount)


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


def _seed(plan: _Plan) -> Object:
    """The notebook's own image, as the notebook's own user.

    Where only the image knows its user, runAsNonRoot is set as the notebook has it: a user given by name would keep
    the container, and so the pod, from starting.
    """
    volume = names.SEED_HOME_DIR
    if plan.home_mount is None:
        mode, mount = "copy", _mount(plan, names.HOME_VOLUME, volume)
    else:
        mode, mount = "kept", _home_mount(plan) | {"mountPath": volume, "readOnly": True}
        below = PurePosixPath(plan.home).relative_to(PurePosixPath(plan.home_mount["mountPath"]))
        volume = str(PurePosixPath(volume) / below)
    container: Object = {"name": plan.containers[names.SEED_CONTAINER], "image": plan.notebook["image"]}
    if plan.notebook.get("imagePullPolicy"):
        container["imagePullPolicy"] = plan.notebook["imagePullPolicy"]
    script = ["/bin/sh", "-c", SEED_SCRIPT, names.SEED_CONTAINER]
    container["command"] = [*script, plan.home, mode, volume, names.COURSE_DIR]
    if plan.home_env:
        container["env"] = copy.deepcopy(list(plan.home_env))
    container["resources"] = plan.settings.seed_resources.spec()
    container["securityContext"] = _restricted(
        plan.own_uid, plan.own_gid, non_root=plan.non_root or plan.own_uid is not None
    )
    container["volumeMounts"] = [mount, _mount(plan, names.COURSE_VOLUME, names.COURSE_DIR)]
    return container


def _fetch(plan: _Plan) -> Object:
    container = _ours(plan, names.FETCH_CONTAINER, "fetch", plan.settings.fetch_resources)
    if plan.settings.image_volumes:
        container["volumeMounts"].append(_mount(plan, names.IMAGE_VOLUME, names.IMAGE_DIR, read_only=True))
    else:
        container["volumeMounts"].append(_mount(plan, names.JUPYTER_VOLUME, names.JUPYTER_DIR))
    return container


def _sidecar(plan: _Plan) -> Object:
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


def _ours(plan: _Plan, name: str, subcommand: str, resources: Resources) -> Object:
    """A container of our image: it has the token, and nothing of it is seen by the notebook."""
    settings = plan.settings
    container: Object = {
        "name": plan.containers[name],
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": [*settings.command, subcommand],
        "env": _variables(plan),
    }
    if settings.store_secret:
        container["envFrom"] = [{"secretRef": {"name": settings.store_secret, "optional": True}}]
    container["resources"] = resources.spec()
    container["securityContext"] = _restricted(plan.uid, plan.gid, non_root=True)
    mounts = [
        _home_mount(plan),
        _mount(plan, names.DATA_VOLUME, plan.data_dir),
        _mount(plan, names.RUN_VOLUME, plan.run_dir),
        _mount(plan, names.STATE_VOLUME, names.STATE_DIR),
        _mount(plan, names.COURSE_VOLUME, names.COURSE_DIR, read_only=not settings.image_volumes),
    ]
    if settings.controller_url:
        mounts.append(_mount(plan, names.TOKEN_VOLUME, names.TOKEN_DIR, read_only=True))
    if settings.credentials_secret:
        mounts.append(_mount(plan, names.CREDENTIALS_VOLUME, names.CREDENTIALS_DIR, read_only=True))
    if settings.cache_host_path:
        mounts.append(_mount(plan, names.CACHE_VOLUME, names.CACHE_DIR))
    container["volumeMounts"] = mounts
    return container


def _variables(plan: _Plan) -> list[Object]:
    """The variables of fetch and sidecar: places, settings, and what the pod says about itself. No secret."""
    settings = plan.settings
    given = dict(settings.environment)
    # A container's root is read-only and its user may have no entry in /etc/passwd.
    given |= {"HOME": names.STATE_DIR, "TMPDIR": names.TEMPORARY_DIR}
    given |= {names.ENV_FOLDER: plan.home, names.ENV_DATA: plan.data_dir, names.ENV_RUN: plan.run_dir}
    if plan.home_mount is not None:
        given[names.ENV_FOLDER_KEPT] = "1"
    if settings.image_volumes:
        given[names.ENV_SEED_IMAGE_DIR] = names.IMAGE_DIR
    else:
        given[names.ENV_JUPYTER_DIR] = names.JUPYTER_DIR
    given[names.ENV_FETCH_SECONDS] = f"{settings.fetch_seconds:g}"
    given[names.ENV_IMAGE] = plan.notebook["image"]
    given |= _course(plan.notebook)
    if settings.controller_url:
        given[names.ENV_CONTROLLER] = settings.controller_url
        given[names.ENV_TOKEN_FILE] = f"{names.TOKEN_DIR}/token"
        if settings.ca_config_map:
            given[names.ENV_CA_FILE] = f"{names.TOKEN_DIR}/ca.crt"
    elif settings.store:
        given[names.ENV_STORE] = settings.store
        if settings.store_endpoint_url:
            given[names.ENV_STORE_ENDPOINT] = settings.store_endpoint_url
    if settings.credentials_secret:
        given[names.ENV_CREDENTIALS] = f"{names.CREDENTIALS_DIR}/credentials.yaml"
    if settings.cache_host_path:
        given[names.ENV_CACHE] = names.CACHE_DIR
    if settings.allow_local_files:
        given[names.ENV_ALLOW_LOCAL_FILES] = "1"
    if settings.allow_addresses:
        given[names.ENV_ALLOW_ADDRESSES] = ",".join(settings.allow_addresses)
    if settings.trusted_endpoints:
        given[names.ENV_TRUSTED_ENDPOINTS] = ",".join(settings.trusted_endpoints)
    variables: list[Object] = copy.deepcopy(list(plan.home_env))
    taken = {entry["name"] for entry in variables}
    variables += [{"name": name, "value": value} for name, value in given.items() if name not in taken]
    for name, path in (
        (names.ENV_POD_NAME, "metadata.name"),
        (names.ENV_POD_NAMESPACE, "metadata.namespace"),
        (names.ENV_POD_UID, "metadata.uid"),
        (names.ENV_OWNER, f"metadata.annotations['{names.ANNOTATION_USERNAME}']"),
    ):
        variables.append({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}})
    return variables


def _course(notebook: Object) -> dict[str, str]:
    """Which course this is, as the pod itself says: forgeable, so it decides nothing about rights."""
    given = {entry["name"]: entry.get("value") for entry in notebook.get("env") or ()}
    found = {}
    if given.get("BINDER_REPO_URL"):
        found[names.ENV_COURSE_URL] = given["BINDER_REPO_URL"]
    reference = given.get("BINDER_PERSISTENT_REQUEST") or given.get("BINDER_REF_URL") or ""
    if reference.rpartition("/")[2]:
        found[names.ENV_COURSE_REF] = reference.rpartition("/")[2]
    return found


def _new_volumes(plan: _Plan) -> list[Object]:
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
